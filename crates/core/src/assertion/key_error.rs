//! `KeyRingError`: why assertion-signing keys cannot be used or changed.
//!
//! Messages name the file, or the command that helps.

use std::io;
use std::path::{Path, PathBuf};

use super::signing_key::SigningAlgorithm;
use crate::crypto::ProviderFailed;
use crate::directory_lock::LockError;

/// The most keys that are in use at once.
pub const MAX_KEYS: usize = 16;

/// Why keys cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyRingError {
    /// The directory holds no key that could be used.
    #[error(
        "there is no assertion-signing key in {0}; make one with: \
         countersign keys generate --dir {0} --algorithm {algorithm}",
        .directory.display()
    )]
    NoKeys {
        /// The directory.
        directory: PathBuf,
        /// The algorithm that is wanted.
        algorithm: SigningAlgorithm,
    },
    /// All keys are for another algorithm.
    #[error(
        "no assertion-signing key in {0} is for {algorithm}; make one with: \
         countersign keys generate --dir {0} --algorithm {algorithm}, or configure the other algorithm",
        .directory.display()
    )]
    OtherAlgorithm {
        /// The directory.
        directory: PathBuf,
        /// The configured algorithm.
        algorithm: SigningAlgorithm,
    },
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
    /// A file exists but cannot be parsed.
    #[error("{}: {problem}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why the content cannot be parsed.
        problem: String,
    },
    /// A new key would sign before consumers of the key set know it.
    #[error(
        "a new key must be published at least 15 minutes, and at most 366 days, before it signs"
    )]
    PublishAhead,
    /// The maximum number of keys in use is reached.
    #[error(
        "{} has {MAX_KEYS} keys in use already; revoke those that are not needed", .0.display()
    )]
    TooManyKeys(PathBuf),
    /// No key has this name.
    #[error("{} has no key {kid}", .directory.display())]
    UnknownKey {
        /// The directory of the keys.
        directory: PathBuf,
        /// The name asked for.
        kid: String,
    },
    /// The key is the only usable one: without it nothing could be signed.
    #[error(
        "{kid} is the only usable {algorithm} key: without it no assertion can be signed; \
         rotate first, or insist with --force"
    )]
    OnlyKey {
        /// The key.
        kid: String,
        /// The algorithm of the key.
        algorithm: SigningAlgorithm,
    },
    /// The directory cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The key could not be generated.
    #[error("cannot make a key: {0}")]
    Generate(#[from] ProviderFailed),
}

impl KeyRingError {
    pub(super) fn io(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { act, path, error }
    }

    pub(super) fn malformed(path: &Path, problem: impl ToString) -> Self {
        Self::Malformed {
            path: path.to_owned(),
            problem: problem.to_string(),
        }
    }

    pub(super) fn is_missing_file(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }
}
