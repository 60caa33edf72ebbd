//! `PreemptionSignal`: asks all requests on a connection to end, because another caller needs the
//! connection's slot.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Signals that all requests on a connection must end, because another caller needs the
/// connection's slot.
#[derive(Debug, Default)]
pub struct PreemptionSignal {
    is_requested: AtomicBool,
    notify: Notify,
}

impl PreemptionSignal {
    /// Asks the requests on the connection to end.
    pub(in crate::upstream) fn request(&self) {
        self.is_requested.store(true, Ordering::Release);
        self.notify.notify_waiters();
    }

    /// Waits until the requests on the connection must end.
    pub async fn requested(&self) {
        let mut told = pin!(self.notify.notified());
        told.as_mut().enable();
        if !self.is_requested.load(Ordering::Acquire) {
            told.await;
        }
    }
}
