//! The file of a transaction, and the steps that it lists.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::file_access;
use crate::files::error::PkiError;
use crate::kill_point::kill_point;
use crate::store::{self, ASIDE_PREFIX, Existing, StoreError};

/// The version of the file format. A file with a later version is refused.
pub(super) const VERSION: u32 = 1;

/// The content of a transaction's file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) version: u32,
    /// The prefix of the names of all temporary files of the transaction.
    pub(super) prefix: String,
    /// The directories that can contain temporary files, besides the authority's directory.
    pub(super) directories: Vec<StoredPath>,
    /// The steps that rename the temporary files. `None` before the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) commit: Option<Commit>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Commit {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) if_recorded: Option<RecordedLeaf>,
    pub(super) steps: Vec<Step>,
}

/// Identifies one certificate of a transaction of leaves. The transaction is committed if the
/// inventory contains this certificate.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordedLeaf {
    pub(super) issuer_key: String,
    pub(super) serial: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Step {
    /// Renames a temporary file to its final path.
    Place {
        aside: StoredPath,
        path: StoredPath,
        existing: Existing,
        /// The path to which the old file at `path` is moved. `None` if the old file is not kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keep: Option<StoredPath>,
    },
    /// Renames a file or a directory.
    Move { from: StoredPath, to: StoredPath },
}

/// A path in JSON: text if it is UTF-8, otherwise bytes. A path below the authority's directory is
/// stored relative to it, so the directory may be moved.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum StoredPath {
    Text(String),
    Bytes(Vec<u8>),
}

impl StoredPath {
    pub(super) fn new(base: &Path, path: &Path) -> Self {
        let path = match path.strip_prefix(base) {
            Ok(below) => below.to_owned(),
            Err(_) => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        };
        match path.into_os_string().into_string() {
            Ok(text) => Self::Text(text),
            Err(path) => Self::Bytes(path.as_bytes().to_vec()),
        }
    }

    pub(super) fn below(&self, base: &Path) -> PathBuf {
        match self {
            Self::Text(text) => base.join(text),
            Self::Bytes(bytes) => base.join(OsString::from_vec(bytes.clone())),
        }
    }
}

/// Reads the file of a transaction. Returns `None` if a process was killed while it wrote the first
/// content of the file. There are no temporary files then.
pub(super) fn read(file: &Path) -> Result<Option<Record>, PkiError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let content = store::read(file)?;
    let error = match serde_json::from_slice::<Record>(&content) {
        // Recovery removes all files whose names begin with the prefix, so a short prefix would be
        // dangerous.
        Ok(record) if record.version == VERSION && record.prefix.starts_with(ASIDE_PREFIX) => {
            return Ok(Some(record));
        }
        // After a power loss, some file systems return zeros for data that was not on the disk yet.
        _ if content.iter().all(|byte| *byte == 0) => return Ok(None),
        Err(error) if error.is_eof() => return Ok(None),
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    let why = match serde_json::from_slice::<Version>(&content) {
        Ok(Version { version }) if version > VERSION => {
            format!("format version {version}; this program knows {VERSION}. Use the newer program")
        }
        _ => format!("it is damaged: {error}"),
    };
    Err(PkiError::unreadable(file, why))
}

pub(super) fn apply(base: &Path, steps: &[Step]) -> Result<(), StoreError> {
    let mut changed = Vec::new();
    for step in steps {
        let moved = match step {
            Step::Place {
                aside,
                path,
                existing,
                keep,
            } => {
                let (aside, path) = (aside.below(base), path.below(base));
                // If the temporary file no longer exists, an earlier attempt has already done this
                // step.
                if aside.symlink_metadata().is_err() {
                    continue;
                }
                if let Some(keep) = keep.as_ref().map(|keep| keep.below(base))
                    && path.exists()
                    && !keep.exists()
                {
                    move_unsynced(&path, &keep, &mut changed)?;
                }
                kill_point();
                place(&aside, &path, *existing)?;
                path
            }
            Step::Move { from, to } => {
                let (from, to) = (from.below(base), to.below(base));
                if from.symlink_metadata().is_err() {
                    continue;
                }
                move_unsynced(&from, &to, &mut changed)?;
                from
            }
        };
        note_parent(&moved, &mut changed);
        kill_point();
    }
    changed
        .iter()
        .try_for_each(|directory| store::sync_directory(directory))
}

fn place(aside: &Path, path: &Path, existing: Existing) -> Result<(), StoreError> {
    match store::place_unsynced(aside, path, existing) {
        // On some systems, a rename that must not overwrite a file is done with a hard link. If the
        // process was killed after the link was made, the file has both names. Then only the
        // temporary name is removed.
        Err(StoreError::Exists(_)) if is_same_file(aside, path) => store::remove(aside),
        placed => placed,
    }
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| {
        let metadata = path.symlink_metadata().ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    identity(one).is_some() && identity(one) == identity(other)
}

fn move_unsynced(from: &Path, to: &Path, changed: &mut Vec<PathBuf>) -> Result<(), StoreError> {
    store::create_directory(file_access::parent(to))?;
    kill_point();
    std::fs::rename(from, to).map_err(StoreError::io("rename", from))?;
    note_parent(to, changed);
    Ok(())
}

fn note_parent(path: &Path, changed: &mut Vec<PathBuf>) {
    let parent = file_access::parent(path).to_owned();
    if !changed.contains(&parent) {
        changed.push(parent);
    }
}

/// Undoes the steps: removes new files that were already renamed, and temporary files. A new file
/// that has replaced an old file stays, because the old file no longer exists.
///
/// The files are removed in the order of the steps. If the process is killed in between, recovery
/// executes the steps again, fails at the same step, and continues the removal.
pub(super) fn roll_back(base: &Path, steps: &[Step]) {
    for step in steps {
        let Step::Place {
            aside,
            path,
            existing,
            ..
        } = step
        else {
            continue;
        };
        let aside = aside.below(base);
        let was_placed = aside.symlink_metadata().is_err();
        let gone = match existing {
            Existing::Refuse if was_placed => path.below(base),
            _ => aside,
        };
        kill_point();
        let _ = std::fs::remove_file(gone);
    }
}
