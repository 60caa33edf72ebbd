//! `Expect: 100-continue`, end to end: the service responds to a caller that asks first,
//! not the gateway.
//!
//! The caller's body is not read until the service has said 100; hyper sends the caller a
//! 100 when its body is first read. A service that says nothing for a while does not know
//! the expectation, and gets the body. A final response instead of a 100 means that the
//! service does not want the body: it is never read. Whether the caller sends it all the
//! same cannot be known, so that the connection closes after the response.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// How long a service may take to ask for the body.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

const UNDECIDED: u8 = 0;
const WANTED: u8 = 1;
const UNWANTED: u8 = 2;

/// Whether the service wants the body of a caller that asks first.
#[derive(Debug, Default)]
pub(crate) struct Expectation {
    state: AtomicU8,
    decided: Notify,
}

impl Expectation {
    /// Records that the service said 100.
    pub(crate) fn continue_received(&self) {
        self.decide(WANTED);
    }

    /// Records that the service gave a final response. Returns whether the body is
    /// unwanted.
    pub(crate) fn final_response_received(&self) -> bool {
        self.decide(UNWANTED)
    }

    /// Decides unless that was done before. Returns whether this decision counts.
    fn decide(&self, state: u8) -> bool {
        let decided =
            self.state
                .compare_exchange(UNDECIDED, state, Ordering::AcqRel, Ordering::Acquire);
        self.decided.notify_one();
        decided.is_ok()
    }

    /// Resolves when the body is wanted; never if it is not.
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
