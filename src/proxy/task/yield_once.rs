//! Has the other tasks of a worker go first.
//!
//! Whoever sends wakes whoever reads, and to wake one that has gone to sleep costs more
//! than the sending itself. Requests that are ready at the same moment are therefore all
//! decided and signed, and then all sent: their services find several at once. Where
//! nothing else is ready, the next poll follows immediately.

use std::future::poll_fn;
use std::task::Poll;

/// Lets the tasks that are ready now go first.
pub(crate) async fn yield_once() {
    let mut given_way = false;
    poll_fn(|context| {
        if std::mem::replace(&mut given_way, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
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
            yield_once().await;
            note("sent");
        };
        tokio::join!(request(), request(), request());
        let done = done.into_inner().unwrap();
        assert_eq!(done[..3], ["prepared"; 3]);
        assert_eq!(done[3..], ["sent"; 3]);
    }
}
