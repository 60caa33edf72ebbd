//! `yield_once`: lets the other tasks of a worker run first.
//!
//! A request that is sent wakes the service's process. That wake-up costs more than sending the
//! request. All requests that are ready at the same time are therefore authorized and signed before
//! the first of them is sent. The service then reads several requests after one wake-up. If no
//! other task is ready, the next poll follows immediately.

use std::future::poll_fn;
use std::task::Poll;

/// Lets all tasks run that are ready now, and then continues.
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
