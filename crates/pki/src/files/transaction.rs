//! `Transaction`: several files that change together or not at all, whenever the
//! process is killed or the machine loses power.
//!
//! ```text
//! begin    the transaction's file says how the names of its files begin
//! stage    new contents are written aside under such names
//! commit   the file is replaced by one that lists which of them goes where
//! apply    each is put in its place, and the transaction's file is removed
//! ```
//!
//! The next process that takes the directory's lock and finds the transaction's file
//! recovers ([`recover`]): without a commit it removes what was written aside, with one
//! it repeats the steps. A step that was taken before finds nothing aside and is
//! skipped.
//!
//! Transactions of leaves are committed by the inventory, which records all of their
//! certificates in one step: the file names one of them, and its steps count if the
//! inventory has that. They have a file of their own, so that a revocation does not
//! depend on the inventory.

/// The file of a transaction, and the steps it lists.
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
use crate::identity::text::hex;
use crate::kill_point::kill_point;
use crate::records::inventory::{Inventory, NewEntry};
use crate::store::{self, ASIDE_PREFIX, Audience, Barrier, Existing, Staged, StoreError};

/// A step before the commit.
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

/// A transaction that is not committed yet. Dropping it leaves no trace.
#[derive(Debug)]
pub(crate) struct Transaction {
    base: PathBuf,
    file: PathBuf,
    prefix: String,
    directories: Vec<StoredPath>,
    /// Makes many files durable at once.
    barrier: Option<Barrier>,
    planned: Vec<Planned>,
    is_committed: bool,
}

impl Transaction {
    /// Begins a transaction that writes to the authority's directory and to
    /// `directories`.
    pub(crate) fn begin(
        layout: &Layout,
        scope: Scope,
        directories: &[PathBuf],
        lock: &DirectoryLock,
    ) -> Result<Self, StoreError> {
        Self::begin_with(layout, scope, directories, None, lock)
    }

    /// Like [`Self::begin`], for many files, which are made durable at once.
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
        // A random prefix for this transaction, so that it never takes files of other authorities
        // in the same directory for its own.
        let mark = crypto::random::<8>().map_err(|error| failed(io::Error::other(error)))?;
        kill_point();
        // Not synced. If the machine loses power, this file may be lost while files that were
        // written aside remain. Those are never read.
        let mut created = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&file)
            .map_err(failed)?;
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

    /// Writes a file aside that [`Self::commit`] puts in its place.
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

    /// Like [`Self::stage`], for a file that everybody may read and that may replace one.
    pub(crate) fn stage_public(&mut self, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        self.stage(path, content, Audience::Public, Existing::Replace)
    }

    /// Like [`Self::stage`], and moves the file that is replaced to `keep`.
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
        Staged::written(path, content, audience, existing, &self.prefix, sync)
    }

    const fn syncs_each(&self) -> bool {
        self.barrier.is_none() || !Barrier::SYNCS
    }

    /// Renames a file or directory once everything staged before is in its place.
    pub(crate) fn rename(&mut self, from: PathBuf, to: PathBuf) {
        self.planned.push(Planned::Move { from, to });
    }

    /// Commits, and puts everything in its place, in the order of staging.
    ///
    /// If that fails after the commit, the next process that takes the lock tries again.
    pub(crate) fn commit(mut self) -> Result<(), StoreError> {
        self.write_commit(None)?;
        let steps = self.release();
        finish(&self.base, &self.file, &steps, Scope::Authority)
    }

    /// Commits by recording certificates, and puts everything in its place.
    ///
    /// If that fails after the commit, new files are removed again. The certificates stay
    /// recorded: other processes may have seen them.
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

    /// Makes all files that were written aside durable, then writes the list of their destinations.
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
                    aside: stored(&store::parent(staged.path()).join(staged.name())),
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

    /// Ends the cleanup: dropping the transaction no longer removes the files that were written
    /// aside.
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
            // Removes the transaction's file last: after a kill in between it lists the files that
            // remain to be removed.
            self.planned.clear();
            let _ = std::fs::remove_file(&self.file);
        }
    }
}

/// Completes or undoes the transaction of a killed process.
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
                // The files could not be put in place and were removed; another attempt would not
                // help. The certificates stay recorded.
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

/// Applies the steps and removes the transaction's file.
fn finish(base: &Path, file: &Path, steps: &[Step], scope: Scope) -> Result<(), StoreError> {
    let applied = apply(base, steps);
    let is_final = match (&applied, scope) {
        (Ok(()), _) => true,
        // Trying again would not help.
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
