//! Files of an authority: safe names, exclusive creation, durable replacement,
//! one process at a time.
//!
//! A file is written aside with its final mode, synced, put in place in one
//! step, and its directory synced, so that readers and crashes see the old
//! content or the new one, never a part. This module knows nothing about
//! certificates.

use std::fmt;
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use tempfile::TempPath;

use crate::identity::text::printable;

/// Largest file that is read: no certificate, key or list of names is larger.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// How long to wait for another process to finish with the directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// How the names of files begin that are written aside.
const ASIDE_PREFIX: &str = ".countersign-pki-";

/// What could not be done with which file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file of that name is there already.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// An operation of the file system failed.
    #[error("cannot {act} {}: {error}", .path.display())]
    Io {
        /// The failed act.
        act: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// The file is larger than anything this program would have written.
    #[error("{} is larger than {MAX_FILE} bytes", .0.display())]
    TooLarge(PathBuf),
    /// Another process holds the directory.
    #[error("another countersign process is busy in {}; try again when it is done", .0.display())]
    Busy(PathBuf),
}

impl StoreError {
    pub(super) fn io(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { act, path, error }
    }
}

/// Why a text cannot name a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot name a file: use 1 to 128 letters, digits, '.', '-', '_', '@' and '+', \
     beginning with a letter, a digit or '_'"
)]
pub struct UnsafeName(pub String);

/// One file-name component that is safe on every system and in every shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafeName(String);

impl SafeName {
    /// For a renewed certificate that has no name of its own.
    pub(super) fn renewed() -> Self {
        Self("renewed".to_owned())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SafeName {
    type Err = UnsafeName;

    fn from_str(text: &str) -> Result<Self, UnsafeName> {
        let allowed = |octet: u8| {
            octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-' | b'_' | b'@' | b'+')
        };
        // No leading '-' (an option), '.' (hidden, or "..").
        let begins_well = text
            .bytes()
            .next()
            .is_some_and(|octet| octet.is_ascii_alphanumeric() || octet == b'_');
        if begins_well && text.len() <= 128 && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(UnsafeName(printable(text)))
        }
    }
}

impl fmt::Display for SafeName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// Its owner alone: mode 0600.
    Owner,
    /// Everybody, as far as the process's umask allows: mode 0644.
    Public,
}

/// What to do when the file is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    Refuse,
    Replace,
}

/// Reads a whole file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let mut content = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut content)
        .map_err(StoreError::io("read", path))?;
    if content.len() as u64 > MAX_FILE {
        return Err(StoreError::TooLarge(path.to_owned()));
    }
    Ok(content)
}

/// Writes a file so that it is there as a whole or not at all.
pub(super) fn write(
    path: &Path,
    content: &[u8],
    audience: Audience,
    existing: Existing,
) -> Result<(), StoreError> {
    Staged::new(path, content, audience, existing)?.place()
}

/// A file that is written and synced but not yet in its place. Dropping it
/// leaves no trace; what can fail for want of space or rights has not failed.
#[derive(Debug)]
pub(super) struct Staged {
    aside: TempPath,
    path: PathBuf,
    existing: Existing,
}

impl Staged {
    pub(super) fn new(
        path: &Path,
        content: &[u8],
        audience: Audience,
        existing: Existing,
    ) -> Result<Self, StoreError> {
        Self::written(path, content, audience, existing, true)
    }

    fn written(
        path: &Path,
        content: &[u8],
        audience: Audience,
        existing: Existing,
        sync: bool,
    ) -> Result<Self, StoreError> {
        // Fails early; putting it in place checks again.
        if existing == Existing::Refuse {
            refuse_existing(path)?;
        }
        let mode = match audience {
            Audience::Owner => 0o600,
            Audience::Public => 0o644,
        };
        // `tempfile` creates exclusively, with the mode from the first moment on.
        let mut aside = tempfile::Builder::new()
            .prefix(ASIDE_PREFIX)
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(parent(path))
            .map_err(StoreError::io("create", path))?;
        aside
            .write_all(content)
            .and_then(|()| match sync {
                true => aside.as_file().sync_all(),
                false => Ok(()),
            })
            .map_err(StoreError::io("write", path))?;
        Ok(Self {
            // Closed: there may be thousands of them.
            aside: aside.into_temp_path(),
            path: path.to_owned(),
            existing,
        })
    }

