//! `UploadProgress`: tracks how much of a request's body was sent to the service.
//!
//! The request body knows when it waits for more data from the caller. The task that waits for the
//! service's response must know this too, because such a wait does not count toward the service's
//! timeout.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::policy::Denial;

/// The upload state that a request's body and the task that waits for the response share.
#[derive(Debug, Default)]
pub(crate) struct UploadProgress {
    /// The whole body was sent.
    complete: AtomicBool,
    /// The body was polled at least once.
    started: AtomicBool,
    /// The service can accept more data, but the caller has not sent it yet.
    waits_for_caller: AtomicBool,
    /// The time when the service last accepted a frame.
    last_progress: Mutex<Option<Instant>>,
    /// The error with which the caller's body ended. Stored here, because h2's error for the
    /// connection to the service does not contain it.
    fault: OnceLock<Denial>,
    /// The response has ended, so the rest of the request body is not sent.
    abandoned: AtomicBool,
    /// The task that sends the body, while it waits for the caller. `abandon` wakes the task.
    sender: Mutex<Option<Waker>>,
}

/// The error if the service does not respond within the timeout.
#[derive(Debug)]
pub(crate) struct ResponseTimeout;

impl UploadProgress {
    pub(crate) fn new(complete: bool) -> Self {
        Self {
            complete: AtomicBool::new(complete),
            ..Self::default()
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    pub(crate) fn set_complete(&self) {
        self.complete.store(true, Ordering::Release);
    }

    pub(crate) fn set_started(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    /// Returns whether hyper sent a request without its body: the body is not complete, but was
    /// never polled.
    pub(super) fn was_omitted(&self) -> bool {
        !self.is_complete() && !self.started.load(Ordering::Relaxed)
    }

    /// Records that the service could accept more data, but the caller has not sent it yet.
    pub(crate) fn set_waiting_for_caller(&self, waker: &Waker) {
        self.waits_for_caller.store(true, Ordering::Relaxed);
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *sender {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Ends the request body with an error, because the response has ended. Otherwise, on a shared
    /// HTTP/2 connection to the service, the stream would stay open as long as the caller sends.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        let sender = self
            .sender
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(sender) = sender {
            sender.wake();
        }
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    pub(crate) fn set_fault(&self, fault: Denial) {
        let _ = self.fault.set(fault);
    }

    /// Returns the error of the caller's body. Returns `None` if there was no error.
    pub(crate) fn fault(&self) -> Option<&Denial> {
        self.fault.get()
    }

    /// Records that the service accepted a frame.
    pub(crate) fn record_progress(&self) {
        self.waits_for_caller.store(false, Ordering::Relaxed);
        *self
            .last_progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Waits for the response for at most `timeout`. Each frame that the service accepts starts the
    /// timeout again. Time in which the upload waits for data from the caller does not count.
    pub(crate) async fn response_within<T>(
        &self,
        timeout: Duration,
        response: impl Future<Output = T>,
    ) -> Result<T, ResponseTimeout> {
        let mut response = pin!(response);
        let mut pause = timeout;
        loop {
            if let Ok(response) = tokio::time::timeout(pause, response.as_mut()).await {
                return Ok(response);
            }
            pause = self.time_left(timeout, Instant::now())?;
        }
    }

    fn time_left(&self, timeout: Duration, now: Instant) -> Result<Duration, ResponseTimeout> {
        // The service's timeout does not run while the upload waits for the caller. `RequestBody`
        // itself limits this wait.
        if !self.is_complete() && self.waits_for_caller.load(Ordering::Relaxed) {
            return Ok(timeout);
        }
        let last = *self
            .last_progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        last.and_then(|last| timeout.checked_sub(now.saturating_duration_since(last)))
            .filter(|left| !left.is_zero())
            .ok_or(ResponseTimeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_was_not_polled_was_omitted() {
        assert!(!UploadProgress::new(true).was_omitted());
        let upload = UploadProgress::new(false);
        assert!(upload.was_omitted());
        upload.set_started();
        assert!(!upload.was_omitted());
    }

    #[test]
    fn the_service_has_its_time_from_when_it_has_everything() {
        let timeout = Duration::from_secs(10);
        let second = Duration::from_secs(1);
        let begin = Instant::now();
        let at = |seconds| begin + second * seconds;
        assert!(
            UploadProgress::new(true)
                .time_left(timeout, at(10))
                .is_err()
        );

        // While the upload waits for the caller, the service need not respond, so the timeout does
        // not run.
        let upload = UploadProgress::new(false);
        upload.set_waiting_for_caller(Waker::noop());
        assert_eq!(upload.time_left(timeout, at(10)).unwrap(), timeout);
        assert_eq!(upload.time_left(timeout, at(1000)).unwrap(), timeout);

        // The service's timeout starts when the service accepts a frame, even if the body is not
        // complete.
        upload.record_progress();
        let moved = upload.last_progress.lock().unwrap().unwrap();
        assert_eq!(
            upload.time_left(timeout, moved + second * 7).unwrap(),
            second * 3
        );
        assert!(upload.time_left(timeout, moved + timeout).is_err());
        upload.set_complete();
        assert_eq!(
            upload.time_left(timeout, moved + second).unwrap(),
            second * 9
        );
        assert!(upload.time_left(timeout, moved + second * 60).is_err());
    }
}
