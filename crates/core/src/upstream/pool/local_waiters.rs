//! `LocalWaiters`: counts the requests of one worker that wait for a connection to one target.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The requests of one worker that wait for a connection to one target.
#[derive(Default)]
pub(super) struct LocalWaiters {
    pub(super) notify: Notify,
    waiting: AtomicUsize,
}

impl LocalWaiters {
    /// Returns how many requests of this worker wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Counts one more waiting request until the returned value is dropped.
    pub(super) fn begin_waiting(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting(Arc::clone(self))
    }
}

/// Counts one waiting request until this value is dropped.
pub(super) struct Waiting(Arc<LocalWaiters>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
