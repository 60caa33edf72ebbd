//! `Turn`: has the other tasks of a worker go first.
//!
//! Whoever sends wakes whoever reads, and to wake one that has gone to sleep costs more
//! than the sending itself. What is ready at the same moment is therefore all decided
//! and signed, and then all sent, and so are the answers: their readers find several at
//! once. Where nothing else is ready, the next poll follows immediately.

use std::future::poll_fn;
use std::task::{Context, Poll};

/// Pending once, then ready, and so on.
#[derive(Debug, Default)]
pub(super) struct Turn {
    waits: bool,
}

impl Turn {
    /// Lets the tasks that are ready now go first.
    pub(super) fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        self.waits = !self.waits;
        if self.waits {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

/// Lets the tasks that are ready now go first.
pub(super) async fn others_first() {
    let mut turn = Turn::default();
    poll_fn(|context| turn.poll(context)).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn all_that_are_ready_are_prepared_before_one_is_sent() {
        let done = Mutex::new(Vec::new());
        let note = |step| done.lock().unwrap().push(step);
        let request = || async {
            note("prepared");
            others_first().await;
            note("sent");
        };
        let tasks = tokio::task::LocalSet::new();
        let all = async { tokio::join!(request(), request(), request()) };
        tasks.run_until(all).await;
        let done = done.into_inner().unwrap();
        assert_eq!(done.iter().filter(|step| **step == "prepared").count(), 3);
        assert_eq!(done[..3], ["prepared"; 3]);
        assert_eq!(done[3..], ["sent"; 3]);
    }
}
