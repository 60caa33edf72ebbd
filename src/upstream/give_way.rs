//! `GiveWay`: tells all requests on a connection that another caller needs it more.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Whether a connection is to be given up.
#[derive(Debug, Default)]
pub struct GiveWay {
    is_told: AtomicBool,
    told: Notify,
}

impl GiveWay {
    /// Has it given up.
    pub(super) fn tell(&self) {
        self.is_told.store(true, Ordering::Release);
        self.told.notify_waiters();
    }

    /// Resolves when it is to be given up.
    pub async fn wanted(&self) {
        let mut told = pin!(self.told.notified());
        told.as_mut().enable();
        if !self.is_told.load(Ordering::Acquire) {
            told.await;
        }
    }
}
