//! Reads and writes single files of an authority: safe names, exclusive creation, durable
//! replacement.
//!
//! A new file is first written to a temporary file with its final mode, and synced. Then it is
//! renamed to its final path, and the directory is synced. So readers see either the complete old
//! or the complete new content, even after a crash. To change several files together, use a
//! `transaction`. This module knows nothing about certificates.
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
use crate::file_access::{self, FileAccess};
use crate::file_read;
use crate::identity::text::printable;
use crate::kill_point::kill_point;

/// Maximum size in bytes of a file that is read. Every certificate, key and list of names is
/// smaller.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// The names of all temporary files begin with this prefix.
pub(crate) const ASIDE_PREFIX: &str = ".countersign-pki-";

/// The reason why an operation on a file failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file at this path already exists and must not be replaced.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// An operation of the file system failed.
    #[error("cannot {act} {}: {error}", .path.display())]
    Io {
        /// A verb that names the operation, for example `rename`.
        act: &'static str,
        /// The path of the file or directory.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The path leads to something that is not a regular file, for example a named pipe.
    #[error("cannot use {}: {error}; put the file there that belongs there", .path.display())]
    NotRegular {
        /// The path that was opened.
        path: PathBuf,
        /// A description of what the path leads to.
        error: io::Error,
    },
    /// The file is larger than 64 MiB.
    #[error("{} is larger than {MAX_FILE} bytes", .0.display())]
    TooLarge(PathBuf),
    /// The authority's directory cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
}

impl StoreError {
    pub(crate) fn io(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { act, path, error }
    }
}

/// The error for a text that is not a [`SafeName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot name a file: use 1 to 128 letters, digits, '.', '-', '_', '@' and '+', \
     beginning with a letter, a digit or '_'"
)]
pub struct UnsafeName(pub String);

/// A file name without characters that a file system or a shell treats specially.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafeName(String);

impl SafeName {
    /// Returns the label for a renewed certificate if neither its common name nor its file name is
    /// a safe name.
    pub(crate) fn renewed() -> Self {
        Self("renewed".to_owned())
    }

    /// Returns the file name as text.
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
        // A name that begins with `-` could be read as an option. A name that begins with `.` is a
        // hidden file, or the directory `..`.
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

/// Which users may read a file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Only the owner may read it (mode 0600).
    Owner,
    /// All users may read it (mode 0644), unless the umask of the process forbids this.
    Public,
}

impl Audience {
    /// Returns the mode of a new file.
    const fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Public => 0o644,
        }
    }
}

/// The action if the file exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Existing {
    Refuse,
    Replace,
}

/// Reads a file of the authority completely. It must be a regular file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    file_read::read_regular(path, MAX_FILE).map_err(unread(path))
}

/// Reads a file completely. The operator gave its path, and the file may be a pipe.
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

/// Writes a file completely, or not at all. If the process is killed, a temporary file
/// `.countersign-pki-…` may remain next to it. No program reads this file. Changes in an
/// authority's directory use a transaction instead, which leaves no temporary file.
pub(crate) fn write(
    path: &Path,
    content: &[u8],
    audience: Audience,
    existing: Existing,
) -> Result<(), StoreError> {
    Staged::new(path, content, audience, existing)?.place()
}

