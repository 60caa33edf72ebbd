//! `KeyRingError`: why assertion-signing keys cannot be used or changed.
//!
//! Each message names the file, or a command that helps.

use std::io;
use std::path::{Path, PathBuf};

use super::signing_key::SigningAlgorithm;
use crate::crypto::ProviderFailed;
use crate::directory_lock::LockError;

/// Maximum number of keys of a directory that are in use at the same time.
pub const MAX_KEYS: usize = 16;

/// The reason why assertion-signing keys cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyRingError {
    /// The directory contains no usable key.
    #[error(
        "there is no assertion-signing key in {0}; make one with: \
         countersign keys generate --dir {0} --algorithm {algorithm}",
        .directory.display()
    )]
    NoKeys {
        /// The directory of the keys.
        directory: PathBuf,
        /// The algorithm that the message suggests for a new key.
        algorithm: SigningAlgorithm,
    },
    /// The directory contains keys, but none of the configured algorithm.
    #[error(
        "no assertion-signing key in {0} is for {algorithm}; make one with: \
         countersign keys generate --dir {0} --algorithm {algorithm}, or configure the other algorithm",
        .directory.display()
    )]
    OtherAlgorithm {
        /// The directory of the keys.
        directory: PathBuf,
        /// The configured algorithm.
        algorithm: SigningAlgorithm,
    },
    /// An operation of the file system failed.
    #[error("cannot {act} {}: {error}", .path.display())]
    Io {
        /// The operation that failed, as a verb for the message.
        act: &'static str,
        /// The file or directory of the operation.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The path exists, but is not a regular file.
    #[error("cannot use {}: {error}; put the file there that belongs there", .path.display())]
    NotRegular {
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// A file exists but cannot be parsed.
    #[error("{}: {problem}", .path.display())]
    Malformed {
        /// The path of the file.
        path: PathBuf,
        /// Describes why the content cannot be parsed.
        problem: String,
    },
    /// The time until the new key signs is too short or too long. If it is too short, consumers may
    /// not know the key in time.
    #[error(
        "a new key must be published at least 15 minutes, and at most 366 days, before it signs"
    )]
    PublishAhead,
    /// The maximum number of keys in use is reached.
    #[error(
        "{} has {MAX_KEYS} keys in use already; revoke those that are not needed", .0.display()
    )]
    TooManyKeys(PathBuf),
    /// The directory has no key with this identifier.
    #[error("{} has no key {kid}", .directory.display())]
    UnknownKey {
        /// The directory of the keys.
        directory: PathBuf,
        /// The key identifier in the command.
        kid: String,
    },
    /// The key to revoke is the only usable key of its algorithm. Without it, no assertion could be
    /// signed.
    #[error(
        "{kid} is the only usable {algorithm} key: without it no assertion can be signed; \
         rotate first, or insist with --force"
    )]
    OnlyKey {
        /// The identifier of the key.
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
