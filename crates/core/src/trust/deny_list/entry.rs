//! `DenyEntry`: one entry of the deny list. `DenyListError`: errors of the deny list.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::target::DenyTarget;

/// Maximum number of entries in a deny list. An operator who must refuse more certificates can use
/// a revocation list.
pub(super) const MAX_ENTRIES: usize = 100_000;
/// One entry of the deny list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenyEntry {
    /// The identifier with which an operator removes the entry.
    pub id: String,
    /// The certificates or callers that the entry refuses.
    pub target: DenyTarget,
    /// The operator's reason for the entry. May be empty.
    pub reason: String,
    /// When the entry was added, in seconds since the Unix epoch.
    pub added_at: i64,
    /// When the entry ends, in seconds since the Unix epoch. `None` if it does not end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

/// The reason why the deny list cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum DenyListError {
    /// The file cannot be read or written.
    #[error("deny list {}: {error}", path.display())]
    File {
        /// The path of the deny list's file.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The content of the file is not a deny list, for example because it is damaged.
    #[error("deny list {}: {why}", path.display())]
    Malformed {
        /// The path of the deny list's file.
        path: PathBuf,
        /// The reason why the file cannot be parsed.
        why: String,
    },
    /// The entry that an operator wants to add is not valid.
    #[error("{0}")]
    Entry(String),
    /// The new entry is in force, but could not be written to the file.
    #[error(
        "entry {id} is in force now but not on disk, and a restart would lose it: {error}; it is \
         written as soon as that can be done"
    )]
    NotSaved {
        /// The `id` of the entry that is only in memory.
        id: String,
        /// The reason why the entry could not be written.
        error: Box<Self>,
    },
    /// The deny list already has the maximum number of entries.
    #[error("the deny list has {MAX_ENTRIES} entries; revoke certificates by a revocation list")]
    Full,
}

impl DenyListError {
    /// Whether the operator's request caused the error. If not, the file or the system caused it.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(self, Self::Entry(_) | Self::Full)
    }

    /// Whether the file exists, but the operating system failed to read it.
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
