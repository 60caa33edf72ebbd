//! Locks an authority's directory. After the lock is taken, interrupted changes of the files are
//! completed or undone.

use super::error::PkiError;
use super::layout::{Layout, Scope};
use super::{transaction, unsettled};
use crate::directory_lock::DirectoryLock;
use crate::store::StoreError;

impl Layout {
    /// Locks the directory. If a process was killed while it changed the authority's own files,
    /// completes or undoes its change.
    pub(crate) fn lock(&self) -> Result<DirectoryLock, PkiError> {
        let lock = DirectoryLock::acquire(self.directory()).map_err(StoreError::from)?;
        self.recover(&lock)?;
        Ok(lock)
    }

    /// Same as [`Self::lock`]. Also completes or undoes interrupted changes of leaf files.
    pub(crate) fn lock_for_leaves(&self) -> Result<DirectoryLock, PkiError> {
        let lock = self.lock()?;
        transaction::recover(self, Scope::Leaves, &lock)?;
        Ok(lock)
    }

    /// Completes or undoes interrupted changes of leaf files. Does nothing if another process holds
    /// the lock. Ignores errors, because a command that only reads must not fail. The next command
    /// repeats the attempt.
    pub(crate) fn settle_leaves(&self) {
        if self.has_transaction(Scope::Leaves)
            && let Ok(lock) = DirectoryLock::try_acquire(self.directory())
        {
            let _ = transaction::recover(self, Scope::Leaves, &lock);
        }
    }

    fn recover(&self, lock: &DirectoryLock) -> Result<(), PkiError> {
        transaction::recover(self, Scope::Authority, lock)?;
        unsettled::settle(self, lock)
    }
}
