//! `Expect: 100-continue` from the caller to the service. The service, not the gateway, decides
//! whether the caller should send its body.
//!
//! The gateway does not read the caller's body until the service has sent a 100 (Continue). At the
//! first read, hyper sends a 100 to the caller. If a service sends nothing for
//! [`CONTINUE_TIMEOUT`], the gateway assumes that the service does not support the expectation, and
//! sends the body.
//!
//! If the service sends a final response in place of a 100, it does not need the body, and the
//! gateway never reads the body. The caller may still send the body. The gateway therefore closes
//! the connection after the response.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// The time after which the gateway sends the body without a 100.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

const UNDECIDED: u8 = 0;
const WANTED: u8 = 1;
const UNWANTED: u8 = 2;

/// The service's decision about the body of a request with `Expect: 100-continue`.
#[derive(Debug, Default)]
pub(crate) struct Expectation {
    state: AtomicU8,
    decided: Notify,
}

impl Expectation {
    /// Records that the service sent a 100 (Continue).
    pub(crate) fn continue_received(&self) {
        self.decide(WANTED);
    }

    /// Records that the service sent a final response. Returns `true` if the service had not asked
    /// for the body, so that the body is not needed.
    pub(crate) fn final_response_received(&self) -> bool {
        self.decide(UNWANTED)
    }

    /// Stores `state`, unless the service has decided before. Returns whether `state` was stored.
    fn decide(&self, state: u8) -> bool {
        let decided =
            self.state
                .compare_exchange(UNDECIDED, state, Ordering::AcqRel, Ordering::Acquire);
        self.decided.notify_one();
        decided.is_ok()
    }

    /// Resolves when the body should be sent: after a 100, or after [`CONTINUE_TIMEOUT`]. Never
    /// resolves if the service sends a final response first.
    pub(crate) async fn met(self: Arc<Self>) {
        if tokio::time::timeout(CONTINUE_TIMEOUT, self.decided.notified())
            .await
            .is_err()
        {
            self.continue_received();
        }
        if self.state.load(Ordering::Acquire) == UNWANTED {
            pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[tokio::test]
    async fn the_first_word_counts() {
        let expectation = Arc::new(Expectation::default());
        expectation.continue_received();
        assert!(!expectation.final_response_received());
        Arc::clone(&expectation).met().await;

        let expectation = Arc::new(Expectation::default());
        assert!(expectation.final_response_received());
        expectation.continue_received();
        let mut met = pin!(Arc::clone(&expectation).met());
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert_eq!(met.as_mut().poll(&mut context), Poll::Pending);
        }
    }
}
