//! `Transaction`: changes several files completely or not at all, even if the process is killed or
//! the machine loses power.
//!
//! ```text
//! begin    writes the transaction's file, which contains a prefix for temporary files
//! stage    writes new contents to temporary files whose names begin with the prefix
//! commit   replaces the transaction's file by one that lists the steps
//! apply    renames each temporary file to its final path, and removes the transaction's file
//! ```
//!
//! If a process is killed, the next process that locks the directory finds the transaction's file
//! and recovers ([`recover`]). If the file lists no steps, recovery removes the temporary files. If
//! it lists the steps, recovery executes them. If a step's temporary file no longer exists, the
//! step was already done and is skipped.
//!
//! A transaction of leaves is committed by the inventory, which records all its certificates in one
//! step. The transaction's file names one of these certificates. The steps are executed only if the
//! inventory contains that certificate. Otherwise recovery removes the temporary files. These
//! transactions have a separate file. So a revocation, which changes the authority's own files,
//! does not depend on the inventory.

/// The file of a transaction, and the steps that it lists.
mod steps;

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use self::steps::{
    Commit, Record, RecordedLeaf, Step, StoredPath, VERSION, apply, read, roll_back,
};
use super::error::PkiError;
use super::layout::{Layout, Scope};
use crate::crypto;
use crate::directory_lock::DirectoryLock;
use crate::file_access::{self, FileAccess};
use crate::identity::text::hex;
use crate::kill_point::kill_point;
use crate::records::inventory::{Inventory, NewEntry};
use crate::store::{self, ASIDE_PREFIX, Audience, Barrier, Existing, Staged, StoreError};

/// A step of a transaction that is not committed yet.
#[derive(Debug)]
enum Planned {
    Place {
        staged: Staged,
        keep: Option<PathBuf>,
    },
    Move {
        from: PathBuf,
        to: PathBuf,
    },
}

/// A transaction that is not committed yet. If it is dropped, its temporary files are removed.
#[derive(Debug)]
pub(crate) struct Transaction {
    base: PathBuf,
    file: PathBuf,
    prefix: String,
    directories: Vec<StoredPath>,
    /// Makes all temporary files durable with one call. `None` for a transaction with few files,
    /// each of which is synced when it is written.
    barrier: Option<Barrier>,
    planned: Vec<Planned>,
    is_committed: bool,
}

impl Transaction {
    /// Begins a transaction that writes to the authority's directory and to `directories`.
    pub(crate) fn begin(
        layout: &Layout,
        scope: Scope,
        directories: &[PathBuf],
        lock: &DirectoryLock,
    ) -> Result<Self, StoreError> {
        Self::begin_with(layout, scope, directories, None, lock)
    }

    /// Same as [`Self::begin`], for many files. One call makes them durable at the commit.
    pub(crate) fn begin_large(
        layout: &Layout,
        scope: Scope,
        directories: &[PathBuf],
        lock: &DirectoryLock,
    ) -> Result<Self, StoreError> {
        let barrier = Barrier::before_writing(directories)?;
        Self::begin_with(layout, scope, directories, Some(barrier), lock)
    }

