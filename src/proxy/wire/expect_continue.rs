//! `Expect: 100-continue`, from end to end: a caller that asks first is answered by
//! the service, not by the gateway.
//!
//! The caller's body is not asked for until the service has said 100. hyper tells the
//! caller to go on when its body is first wanted. A service that says nothing at all
//! does not know the expectation, and gets the body after a while. A final answer
//! instead of a 100 means that the body is not wanted: it is never read, and nobody
//! can know whether the caller sends it, so that the connection ends with the answer.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// How long a service may take to say that it wants the body.
const PATIENCE: Duration = Duration::from_secs(1);

const UNDECIDED: u8 = 0;
const WANTED: u8 = 1;
const UNWANTED: u8 = 2;

/// What a service says to a caller that asks first.
#[derive(Debug, Default)]
pub(crate) struct Expectation {
    state: AtomicU8,
    decided: Notify,
}

impl Expectation {
    /// The service said 100.
    pub(crate) fn wanted(&self) {
        self.decide(WANTED);
    }

    /// The service gave a final answer. Whether it did without the body.
    pub(crate) fn answered(&self) -> bool {
        self.decide(UNWANTED)
    }

    fn decide(&self, state: u8) -> bool {
        let decided =
            self.state
                .compare_exchange(UNDECIDED, state, Ordering::AcqRel, Ordering::Acquire);
        self.decided.notify_one();
        decided.is_ok()
    }

    /// Resolves when the body is wanted, and never when it is not.
    pub(crate) async fn met(self: Arc<Self>) {
        if tokio::time::timeout(PATIENCE, self.decided.notified())
            .await
            .is_err()
        {
            self.wanted();
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
        expectation.wanted();
        assert!(!expectation.answered());
        Arc::clone(&expectation).met().await;

        let expectation = Arc::new(Expectation::default());
        assert!(expectation.answered());
        expectation.wanted();
        let mut met = pin!(Arc::clone(&expectation).met());
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert_eq!(met.as_mut().poll(&mut context), Poll::Pending);
        }
    }
}
