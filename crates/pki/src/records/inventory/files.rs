//! The inventory's file and those that SQLite keeps beside it.

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use crate::file_read::require_regular;
use crate::kill_point::kill_point;
use crate::store::StoreError;

/// Creates the file if it is missing, and makes sure that it and those beside it are
/// regular files for their owner alone: a user who can open them can hold SQLite's
/// locks, and so keep others from writing.
///
/// Works on paths, because closing a descriptor gives up all locks that this process
/// holds on the file, those of its other connections too (POSIX).
pub(super) fn keep_private(path: &Path) -> Result<(), StoreError> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        let file = Path::new(&file);
        let metadata = match file.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if suffix.is_empty() {
                    create_private(file)?;
                }
                continue;
            }
            Err(error) => return Err(StoreError::io("look at", file)(error)),
        };
        require_regular(metadata.file_type()).map_err(|error| StoreError::NotRegular {
            path: file.to_owned(),
            error,
        })?;
        if metadata.permissions().mode() & 0o077 != 0 {
            match std::fs::set_permissions(file, Permissions::from_mode(0o600)) {
                // Another user's file; one that SQLite has just removed; or a file system
                // that is only read.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::PermissionDenied
                            | io::ErrorKind::NotFound
                            | io::ErrorKind::ReadOnlyFilesystem
                    ) => {}
                changed => changed.map_err(StoreError::io("change the mode of", file))?,
            }
        }
    }
    Ok(())
}

/// Creates an empty private file, which SQLite accepts as a new database.
fn create_private(file: &Path) -> Result<(), StoreError> {
    kill_point();
    let mut options = OpenOptions::new();
    match options.write(true).create_new(true).mode(0o600).open(file) {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => created.map(drop).map_err(StoreError::io("create", file)),
    }
}
