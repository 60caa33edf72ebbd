//! `yield_once`: yields to the other tasks of a worker.
//!
//! Sending a request wakes the service's process, and waking a sleeping process costs more
//! than sending. Requests that are ready at the same time are therefore all decided and
//! signed before any of them is sent. The service then reads several of them after one
//! wake-up. If no other task is ready, the next poll follows immediately.

use std::future::poll_fn;
use std::task::Poll;

/// Yields to the tasks that are ready now.
pub(crate) async fn yield_once() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_yielded, true) {
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
