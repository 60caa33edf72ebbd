//! Files of an authority: safe names, exclusive creation, durable replacement.
//!
//! A file is written aside with its final mode, synced, put in place in one
//! step, and its directory synced, so that readers and crashes see the old
//! content or the new one, never a part. Operations on several files are
//! `transaction`s. Nothing here knows about certificates.
//!
//! - `key`: private keys as PKCS#8 files

pub(crate) mod key;

use std::fmt;
use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tempfile::TempPath;

use crate::directory_lock::LockError;
use crate::file_read;
use crate::identity::text::printable;
use crate::kill_point::kill_point;

/// Largest file that is read: no certificate, key or list of names is larger.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// The prefix of the names of files that are written aside.
pub(crate) const ASIDE_PREFIX: &str = ".countersign-pki-";

/// Why an operation on a file failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file of that name exists already.
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
    /// Something else than a file is in its place.
    #[error("cannot use {}: {error}; put the file there that belongs there", .path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// The file is larger than anything this program would have written.
    #[error("{} is larger than {MAX_FILE} bytes", .0.display())]
    TooLarge(PathBuf),
    /// The directory cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
}

impl StoreError {
    pub(crate) fn io(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
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
    /// Returns the name for a renewed certificate that has none.
    pub(crate) fn renewed() -> Self {
        Self("renewed".to_owned())
    }

    /// Returns the name.
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
        // Refuses a leading '-' (an option) and '.' (hidden, or "..").
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
pub(crate) enum Audience {
    /// The owner alone: mode 0600.
    Owner,
    /// Everybody, as far as the process's umask allows: mode 0644.
    Public,
}

/// The action if the file exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Existing {
    Refuse,
    Replace,
}

/// Reads a whole file of the authority's, which is a regular one.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    file_read::read_regular(path, MAX_FILE).map_err(unread(path))
}

/// Reads a whole file that an operator named, or a pipe.
pub(crate) fn read_named(path: &Path) -> Result<Vec<u8>, StoreError> {
    file_read::read_named(path, MAX_FILE).map_err(unread(path))
}

fn unread(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |error| match error.kind() {
        io::ErrorKind::FileTooLarge => StoreError::TooLarge(path),
        _ if file_read::is_not_regular(&error) => StoreError::NotRegular { path, error },
        _ => StoreError::io("read", &path)(error),
    }
}

/// Writes a file as a whole or not at all. A process that is killed may leave a file
/// `.countersign-pki-…` next to it, which is never read. No directory of an authority is written to
/// in this way.
pub(crate) fn write(
    path: &Path,
    content: &[u8],
    audience: Audience,
    existing: Existing,
) -> Result<(), StoreError> {
    Staged::new(path, content, audience, existing)?.place()
}

/// A file that is written and synced, but not yet in its place. Dropping this removes it. Errors by
/// a full disk or missing rights have been reported by then.
#[derive(Debug)]
pub(crate) struct Staged {
    aside: TempPath,
    path: PathBuf,
    existing: Existing,
}

impl Staged {
    pub(crate) fn new(
        path: &Path,
        content: &[u8],
        audience: Audience,
        existing: Existing,
    ) -> Result<Self, StoreError> {
        Self::written(path, content, audience, existing, ASIDE_PREFIX, true)
    }

    /// Writes a file under a name that begins with `prefix`. Without `sync` it is not durable yet.
    pub(crate) fn written(
        path: &Path,
        content: &[u8],
        audience: Audience,
        existing: Existing,
        prefix: &str,
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
        kill_point();
        let mut aside = tempfile::Builder::new()
            .prefix(prefix)
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(parent(path))
            .map_err(StoreError::io("create", path))?;
        kill_point();
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

    pub(crate) fn place(self) -> Result<(), StoreError> {
        kill_point();
        rename_into_place(self.aside, &self.path, self.existing).map_err(|(_, error)| error)?;
        kill_point();
        sync_directory(parent(&self.path))
    }

    /// Returns the temporary name in its directory, until the file is put in place.
    pub(crate) fn name(&self) -> &std::ffi::OsStr {
        self.aside.file_name().unwrap_or_default()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) const fn existing(&self) -> Existing {
        self.existing
    }

    /// Leaves it aside, for [`place_unsynced`].
    pub(crate) fn leave_aside(self) {
        // Elsewhere than on Unix this could fail.
        let _ = self.aside.keep();
    }
}

/// Puts a file in its place that was written aside, without syncing its directory.
/// When that fails the file stays aside.
pub(crate) fn place_unsynced(
    aside: &Path,
    path: &Path,
    existing: Existing,
) -> Result<(), StoreError> {
    let failed = StoreError::io("rename", aside);
    let aside = TempPath::try_from_path(aside).map_err(failed)?;
    rename_into_place(aside, path, existing).map_err(|(aside, error)| {
        let _ = aside.keep();
        error
    })
}

fn rename_into_place(
    aside: TempPath,
    path: &Path,
    existing: Existing,
) -> Result<(), (TempPath, StoreError)> {
    let placed = match existing {
        Existing::Refuse => aside.persist_noclobber(path),
        Existing::Replace => aside.persist(path),
    };
    placed.map_err(|failure| {
        let error = match failure.error.kind() {
            io::ErrorKind::AlreadyExists => StoreError::Exists(path.to_owned()),
            _ => StoreError::io("create", path)(failure.error),
        };
        (failure.path, error)
    })
}

/// Makes many files durable at once, on systems where that is cheaper than one by one.
#[derive(Debug)]
pub(crate) struct Barrier {
    /// One open directory of each file system that is written to.
    systems: Vec<(PathBuf, File)>,
}

impl Barrier {
    /// Opens the directories. Must be called before anything is written, because the system reports
    /// only write errors that occur after that.
    pub(crate) fn before_writing(directories: &[PathBuf]) -> Result<Self, StoreError> {
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

    /// Waits until everything that was staged is on the disk.
    #[cfg(target_os = "linux")]
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.systems.iter().try_for_each(|(path, directory)| {
            rustix::fs::syncfs(directory)
                .map_err(|error| StoreError::io("sync the file system of", path)(error.into()))
        })
    }

    /// Whether files need not be synced one by one.
    #[cfg(target_os = "linux")]
    pub(crate) const SYNCS: bool = true;

    /// This system has no such call: each file was synced when it was written.
    #[cfg(not(target_os = "linux"))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "elsewhere it syncs"
    )]
    pub(crate) const fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) const SYNCS: bool = false;
}

/// Fails if `path` exists, even as a dangling link.
pub(crate) fn refuse_existing(path: &Path) -> Result<(), StoreError> {
    match path.symlink_metadata() {
        Ok(_) => Err(StoreError::Exists(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io("look at", path)(error)),
    }
}

/// Renames a file durably.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    kill_point();
    std::fs::rename(from, to).map_err(StoreError::io("rename", from))?;
    kill_point();
    sync_directory(parent(to))
}

/// Creates a directory and its parents, unless they exist.
pub(crate) fn create_directory(path: &Path) -> Result<(), StoreError> {
    kill_point();
    std::fs::create_dir_all(path).map_err(StoreError::io("create directory", path))
}

/// Removes a file if it exists.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    kill_point();
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Removes a directory and its content, if it exists.
pub(crate) fn remove_directory(path: &Path) -> Result<(), StoreError> {
    kill_point();
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Returns the directory that a file is in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(StoreError::io("sync directory", path))
}

/// Removes the files of a directory whose names begin with `prefix`.
pub(crate) fn sweep(directory: &Path, prefix: &str) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(prefix.as_bytes())
        {
            kill_point();
            // A failure to tidy up must not fail the command.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests;
