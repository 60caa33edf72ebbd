//! The database file, and the files that SQLite creates next to it.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rustix::fs::{Mode, OFlags};

use super::error::{InventoryError, sqlite};
use crate::file_access::{self, FileAccess};
use crate::file_read::require_regular;
use crate::kill_point::kill_point;
use crate::store::{self, StoreError};

/// The suffixes that SQLite adds to the name of the database for its other files.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Makes sure that the database and SQLite's other files are regular files, and that other users
/// cannot open them. Otherwise another user could hold SQLite's locks and so block writers. A group
/// may keep read access. Returns whether the database exists.
///
/// Does not open the files for reading or writing. Under POSIX, closing a descriptor releases all
/// locks that the process holds on the file, also those of other connections.
pub(super) fn keep_private(path: &Path) -> Result<bool, InventoryError> {
    let exists = check(path)?;
    for file in [path.to_owned()].into_iter().chain(beside(path)) {
        keep_file_private(&file)?;
    }
    Ok(exists)
}

/// Returns whether there is a database that SQLite may open. Returns an error if SQLite would treat
/// the database as new. SQLite would then delete the changes in the write-ahead log.
pub(super) fn check(path: &Path) -> Result<bool, InventoryError> {
    match path.metadata() {
        Ok(metadata) if metadata.is_file() && metadata.len() == 0 => {
            Err(InventoryError::Empty(path.to_owned()))
        }
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if has_changes_beside(path) {
                return Err(InventoryError::Empty(path.to_owned()));
            }
            Ok(false)
        }
        Err(error) => Err(StoreError::io("look at", path)(error).into()),
    }
}

/// Returns an error if the database, or a file that SQLite keeps next to it, is not a regular file.
pub(super) fn require_regular_files(path: &Path) -> Result<(), StoreError> {
    for file in [path.to_owned()].into_iter().chain(beside(path)) {
        regular(&file)?;
    }
    Ok(())
}

/// Returns the metadata of a regular file. Returns `None` if the file does not exist, and an error
/// if it is not a regular file.
fn regular(file: &Path) -> Result<Option<Metadata>, StoreError> {
    let metadata = match file.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("look at", file)(error)),
    };
    require_regular(metadata.file_type()).map_err(|error| StoreError::NotRegular {
        path: file.to_owned(),
        error,
    })?;
    Ok(Some(metadata))
}

/// Whether the write-ahead log may contain changes that are not in the database file yet.
pub(super) fn has_changes_beside(path: &Path) -> bool {
    with_ending(path, "-wal")
        .metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0)
}

/// Whether SQLite's shared memory exists. A process has the database open, or was killed while it
/// had the database open.
pub(super) fn has_shared_memory(path: &Path) -> bool {
    ["-wal", "-shm"]
        .iter()
        .all(|ending| with_ending(path, ending).exists())
}

pub(super) fn beside(path: &Path) -> [PathBuf; 3] {
    BESIDE.map(|ending| with_ending(path, ending))
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut file = path.as_os_str().to_owned();
    file.push(ending);
    file.into()
}

fn keep_file_private(file: &Path) -> Result<(), StoreError> {
    let Some(metadata) = regular(file)? else {
        return Ok(());
    };
    // Read access of the group stays, because an operator has probably set it on purpose.
    if metadata.permissions().mode() & 0o037 == 0 {
        return Ok(());
    }
    match set_private(file) {
        // The mode cannot be changed if another user owns the file, or if the file system is
        // read-only. SQLite may also have just removed the file. The inventory can still be used in
        // these cases.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::NotFound
                    | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            Ok(())
        }
        changed => changed.map_err(StoreError::io("change the mode of", file)),
    }
}

/// Sets the mode 0600. Does not follow a symbolic link, because a user who can write to the
/// directory could link to a file of another user. Closing a descriptor that was opened with
/// `O_PATH` releases no locks.
fn set_private(file: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(file, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::set_permissions(path, Permissions::from_mode(0o600))
}

/// Creates a database with its tables, which only its owner may use. Writes to a temporary file,
/// and renames it to `path` when it is complete. So an empty file at `path` has lost its content.
/// If the process is killed, the temporary file may remain, but no program reads it.
pub(super) fn create(
    path: &Path,
    fill: impl FnOnce(&mut Connection) -> rusqlite::Result<()>,
) -> Result<(), InventoryError> {
    kill_point();
    let mut prefix = path.file_name().unwrap_or_default().to_owned();
    prefix.push("-new-");
    let aside = tempfile::Builder::new()
        .prefix(&prefix)
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(file_access::parent(path))
        .map_err(StoreError::io("create", path))?;
    if let Some(access) = FileAccess::inherited(file_access::parent(path), 0o600) {
        access
            .give_to(aside.as_file())
            .map_err(StoreError::io("create", path))?;
    }
    let aside = aside.into_temp_path();
    let failed = sqlite(path);
    let mut connection = Connection::open(&aside).map_err(&failed)?;
    fill(&mut connection).map_err(&failed)?;
    connection.close().map_err(|(_, error)| failed(error))?;
    kill_point();
    match aside.persist_noclobber(path) {
        // Another process has created the database first.
        Err(failure) if failure.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        placed => {
            placed.map_err(|failure| StoreError::io("create", path)(failure.error))?;
            Ok(store::sync_directory(file_access::parent(path))?)
        }
    }
}
