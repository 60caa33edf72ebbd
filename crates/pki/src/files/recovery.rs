//! The lock of an authority's directory, whose holder first completes interrupted changes.

use super::error::PkiError;
use super::layout::{Layout, Scope};
use super::{transaction, unsettled};
use crate::directory_lock::DirectoryLock;
use crate::store::StoreError;

impl Layout {
    /// Locks the directory, and completes the changes of a killed process to the authority's files.
    pub(crate) fn lock(&self) -> Result<DirectoryLock, PkiError> {
        let lock = DirectoryLock::acquire(self.directory()).map_err(StoreError::from)?;
        self.recover(&lock)?;
        Ok(lock)
    }

    /// Like [`Self::lock`], before keys and certificates of leaves are written.
    pub(crate) fn lock_for_leaves(&self) -> Result<DirectoryLock, PkiError> {
        let lock = self.lock()?;
        transaction::recover(self, Scope::Leaves, &lock)?;
        Ok(lock)
    }

    /// Completes the changes of a killed process to keys and certificates of leaves. If another
    /// process holds the lock, or if this fails, a later command does it: commands that only read
    /// must not fail because of it.
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