    pub(super) fn place(self) -> Result<(), StoreError> {
        let path = self.path.clone();
        self.place_unsynced()?;
        sync_directory(parent(&path))
    }

    /// Without syncing the directory, which the caller does once for many.
    pub(super) fn place_unsynced(self) -> Result<(), StoreError> {
        let Self {
            aside,
            path,
            existing,
        } = self;
        let placed = match existing {
            Existing::Refuse => aside.persist_noclobber(&path),
            Existing::Replace => aside.persist(&path),
        };
        placed.map_err(|failure| match failure.error.kind() {
            io::ErrorKind::AlreadyExists => StoreError::Exists(path.clone()),
            _ => StoreError::io("create", &path)(failure.error),
        })
    }
}

/// Makes many files durable at once, where that is cheaper than one by one.
#[derive(Debug)]
pub(super) struct Barrier {
    /// One directory of each file system that is written to.
    systems: Vec<(PathBuf, File)>,
}

impl Barrier {
    /// Made before anything is written: from then on the system remembers what
    /// it could not write.
    pub(super) fn before_writing(directories: &[PathBuf]) -> Result<Self, StoreError> {
        let mut devices = Vec::new();
        let mut systems = Vec::new();
        for path in directories {
            let failed = |error| StoreError::io("open", path)(error);
            let directory = File::open(path).map_err(failed)?;
            let device = directory.metadata().map_err(failed)?.dev();
            if !devices.contains(&device) {
                devices.push(device);
                systems.push((path.clone(), directory));
            }
        }
        Ok(Self { systems })
    }

    /// Writes a file aside, below one of the directories. It is durable after
    /// [`Barrier::sync`] only.
    pub(super) fn stage(
        &self,
        path: &Path,
        content: &[u8],
        audience: Audience,
        existing: Existing,
    ) -> Result<Staged, StoreError> {
        Staged::written(path, content, audience, existing, !Self::SYNCS)
    }

    /// Waits until everything that was staged is on the disk.
    #[cfg(target_os = "linux")]
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.systems.iter().try_for_each(|(path, directory)| {
            rustix::fs::syncfs(directory)
                .map_err(|error| StoreError::io("sync the file system of", path)(error.into()))
        })
    }

    #[cfg(target_os = "linux")]
    const SYNCS: bool = true;

    /// There is no such call here: each file was synced when it was written.
    #[cfg(not(target_os = "linux"))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "elsewhere it syncs"
    )]
    pub(super) const fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    const SYNCS: bool = false;
}

/// Fails when something stands at `path`, even a dangling link.
pub(super) fn refuse_existing(path: &Path) -> Result<(), StoreError> {
    match path.symlink_metadata() {
        Ok(_) => Err(StoreError::Exists(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io("look at", path)(error)),
    }
}

/// Renames a file durably.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    std::fs::rename(from, to).map_err(StoreError::io("rename", from))?;
    sync_directory(parent(to))
}

/// Creates a directory and its parents; one that is there already is fine.
pub(super) fn create_directory(path: &Path) -> Result<(), StoreError> {
    std::fs::create_dir_all(path).map_err(StoreError::io("create directory", path))
}

/// Removes a file if it is there.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Removes a directory and what is in it, if it is there.
pub(super) fn remove_directory(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// The directory that a file is in.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(StoreError::io("sync directory", path))
}

/// Removes what a killed process left written aside. Only under the lock, and
/// only where everything is written under the lock.
pub(super) fn sweep(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(ASIDE_PREFIX.as_bytes())
        {
            // Tidying up must not keep anybody from their work.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Holds a directory for one process until dropped.
#[derive(Debug)]
pub(super) struct Lock {
    /// The operating system unlocks when this is closed, however the process ends.
    _file: File,
}

impl Lock {
    /// Waits a while for the directory's lock file.
    pub(super) fn acquire(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(".lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(StoreError::Busy(directory.to_owned()));
                }
                Err(TryLockError::Error(error)) => {
                    return Err(StoreError::io("lock", &path)(error));
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "store/tests.rs"]
mod tests;
