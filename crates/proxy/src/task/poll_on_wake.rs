//! `PollOnWake`: polls a future only if the future's own waker was called.
//!
//! Each request wakes the connection's task several times. The connection's task also polls the
//! future that waits for the end of the connection. That future is rarely ready, so `PollOnWake`
//! skips its polls if another event has woken the task.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Polls `inner` once at the start. After that, polls `inner` only when its own waker was called.
pub(crate) struct PollOnWake<F> {
    inner: F,
    flag: Arc<WakeFlag>,
}

struct WakeFlag {
    is_set: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl<F> PollOnWake<F> {
    pub(crate) fn new(inner: F) -> Self {
        Self {
            inner,
            flag: Arc::new(WakeFlag {
                is_set: AtomicBool::new(true),
                task: Mutex::new(None),
            }),
        }
    }
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_set.store(true, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = &*task {
            task.wake_by_ref();
        }
    }
}

impl<F: Future + Unpin> Future for PollOnWake<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let mut task = self
            .flag
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !task
            .as_ref()
            .is_some_and(|task| task.will_wake(context.waker()))
        {
            *task = Some(context.waker().clone());
        }
        drop(task);
        // The waker is stored before the flag is read. If `wake_by_ref` sets the flag after the
        // read, `wake_by_ref` finds the stored waker and wakes the task.
        if !self.flag.is_set.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let waker = Waker::from(Arc::clone(&self.flag));
        Pin::new(&mut self.inner).poll(&mut Context::from_waker(&waker))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[test]
    fn polls_once_and_then_only_when_woken() {
        let mut polls = 0;
        let mut future = PollOnWake::new(Box::pin(poll_fn(|_| {
            polls += 1;
            match polls {
                1 => Poll::Pending,
                _ => Poll::Ready(polls),
            }
        })));
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(Pin::new(&mut future).poll(&mut context).is_pending());
        }
        // Calls the future's own waker, as the awaited event would do.
        future.flag.wake_by_ref();
        assert_eq!(Pin::new(&mut future).poll(&mut context), Poll::Ready(2));
    }

    #[tokio::test]
    async fn wakes_the_task_that_waits() {
        let (send, receive) = tokio::sync::oneshot::channel::<u8>();
        let waiting = tokio::spawn(PollOnWake::new(receive));
        tokio::task::yield_now().await;
        send.send(7).unwrap();
        assert_eq!(waiting.await.unwrap(), Ok(7));
    }
}