    fn begin_with(
        layout: &Layout,
        scope: Scope,
        directories: &[PathBuf],
        barrier: Option<Barrier>,
        _: &DirectoryLock,
    ) -> Result<Self, StoreError> {
        let base = layout.directory();
        let file = layout.transaction(scope);
        let failed = |error| StoreError::io("create", &file)(error);
        // The prefix is random. So recovery removes only the temporary files of this transaction,
        // even if two authorities write to the same directory.
        let mark = crypto::random::<8>().map_err(|error| failed(io::Error::other(error)))?;
        kill_point();
        // The transaction's file is not synced. After a power loss, it can be missing while
        // temporary files remain. This is harmless, because no program reads the temporary files.
        let mut created = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&file)
            .map_err(failed)?;
        // If root runs this program, the file gets the owner of the directory. Otherwise, after a
        // crash, the owner's next command could not read the file and recover.
        if let Some(access) = FileAccess::inherited(base, 0o600) {
            access.give_to(&created).map_err(failed)?;
        }
        let stored = |path: &PathBuf| StoredPath::new(base, path);
        let transaction = Self {
            base: base.to_owned(),
            prefix: format!("{ASIDE_PREFIX}{}-", hex(&mark)),
            directories: directories.iter().map(stored).collect(),
            barrier,
            planned: Vec::new(),
            is_committed: false,
            file,
        };
        kill_point();
        let content = transaction.record(None)?;
        created
            .write_all(&content)
            .map_err(StoreError::io("write", &transaction.file))?;
        Ok(transaction)
    }

    /// Writes `content` to a temporary file. The commit renames it to `path`.
    pub(crate) fn stage(
        &mut self,
        path: &Path,
        content: &[u8],
        audience: Audience,
        existing: Existing,
    ) -> Result<(), StoreError> {
        let staged = self.written(path, content, audience, existing)?;
        self.planned.push(Planned::Place { staged, keep: None });
        Ok(())
    }

    /// Same as [`Self::stage`], for a public file that may replace an existing file.
    pub(crate) fn stage_public(&mut self, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        self.stage(path, content, Audience::Public, Existing::Replace)
    }

    /// Same as [`Self::stage`], but the commit first moves the old file at `path` to `keep`, if
    /// there is one.
    pub(crate) fn stage_and_keep(
        &mut self,
        path: &Path,
        content: &[u8],
        audience: Audience,
        keep: PathBuf,
    ) -> Result<(), StoreError> {
        let staged = self.written(path, content, audience, Existing::Replace)?;
        let keep = Some(keep);
        self.planned.push(Planned::Place { staged, keep });
        Ok(())
    }

    fn written(
        &self,
        path: &Path,
        content: &[u8],
        audience: Audience,
        existing: Existing,
    ) -> Result<Staged, StoreError> {
        let sync = self.syncs_each();
        if path.starts_with(&self.base) {
            return Staged::written_at_home(path, content, audience, existing, &self.prefix, sync);
        }
        Staged::written(path, content, audience, existing, &self.prefix, sync)
    }

    const fn syncs_each(&self) -> bool {
        self.barrier.is_none() || !Barrier::SYNCS
    }

    /// Plans to rename a file or directory. The commit does this after the steps that were planned
    /// before.
    pub(crate) fn rename(&mut self, from: PathBuf, to: PathBuf) {
        self.planned.push(Planned::Move { from, to });
    }

    /// Commits the transaction. Then executes the steps in the order in which they were planned.
    ///
    /// If a step fails because a file already exists, the steps are undone. After any other
    /// failure, the next process that takes the lock executes the steps again.
    pub(crate) fn commit(mut self) -> Result<(), StoreError> {
        self.write_commit(None)?;
        let steps = self.release();
        finish(&self.base, &self.file, &steps, Scope::Authority)
    }

    /// Commits the transaction by recording `entries` in the inventory. Then executes the steps.
    ///
    /// If a step fails, the new files are removed. The certificates stay recorded, because other
    /// processes may have seen the records.
    pub(crate) fn commit_recorded(
        mut self,
        inventory: &mut Inventory,
        entries: &[NewEntry],
    ) -> Result<(), PkiError> {
        let Some(first) = entries.first() else {
            return Ok(());
        };
        self.write_commit(Some(RecordedLeaf {
            issuer_key: first.issuer_key.clone(),
            serial: first.serial.clone(),
        }))?;
        inventory.record(entries)?;
        kill_point();
        let steps = self.release();
        Ok(finish(&self.base, &self.file, &steps, Scope::Leaves)?)
    }

    /// Makes all temporary files durable. Then replaces the transaction's file by one that lists
    /// the steps.
    fn write_commit(&self, if_recorded: Option<RecordedLeaf>) -> Result<(), StoreError> {
        if let Some(barrier) = &self.barrier {
            barrier.sync()?;
        }
        if self.syncs_each() {
            for directory in &self.directories {
                store::sync_directory(&directory.below(&self.base))?;
            }
        }
        let steps = self.steps();
        let content = self.record(Some(Commit { if_recorded, steps }))?;
        Staged::written(
            &self.file,
            &content,
            Audience::Owner,
            Existing::Replace,
            &self.prefix,
            true,
        )?
        .place()
    }

    fn steps(&self) -> Vec<Step> {
        let stored = |path: &Path| StoredPath::new(&self.base, path);
        self.planned
            .iter()
            .map(|planned| match planned {
                Planned::Place { staged, keep } => Step::Place {
                    aside: stored(&file_access::parent(staged.path()).join(staged.name())),
                    path: stored(staged.path()),
                    existing: staged.existing(),
                    keep: keep.as_deref().map(stored),
                },
                Planned::Move { from, to } => Step::Move {
                    from: stored(from),
                    to: stored(to),
                },
            })
            .collect()
    }

    /// Returns the steps and marks the transaction as committed. Dropping the transaction then no
    /// longer removes its temporary files.
    fn release(&mut self) -> Vec<Step> {
        let steps = self.steps();
        self.is_committed = true;
        for planned in self.planned.drain(..) {
            if let Planned::Place { staged, .. } = planned {
                staged.leave_aside();
            }
        }
        steps
    }

    fn record(&self, commit: Option<Commit>) -> Result<Vec<u8>, StoreError> {
        let record = Record {
            version: VERSION,
            prefix: self.prefix.clone(),
            directories: self.directories.clone(),
            commit,
        };
        serde_json::to_vec(&record)
            .map_err(|error| StoreError::io("write", &self.file)(error.into()))
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.is_committed {
            // The temporary files are removed before the transaction's file. If the process is
            // killed in between, recovery finds the transaction's file and removes the rest.
            self.planned.clear();
            let _ = std::fs::remove_file(&self.file);
        }
    }
}

