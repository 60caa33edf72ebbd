//! `DenyEntry`: one entry of the deny list, and why one cannot be read or changed.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::target::DenyTarget;

/// Maximum number of entries. Beyond this, a revocation list is the better place.
pub(super) const MAX_ENTRIES: usize = 100_000;
/// One entry of the deny list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenyEntry {
    /// Names the entry for its removal.
    pub id: String,
    /// The certificates or callers that the entry refuses.
    pub target: DenyTarget,
    /// Why, in the operator's words.
    pub reason: String,
    /// When it was added, in seconds since the Unix epoch.
    pub added_at: i64,
    /// When it ends, in seconds since the Unix epoch; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

/// Why the deny list cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum DenyListError {
    /// The file cannot be read or written.
    #[error("deny list {}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// The file holds something else.
    #[error("deny list {}: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why the file cannot be parsed.
        why: String,
    },
    /// The entry means nothing.
    #[error("{0}")]
    Entry(String),
    /// The entry counts, and is not on disk.
    #[error(
        "entry {id} is in force now but not on disk, and a restart would lose it: {error}; it is \
         written as soon as that can be done"
    )]
    NotSaved {
        /// The entry.
        id: String,
        /// Why it could not be written.
        error: Box<Self>,
    },
    /// The list is full.
    #[error("the deny list has {MAX_ENTRIES} entries; revoke certificates by a revocation list")]
    Full,
}

impl DenyListError {
    /// Whether the request is at fault, and not the machine.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(self, Self::Entry(_) | Self::Full)
    }

    /// Whether the file exists but its content is unknown.
    pub(super) fn is_unreadable(&self) -> bool {
        matches!(self, Self::File { error, .. } if error.kind() != io::ErrorKind::NotFound)
    }
}

impl DenyEntry {
    pub(super) fn counts_at(&self, now: i64) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }

    pub(super) fn end(&self) -> i64 {
        self.expires_at.unwrap_or(i64::MAX)
    }
}
