//! `DenyWrites`: limits how many changes of the deny list wait for the disk at the same time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::trust::DenyListError;

/// Maximum number of changes that wait for the disk. If the disk hangs, each of them occupies a
/// thread.
const MAX_WAITING: usize = 8;
/// Maximum time for a write to the disk.
const DISK_TIMEOUT: Duration = Duration::from_secs(5);

/// Limits how many changes wait for the disk.
#[derive(Debug)]
pub(super) struct DenyWrites(Arc<Semaphore>);

impl Default for DenyWrites {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_WAITING)))
    }
}

impl DenyWrites {
    /// Runs `work` on a blocking thread, because `work` may never return if a network mount hangs.
    /// In this case, the method fails after `DISK_TIMEOUT`, and the thread continues to wait.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, DenyListError> + Send + 'static,
    ) -> Result<T, ChangeError> {
        let writing = async {
            let place = Arc::clone(&self.0).acquire_owned().await;
            let work = move || {
                let outcome = work();
                drop(place);
                outcome
            };
            tokio::task::spawn_blocking(work).await
        };
        match tokio::time::timeout(DISK_TIMEOUT, writing).await {
            Ok(Ok(outcome)) => outcome.map_err(ChangeError::List),
            Ok(Err(error)) => Err(ChangeError::Panicked(error.to_string())),
            Err(_) => Err(ChangeError::Disk),
        }
    }
}

/// The reason why a change was not written to disk.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChangeError {
    #[error(transparent)]
    List(#[from] DenyListError),
    #[error("changing the deny list panicked; please report this: {0}")]
    Panicked(String),
    #[error("the file of the deny list does not answer; try again when it does")]
    Disk,
}
