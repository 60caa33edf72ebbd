//! `Secret`: bytes that are never printed, and that are wiped on drop. [`write_private`] writes
//! such bytes to a file.
//!
//! A `Secret` contains a private key, a passphrase or a token. Only [`Secret::expose`] returns the
//! content, so all uses of the content are easy to find.

use std::fmt;
use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use zeroize::Zeroizing;

use crate::descriptors::open_with_spare;
use crate::file_access::{self, FileAccess};
use crate::kill_point::kill_point;

/// Secret bytes. `Debug` prints no content, there is no `Display` or `Serialize`, and the bytes are
/// zeroized on drop.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes ownership of secret bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the secret bytes. Keep the borrow short, and never log the bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text.into_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(redacted)")
    }
}

/// What happens if the file to be written already exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Keeps the existing file and returns an error.
    Refuse,
    /// Replaces the existing file.
    Replace,
}

/// Writes a file that only its owner can read. The file is written completely or not at all.
///
/// A new temporary file with mode 0600 is created in the same directory. It is written, synced and
/// renamed to `path`. Then the directory is synced.
///
/// # Errors
/// Returns [`io::ErrorKind::AlreadyExists`] if the file exists and `existing` is
/// [`Existing::Refuse`]. Otherwise returns the error of the file system.
pub fn write_private(path: &Path, content: &[u8], existing: Existing) -> io::Result<()> {
    write_private_by(path, content, existing, ".countersign-")
}

/// Does the same as [`write_private`] with a temporary file name that begins with `prefix`. If a
/// process is killed, the prefix identifies the temporary file that the process left.
///
/// # Errors
/// Returns the same errors as [`write_private`].
pub fn write_private_by(
    path: &Path,
    content: &[u8],
    existing: Existing,
    prefix: &str,
) -> io::Result<()> {
    write_private_with(path, content, existing, prefix, None)
}

/// Does the same as [`write_private_by`]. If `access` is not `None`, the file gets this owner,
/// group and mode, limited by [`FileAccess::private`].
///
/// # Errors
/// Returns the same errors as [`write_private`] and [`FileAccess::give_to`].
pub fn write_private_with(
    path: &Path,
    content: &[u8],
    existing: Existing,
    prefix: &str,
    access: Option<FileAccess>,
) -> io::Result<()> {
    let directory = file_access::parent(path);
    // `tempfile` removes the temporary file on every early return.
    let create = || {
        tempfile::Builder::new()
            .prefix(prefix)
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(directory)
    };
    let mut aside = open_with_spare(create)?;
    kill_point();
    if let Some(access) = access {
        access.private().give_to(aside.as_file())?;
    }
    aside.write_all(content)?;
    aside.as_file().sync_all()?;
    kill_point();
    match existing {
        Existing::Refuse => aside.persist_noclobber(path),
        Existing::Replace => aside.persist(path),
    }
    .map_err(|failure| failure.error)?;
    kill_point();
    open_with_spare(|| File::open(directory))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_files_are_private_and_not_overwritten_unasked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.key");
        write_private(&path, b"one", Existing::Refuse).unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = write_private(&path, b"two", Existing::Refuse).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        write_private(&path, b"two", Existing::Replace).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(
            format!("{:?}", Secret::from("hunter2".to_owned())),
            "Secret(redacted)"
        );
    }
}
