//! Protects the files that only an authority itself writes. Certificates of leaves and exports
//! never replace these files.

use std::ffi::OsStr;
use std::path::Path;

use super::error::PkiError;
use super::layout::{Layout, Scope};
use crate::file_access;

/// The directories in which only the authority itself writes files.
const FOLDERS: [&str; 5] = ["crl", "earlier", "next", "pending", "retired"];

/// Returns an error if only an authority itself may write to `path`. Checks every directory above
/// `path` for an authority. Symbolic links are resolved first, so the result does not depend on the
/// spelling of the path.
pub(crate) fn refuse_own(path: &Path) -> Result<(), PkiError> {
    // If the directory does not exist, the later write reports the error.
    let Ok(folder) = file_access::parent(path).canonicalize() else {
        return Ok(());
    };
    let name = path.file_name().unwrap_or_default();
    for directory in folder.ancestors() {
        let layout = Layout::new(directory);
        if !layout.state().exists() {
            continue;
        }
        let below = folder.strip_prefix(directory).unwrap_or(&folder);
        let is_own = match below.components().next() {
            None => is_own_name(&layout, name),
            Some(first) => FOLDERS
                .iter()
                .any(|own| first.as_os_str().eq_ignore_ascii_case(own)),
        };
        if is_own {
            return Err(PkiError::OwnFile {
                path: path.to_owned(),
                directory: directory.to_owned(),
            });
        }
    }
    Ok(())
}

/// Whether `name` is a file that only the authority writes, directly in its directory. Ignores the
/// case of letters, because some file systems ignore it.
fn is_own_name(layout: &Layout, name: &OsStr) -> bool {
    let mut files = layout.all_fixed_files();
    files.extend([
        layout.profiles(),
        layout.inventory(),
        layout.journal(),
        layout.lock_file(),
        layout.transaction(Scope::Authority),
        layout.transaction(Scope::Leaves),
    ]);
    // SQLite creates more files next to its database. Their names begin with the name of the
    // database.
    let is_beside_inventory = name
        .to_string_lossy()
        .to_ascii_lowercase()
        .starts_with("inventory.db");
    is_beside_inventory
        || files
            .iter()
            .filter_map(|file| file.file_name())
            .any(|own| own.eq_ignore_ascii_case(name))
}
