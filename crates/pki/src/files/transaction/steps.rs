//! The file of a transaction, and the steps it lists.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::error::PkiError;
use crate::kill_point::kill_point;
use crate::store::{self, ASIDE_PREFIX, Existing, StoreError};

/// The version of the file's format; later ones are refused, not guessed at.
pub(super) const VERSION: u32 = 1;

/// The content of a transaction's file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) version: u32,
    /// The common prefix of the names of files that are written aside.
    pub(super) prefix: String,
    /// The directories of files that are written aside.
    pub(super) directories: Vec<StoredPath>,
    /// The steps that put the files in place. None until the transaction is committed.
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

/// A certificate of the transaction. The transaction counts as committed if the inventory contains
/// it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordedLeaf {
    pub(super) issuer_key: String,
    pub(super) serial: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Step {
    /// Puts a file in its place that was written aside.
    Place {
        aside: StoredPath,
        path: StoredPath,
        existing: Existing,
        /// The new path of the file that is replaced, if it is kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keep: Option<StoredPath>,
    },
    /// Renames a file or directory.
    Move { from: StoredPath, to: StoredPath },
}

/// A path as JSON: text if it is UTF-8, otherwise its bytes. Relative ones begin
/// at the authority's directory, which may be moved.
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

/// Reads a transaction's file. Returns nothing if its process was killed while it wrote
/// the first version, before it wrote anything else.
pub(super) fn read(file: &Path) -> Result<Option<Record>, PkiError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let content = store::read(file)?;
    let error = match serde_json::from_slice::<Record>(&content) {
        // Files with this prefix are removed. An empty prefix would remove every file.
        Ok(record) if record.version == VERSION && record.prefix.starts_with(ASIDE_PREFIX) => {
            return Ok(Some(record));
        }
        // After a power loss, some file systems fill data that was not yet on the disk with zeros.
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
                // An earlier attempt has put the file in its place.
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
        // On systems that cannot rename without overwriting, the file gets its second
        // name first, and a kill may leave it with both.
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
    store::create_directory(store::parent(to))?;
    kill_point();
    std::fs::rename(from, to).map_err(StoreError::io("rename", from))?;
    note_parent(to, changed);
    Ok(())
}

fn note_parent(path: &Path, changed: &mut Vec<PathBuf>) {
    let parent = store::parent(path).to_owned();
    if !changed.contains(&parent) {
        changed.push(parent);
    }
}

/// Removes the new files that are in place, and the files that are still aside. A file that
/// replaced another one stays, because the other one is gone. Goes in the order of the steps: if
/// the process is killed in between, the step that failed fails again, and the removal is repeated.
///
/// In the order of the steps: if the process is killed in between, the step that failed
/// fails again, and this is repeated.
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