/// Completes or undoes the transaction of a process that was killed, if there is one.
pub(crate) fn recover(layout: &Layout, scope: Scope, _: &DirectoryLock) -> Result<(), PkiError> {
    let (base, file) = (layout.directory(), layout.transaction(scope));
    if file.symlink_metadata().is_err() {
        return Ok(());
    }
    let Some(record) = read(&file)? else {
        return Ok(store::remove(&file)?);
    };
    if let Some(commit) = record.commit {
        let is_committed = match &commit.if_recorded {
            None => true,
            Some(leaf) => {
                let path = layout.inventory();
                path.exists() && Inventory::open(&path)?.has(&leaf.issuer_key, &leaf.serial)?
            }
        };
        if is_committed {
            let finished = finish(base, &file, &commit.steps, scope);
            return match scope {
                Scope::Authority => Ok(finished?),
                // If the steps failed, `finish` has removed the new files, and the certificates
                // stay recorded. A second attempt would not help, so this is no error.
                Scope::Leaves => Ok(()),
            };
        }
    }
    store::sweep(base, &record.prefix);
    for directory in &record.directories {
        store::sweep(&directory.below(base), &record.prefix);
    }
    Ok(store::remove(&file)?)
}

/// Executes the steps. Then removes the transaction's file, unless the next process must try again.
fn finish(base: &Path, file: &Path, steps: &[Step], scope: Scope) -> Result<(), StoreError> {
    let applied = apply(base, steps);
    let is_final = match (&applied, scope) {
        (Ok(()), _) => true,
        // A file already exists at the final path of a new file, or a leaf's file cannot be
        // renamed. A second attempt would not help, so the steps are undone.
        (Err(StoreError::Exists(_)), _) | (Err(_), Scope::Leaves) => {
            roll_back(base, steps);
            true
        }
        (Err(_), Scope::Authority) => false,
    };
    if is_final {
        store::remove(file)?;
    }
    applied
}

#[cfg(test)]
mod tests;
