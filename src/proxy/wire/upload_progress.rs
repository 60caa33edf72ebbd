//! `Upload`: how far a request's body is on its way to the service.
//!
//! The body's two ends know different things: the one that is read knows when the
//! caller keeps it waiting, the one that waits for the service's answer has to know
//! whose fault the waiting is.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::policy::Denial;

/// State shared by a request's body and whoever waits for its answer.
#[derive(Debug, Default)]
pub(crate) struct UploadProgress {
    /// Nothing more is to be sent.
    complete: AtomicBool,
    /// Somebody has wanted to send it.
    begun: AtomicBool,
    /// The caller has to send something first.
    waits_for_caller: AtomicBool,
    /// When the service last took something.
    last: Mutex<Option<Instant>>,
    /// What was wrong with the caller's body. An h2 connection to a service keeps
    /// nothing of that.
    fault: OnceLock<Denial>,
    /// Nobody waits for what becomes of the request any longer.
    abandoned: AtomicBool,
    /// Who waits for the caller to send something.
    sender: Mutex<Option<Waker>>,
}

/// The service let more time pass than it may.
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

    pub(crate) fn completed(&self) {
        self.complete.store(true, Ordering::Release);
    }

    pub(crate) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Whether the request went out as if it had no body, although it has one.
    pub(super) fn was_left_out(&self) -> bool {
        !self.is_complete() && !self.begun.load(Ordering::Relaxed)
    }

    /// The service wants more, and the caller has not sent it yet.
    pub(crate) fn waits(&self, waker: &Waker) {
        self.waits_for_caller.store(true, Ordering::Relaxed);
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *sender {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Nothing more of the request is sent. A stream of a shared connection would go
    /// on for as long as its caller sends.
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

    pub(crate) fn failed(&self, fault: Denial) {
        let _ = self.fault.set(fault);
    }

    /// What was wrong with the caller's body, if anything.
    pub(crate) fn fault(&self) -> Option<&Denial> {
        self.fault.get()
    }

    /// A piece was handed over.
    pub(crate) fn moved(&self) {
        self.waits_for_caller.store(false, Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Waits for the service, but no longer than `patience` at a time without a
    /// word from it while it is its turn.
    pub(crate) async fn answered<T>(
        &self,
        patience: Duration,
        answer: impl Future<Output = T>,
    ) -> Result<T, ResponseTimeout> {
        let mut answer = pin!(answer);
        let mut pause = patience;
        loop {
            if let Ok(answer) = tokio::time::timeout(pause, answer.as_mut()).await {
                return Ok(answer);
            }
            pause = self.left(patience, Instant::now())?;
        }
    }

    /// How much longer to wait.
    fn left(&self, patience: Duration, now: Instant) -> Result<Duration, ResponseTimeout> {
        // The caller's pauses are bounded where its body is read.
        if !self.is_complete() && self.waits_for_caller.load(Ordering::Relaxed) {
            return Ok(patience);
        }
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.and_then(|last| patience.checked_sub(now.saturating_duration_since(last)))
            .filter(|left| !left.is_zero())
            .ok_or(ResponseTimeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_nobody_wanted_was_left_out() {
        assert!(!UploadProgress::new(true).was_left_out());
        let upload = UploadProgress::new(false);
        assert!(upload.was_left_out());
        upload.begin();
        assert!(!upload.was_left_out());
    }

    #[test]
    fn the_service_has_its_time_from_when_it_has_everything() {
        let patience = Duration::from_secs(10);
        let second = Duration::from_secs(1);
        let begin = Instant::now();
        let at = |seconds| begin + second * seconds;
        assert!(UploadProgress::new(true).left(patience, at(10)).is_err());

        // While the caller pauses, the service is not late.
        let upload = UploadProgress::new(false);
        upload.waits(Waker::noop());
        assert_eq!(upload.left(patience, at(10)).unwrap(), patience);
        assert_eq!(upload.left(patience, at(1000)).unwrap(), patience);

        // From the last piece on it is its turn, whether or not more is to come.
        upload.moved();
        let moved = upload.last.lock().unwrap().unwrap();
        assert_eq!(
            upload.left(patience, moved + second * 7).unwrap(),
            second * 3
        );
        assert!(upload.left(patience, moved + patience).is_err());
        upload.completed();
        assert_eq!(upload.left(patience, moved + second).unwrap(), second * 9);
        assert!(upload.left(patience, moved + second * 60).is_err());
    }
}