/// A temporary file with new content that is not renamed to its final path yet. If the value is
/// dropped, the temporary file is removed. Errors such as a full disk come when the temporary file
/// is written, so the rename rarely fails.
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

    /// Same as [`Self::written`]. But if root runs this program, a new file gets the owner of the
    /// directory.
    pub(crate) fn written_at_home(
        path: &Path,
        content: &[u8],
        audience: Audience,
        existing: Existing,
        prefix: &str,
        sync: bool,
    ) -> Result<Self, StoreError> {
        let inherited = FileAccess::inherited(file_access::parent(path), audience.mode());
        Self::written_for(path, content, audience, inherited, existing, prefix, sync)
    }

    /// Writes `content` to a temporary file whose name begins with `prefix`. If `sync` is false,
    /// the file is not durable yet.
    pub(crate) fn written(
        path: &Path,
        content: &[u8],
        audience: Audience,
        existing: Existing,
        prefix: &str,
        sync: bool,
    ) -> Result<Self, StoreError> {
        Self::written_for(path, content, audience, None, existing, prefix, sync)
    }

    /// Writes the temporary file. If it will replace a file, it gets the owner, group and mode of
    /// that file, within the limits of `audience`. Otherwise it gets the access `new`.
    fn written_for(
        path: &Path,
        content: &[u8],
        audience: Audience,
        new: Option<FileAccess>,
        existing: Existing,
        prefix: &str,
        sync: bool,
    ) -> Result<Self, StoreError> {
        // Fails before anything is written. The rename checks this again.
        if existing == Existing::Refuse {
            refuse_existing(path)?;
        }
        let replaced = match existing {
            Existing::Refuse => None,
            Existing::Replace => match audience {
                Audience::Owner => FileAccess::of_secret(path),
                Audience::Public => FileAccess::of(path),
            }
            .map_err(StoreError::io("look at", path))?,
        };
        let access = replaced.map(|access| match audience {
            Audience::Owner => access.private(),
            Audience::Public => access.public(),
        });
        // `tempfile` creates a new file and sets its mode at the same time. So other users can
        // never open a private file.
        kill_point();
        let mut aside = tempfile::Builder::new()
            .prefix(prefix)
            .permissions(Permissions::from_mode(audience.mode()))
            .tempfile_in(file_access::parent(path))
            .map_err(StoreError::io("create", path))?;
        kill_point();
        if let Some(access) = access.or(new) {
            access
                .give_to(aside.as_file())
                .map_err(StoreError::io("replace", path))?;
        }
        aside
            .write_all(content)
            .and_then(|()| match sync {
                true => aside.as_file().sync_all(),
                false => Ok(()),
            })
            .map_err(StoreError::io("write", path))?;
        Ok(Self {
            // The file is closed now, because a transaction can have thousands of temporary files.
            aside: aside.into_temp_path(),
            path: path.to_owned(),
            existing,
        })
    }

    pub(crate) fn place(self) -> Result<(), StoreError> {
        kill_point();
        rename_into_place(self.aside, &self.path, self.existing).map_err(|(_, error)| error)?;
        kill_point();
        sync_directory(file_access::parent(&self.path))
    }

    /// Returns the file name of the temporary file.
    pub(crate) fn name(&self) -> &std::ffi::OsStr {
        self.aside.file_name().unwrap_or_default()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) const fn existing(&self) -> Existing {
        self.existing
    }

    /// Keeps the temporary file when the value is dropped. [`place_unsynced`] can rename the file
    /// afterwards.
    pub(crate) fn leave_aside(self) {
        // `keep` cannot fail on Unix.
        let _ = self.aside.keep();
    }
}

/// Renames a temporary file to its final path. Does not sync the directory. If the rename fails,
/// the temporary file stays.
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

/// Makes many files durable with one call for each file system. On Linux, this is faster than a
/// sync of each file.
#[derive(Debug)]
pub(crate) struct Barrier {
    /// One open directory on each file system to which files are written, with its path.
    systems: Vec<(PathBuf, File)>,
}

impl Barrier {
    /// Opens the directories. Call this function before the files are written. If a write fails
    /// before the directory is opened, [`Self::sync`] does not report this error.
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

    /// Waits until all files that were written are on the disk.
    #[cfg(target_os = "linux")]
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.systems.iter().try_for_each(|(path, directory)| {
            rustix::fs::syncfs(directory)
                .map_err(|error| StoreError::io("sync the file system of", path)(error.into()))
        })
    }

    /// Whether [`Self::sync`] makes files durable. If not, each file must be synced when it is
    /// written.
    #[cfg(target_os = "linux")]
    pub(crate) const SYNCS: bool = true;

    /// Does nothing, because only Linux can make all files durable with one call. Each file was
    /// synced when it was written.
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

/// Sets the mode of a file to 0600: its owner may read and write it, and other users may not.
pub(crate) fn make_private(path: &Path) -> Result<(), StoreError> {
    std::fs::set_permissions(path, Permissions::from_mode(0o600))
        .map_err(StoreError::io("change the mode of", path))
}

/// Fails if `path` exists, even as a dangling link.
pub(crate) fn refuse_existing(path: &Path) -> Result<(), StoreError> {
    match path.symlink_metadata() {
        Ok(_) => Err(StoreError::Exists(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io("look at", path)(error)),
    }
}

/// Same as [`read`], but returns `None` if the file does not exist.
pub(crate) fn read_if_present(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match read(path) {
        Err(StoreError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        content => content.map(Some),
    }
}

/// Renames a file or directory, and syncs the directory of the new path.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    kill_point();
    std::fs::rename(from, to).map_err(StoreError::io("rename", from))?;
    kill_point();
    sync_directory(file_access::parent(to))
}

/// Creates a directory and its parents, unless they exist. If root runs this program, a new
/// directory gets the owner of its parent directory.
pub(crate) fn create_directory(path: &Path) -> Result<(), StoreError> {
    kill_point();
    if path.is_dir() {
        return Ok(());
    }
    let parent = file_access::parent(path);
    create_directory(parent)?;
    match file_access::create_directory(path) {
        // Another process has created the directory first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        created => created.map_err(StoreError::io("create directory", path)),
    }
}

/// Removes a file, if it exists.
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

pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(StoreError::io("sync directory", path))
}

/// Removes all files in `directory` whose names begin with `prefix`. Ignores errors.
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
            // A temporary file that remains does no harm, so the command must not fail.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests;
