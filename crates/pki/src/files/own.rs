//! The files that only an authority itself writes. Certificates of leaves and exports never
//! replace them.

use std::ffi::OsStr;
use std::path::Path;

use super::error::PkiError;
use super::layout::{Layout, Scope};
use crate::store;

/// The folders of an authority whose files only the authority writes.
const FOLDERS: [&str; 5] = ["crl", "earlier", "next", "pending", "retired"];

/// Refuses a path that belongs to an authority: the one in use or another. Links to its
/// directory are followed, because the path counts and not its spelling.
pub(crate) fn refuse_own(path: &Path) -> Result<(), PkiError> {
    // If the directory does not exist, writing says so.
    let Ok(folder) = store::parent(path).canonicalize() else {
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

/// Whether a file directly in an authority's directory is the authority's. Some file systems
/// ignore the case of letters.
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
    // Beside its database SQLite keeps others, whose names begin with the same words.
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
