//! The database file, and the files that SQLite creates next to it.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rustix::fs::{Mode, OFlags};

use super::error::{InventoryError, sqlite};
use crate::file_access::FileAccess;
use crate::file_read::require_regular;
use crate::kill_point::kill_point;
use crate::store::{self, StoreError};

/// The endings of the names of the files that SQLite keeps beside the database.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Makes sure that the file and those beside it are regular files for their owner alone: a
/// user who can open them can hold SQLite's locks, and so keep others from writing. Returns
/// whether there is a file.
///
/// Works on paths, because closing a descriptor gives up all locks that this process
/// holds on the file, those of its other connections too (POSIX).
pub(super) fn keep_private(path: &Path) -> Result<bool, InventoryError> {
    let exists = check(path)?;
    for file in [path.to_owned()].into_iter().chain(beside(path)) {
        keep_file_private(&file)?;
    }
    Ok(exists)
}

/// Returns whether there is a database that SQLite may open. Refuses what it would take for a
/// new database: it would then remove the changes that are beside it.
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

/// Refuses what is not a regular file in place of the database or of a file beside it.
pub(super) fn require_regular_files(path: &Path) -> Result<(), StoreError> {
    for file in [path.to_owned()].into_iter().chain(beside(path)) {
        regular(&file)?;
    }
    Ok(())
}

/// Returns the metadata of a regular file. None if there is no file.
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

/// Whether there are changes beside the database that are not in it yet.
pub(super) fn has_changes_beside(path: &Path) -> bool {
    with_ending(path, "-wal")
        .metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0)
}

/// Whether a process has the database open, or was killed while it had.
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
    // A group that may read was given that right on purpose.
    if metadata.permissions().mode() & 0o037 == 0 {
        return Ok(());
    }
    match set_private(file) {
        // Another user's file; one that SQLite has just removed; or a file system
        // that is only read.
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

/// Sets mode 0600. Follows no symbolic link, because a user who can write to the directory
/// could choose another user's file with it. A descriptor that was opened with `O_PATH` gives up no lock.
fn set_private(file: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(file, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::set_permissions(path, Permissions::from_mode(0o600))
}

/// Creates a database with its tables, for its owner alone. It appears in its place complete, so
/// that an empty file there has lost its content. A process that is killed meanwhile may leave
/// a file whose name begins with that of the database, and which is never read.
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
        .tempfile_in(store::parent(path))
        .map_err(StoreError::io("create", path))?;
    if let Some(access) = FileAccess::inherited(store::parent(path), 0o600) {
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
        // Another process was faster.
        Err(failure) if failure.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        placed => {
            placed.map_err(|failure| StoreError::io("create", path)(failure.error))?;
            Ok(store::sync_directory(store::parent(path))?)
        }
    }
}
