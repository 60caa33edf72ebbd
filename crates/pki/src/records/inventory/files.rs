//! The database file, and the files that SQLite creates next to it.

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use crate::file_read::require_regular;
use crate::kill_point::kill_point;
use crate::store::StoreError;

/// Creates the database file if it does not exist. Checks that the database file and the files of
/// SQLite next to it are regular files, and makes them private. Otherwise another user could open
/// them and hold SQLite's locks, so that no process could write.
///
/// This function opens no existing file. In POSIX, closing a descriptor would release all locks
/// that this process has on the file, also those of another SQLite connection.
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
                // These errors are ignored: the file belongs to another user, SQLite has just
                // removed it, or the file system is read-only.
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

/// Creates an empty file with mode 0600. SQLite accepts an empty file as a new database.
fn create_private(file: &Path) -> Result<(), StoreError> {
    kill_point();
    let mut options = OpenOptions::new();
    match options.write(true).create_new(true).mode(0o600).open(file) {
        // If another process has just created the file, nothing must be done.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => created.map(drop).map_err(StoreError::io("create", file)),
    }
}
