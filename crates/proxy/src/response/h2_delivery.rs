//! `H2Stream` and `TrackedBytes`: track how much of a response the caller of an HTTP/2 stream has
//! taken.
//!
//! "Taken" means that h2 has written the data to the connection, because the caller's flow-control
//! windows had space for it. hyper polls for data even if the windows have no space, and h2 buffers
//! the data that it cannot send. Neither library reports when data was sent. But h2 drops a buffer
//! after it has written the whole buffer, or when it discards the stream. [`TrackedBytes`]
//! distinguishes these two cases. A response is complete when all of its buffers were written.
//!
//! After the gateway has told h2 that a stream ends, the gateway cannot reset the stream any more.
//! If a response does not fit the caller's windows, its stream therefore stays open until the
//! caller has taken all data. Nearly all responses fit. A response that fits ends with its last
//! DATA frame, which saves a frame and a poll of the stream's task.
//!
//! An open stream ends early in two cases: if its caller takes no data for too long
//! ([`crate::wire::h2_stall`]), or if the deadline of its request passes. Neither h2 nor
//! hyper polls the body while data waits for a window. The stream's task therefore checks both
//! cases.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::sync::Notify;

use crate::connection::in_flight::Deadline;
use crate::connection::response_audit::ResponseAudit;
use crate::policy::Denial;
use crate::reason::ReasonCode;
use crate::wire::h2_monitor::H2Stats;
use crate::wire::h2_stall::{Sample, StallTimer};

tokio::task_local! {
    pub(super) static CURRENT: Arc<H2Stream>;
}

/// Data of a response that reports to its stream when h2 writes or discards it.
#[derive(Debug)]
pub(crate) struct TrackedBytes {
    data: Bytes,
    /// The stream that carries the data, and the original length of the data in bytes. `None` if
    /// delivery is not tracked, as in HTTP/1.1.
    stream: Option<(Arc<H2Stream>, u64)>,
}

impl From<Bytes> for TrackedBytes {
    /// Makes data that is not tracked.
    fn from(data: Bytes) -> Self {
        Self { data, stream: None }
    }
}

impl Buf for TrackedBytes {
    fn remaining(&self) -> usize {
        self.data.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.data
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
        if let Some((stream, _)) = &self.stream {
            stream.stats.unqueue(count as u64);
        }
    }
}

impl Drop for TrackedBytes {
    fn drop(&mut self) {
        if let Some((stream, length)) = self.stream.take() {
            stream.stats.unqueue(self.data.len() as u64);
            stream.buffer_dropped(length, self.data.is_empty());
        }
    }
}

/// The delivery state of one HTTP/2 stream.
#[derive(Debug)]
pub(crate) struct H2Stream {
    delivery: Mutex<Delivery>,
    deadline: Mutex<Option<StreamDeadline>>,
    /// True after the future that serves the stream has ended. After that, only h2 still holds a
    /// part of the response.
    task_is_over: AtomicBool,
    /// Notified when the stream's task must end.
    pub(super) end: Notify,
    stats: Arc<H2Stats>,
}

struct StreamDeadline(Deadline);

impl fmt::Debug for StreamDeadline {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("StreamDeadline")
    }
}

#[derive(Debug)]
struct Delivery {
    /// Timeout that ends the stream if the caller takes no part of a waiting buffer.
    stall_timeout: Duration,
    /// The timer that runs while a buffer waits for the caller.
    stall: Option<StallTimer>,
    /// Number of buffers that h2 has neither written completely nor discarded.
    buffers: usize,
    /// Total length in bytes of the buffers that h2 has neither written completely nor discarded.
    unread_bytes: u64,
    /// Number of bytes of this response that were passed to h2 until now.
    total_bytes: u64,
    /// Whether the caller's flow-control windows had space for the last buffer when the buffer was
    /// passed to h2.
    fits_window: bool,
    /// Whether h2 has discarded a buffer before it wrote all of it.
    discarded: bool,
    /// Whether the whole response was passed to h2.
    finished: bool,
    /// The task to wake when a buffer was written or discarded.
    waiting: Option<Waker>,
    audit: Option<ResponseAudit>,
    /// The reason why the stream ends before the caller has taken the response.
    denial: Option<Denial>,
}

impl H2Stream {
    /// Creates the delivery state with a default `stall_timeout`. `set_stall_timeout` replaces this
    /// timeout if the response comes from an upstream.
    pub(super) fn new(stats: Arc<H2Stats>, stall_timeout: Duration) -> Self {
        Self {
            delivery: Mutex::new(Delivery {
                stall_timeout,
                stall: None,
                buffers: 0,
                unread_bytes: 0,
                total_bytes: 0,
                fits_window: true,
                discarded: false,
                finished: false,
                waiting: None,
                audit: None,
                denial: None,
            }),
            deadline: Mutex::new(None),
            task_is_over: AtomicBool::new(false),
            end: Notify::new(),
            stats,
        }
    }

    /// Returns the stream that the current task serves. Returns `None` in HTTP/1.1.
    pub(crate) fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Sets the timeout for a caller that takes no part of a waiting buffer.
    pub(super) fn set_stall_timeout(&self, timeout: Duration) {
        self.delivery().stall_timeout = timeout;
    }

    /// Sets the time at which the stream must end, even if the caller has not taken the response.
    /// Must be called in the stream's task, because that task polls the deadline.
    pub(super) fn set_deadline(&self, deadline: Deadline) {
        *self.deadline() = Some(StreamDeadline(deadline));
    }

    /// Returns `Ready` when the deadline has passed.
    pub(super) fn poll_deadline(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut deadline = self.deadline();
        let Some(StreamDeadline(due)) = &mut *deadline else {
            return Poll::Pending;
        };
        let Poll::Ready(denial) = due.as_mut().poll(context) else {
            return Poll::Pending;
        };
        *deadline = None;
        self.delivery().denial = Some(denial);
        Poll::Ready(())
    }

    /// Tracks data that is passed to h2, until h2 has written or discarded the data.
    pub(super) fn track(self: &Arc<Self>, data: Bytes) -> TrackedBytes {
        if data.is_empty() {
            return data.into();
        }
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.stats.queue(length);
        let mut delivery = self.delivery();
        delivery.buffers += 1;
        delivery.unread_bytes += length;
        delivery.total_bytes += length;
        delivery.fits_window = self.stats.fits_window(delivery.total_bytes);
        if delivery.stall.is_none() {
            delivery.stall = Some(self.start_timer(Instant::now()));
        }
        drop(delivery);
        TrackedBytes {
            data,
            stream: Some((Arc::clone(self), length)),
        }
    }

    /// Stores the audit record until the response has ended.
    pub(crate) fn attach_audit(&self, audit: ResponseAudit) {
        self.delivery().audit = Some(audit);
    }

    /// Records that the whole response was passed to h2. Returns whether h2 can send all of it
    /// without a further WINDOW_UPDATE.
    pub(super) fn finish(&self) -> bool {
        let mut delivery = self.delivery();
        delivery.finished = true;
        let can_be_sent = delivery.fits_window || delivery.buffers == 0;
        self.settle_audit(delivery);
        can_be_sent
    }

    /// Returns `Ready` if at most `max_unread` bytes wait for the caller. Before `finish`, also
    /// returns `Ready` if the caller's windows have space.
    pub(super) fn poll_capacity(&self, context: &Context<'_>, max_unread: u64) -> Poll<()> {
        let mut delivery = self.delivery();
        if delivery.unread_bytes <= max_unread || (delivery.fits_window && !delivery.finished) {
            return Poll::Ready(());
        }
        match &mut delivery.waiting {
            Some(known) => known.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Records that h2 has dropped a buffer. `taken` is true if h2 has written all of it, and false
    /// if h2 has discarded the buffer. This function must not call h2, because h2 may hold its own
    /// locks during the call.
    fn buffer_dropped(&self, length: u64, taken: bool) {
        let mut delivery = self.delivery();
        delivery.buffers = delivery.buffers.saturating_sub(1);
        delivery.unread_bytes = delivery.unread_bytes.saturating_sub(length);
        delivery.discarded |= !taken;
        delivery.stall = (delivery.buffers > 0).then(|| self.start_timer(Instant::now()));
        let waiting = delivery.waiting.take();
        self.settle_audit(delivery);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    /// Does nothing until the whole response was passed to h2 and h2 has released all buffers of
    /// the response. Then completes the audit record, or records why h2 discarded a part of the
    /// response.
    fn settle_audit(&self, mut delivery: MutexGuard<'_, Delivery>) {
        if !delivery.finished || delivery.buffers > 0 {
            return;
        }
        let Some(audit) = delivery.audit.take() else {
            return;
        };
        let discarded = delivery.discarded;
        let denial = delivery.denial.clone();
        // The lock on `delivery` is released before the audit record is written.
        drop(delivery);
        match denial {
            _ if !discarded => audit.complete(),
            Some(denial) => audit.refused(&denial),
            None => {}
        }
    }

    /// Returns why the stream ends before the caller has taken the whole response.
    pub(super) fn denial(&self) -> Option<Denial> {
        self.delivery().denial.clone()
    }

    fn start_timer(&self, now: Instant) -> StallTimer {
        StallTimer::new(now, self.stats.sent())
    }

    /// Records that the stream's future has ended and only h2 has a part of the response.
    pub(super) fn set_task_over(&self) {
        self.task_is_over.store(true, Ordering::Relaxed);
    }

    /// Ends the stream if its caller has taken no data for too long. Returns true if the stream
    /// cannot be reset any more, so that the gateway must close the connection.
    pub(super) fn check_stall(&self, sample: &Sample) -> bool {
        let mut delivery = self.delivery();
        let timeout = delivery.stall_timeout;
        let Some(stall) = &mut delivery.stall else {
            return false;
        };
        if !stall.is_over(sample, timeout) {
            return false;
        }
        let task_is_over = self.task_is_over.load(Ordering::Relaxed);
        if task_is_over && self.stats.fits_window(delivery.total_bytes) {
            // The caller's window has space, so the socket causes the delay. `CallerSocket` has its
            // own timeout.
            delivery.stall = Some(self.start_timer(sample.now));
            return false;
        }
        let detail = "the caller did not take the answer for too long";
        let denial = || Denial::new(ReasonCode::Timeout, detail);
        delivery.denial.get_or_insert_with(denial);
        drop(delivery);
        self.end.notify_one();
        task_is_over
    }

    fn deadline(&self) -> MutexGuard<'_, Option<StreamDeadline>> {
        self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delivery(&self) -> MutexGuard<'_, Delivery> {
        self.delivery.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn stream(stats: &Arc<H2Stats>) -> Arc<H2Stream> {
        Arc::new(H2Stream::new(Arc::clone(stats), MINUTE))
    }

    /// Returns a sample of a connection that is blocked and sends no bytes. The sample is taken
    /// `time` from now.
    fn after(time: Duration) -> Sample {
        Sample {
            now: Instant::now() + time,
            sent: 0,
            is_blocked: true,
            streams: 1,
        }
    }

    fn given_up(stream: &H2Stream) -> bool {
        stream
            .denial()
            .is_some_and(|denial| denial.reason == ReasonCode::Timeout)
    }

    fn poll(stream: &H2Stream, max_unread: u64) -> bool {
        let context = Context::from_waker(Waker::noop());
        stream.poll_capacity(&context, max_unread).is_ready()
    }

    #[test]
    fn a_response_that_fits_ends_at_once_and_another_when_it_was_taken() {
        let stats = Arc::new(H2Stats::default());
        let first = stream(&stats);
        let mut piece = first.track(Bytes::from_static(&[0; 65_535]));
        assert!(first.finish());
        let second = stream(&stats);
        let other = second.track(Bytes::from_static(b"ab"));
        assert!(!second.finish() && !poll(&second, 0) && poll(&second, 2));
        // h2 has written only a part of the buffer.
        piece.advance(65_534);
        assert!(!stats.is_all_sent() && first.delivery().buffers == 1);
        piece.advance(1);
        drop(piece);
        assert!(!first.check_stall(&after(MINUTE)));
        drop(other);
        assert!(poll(&second, 0) && second.delivery().discarded && stats.is_all_sent());
    }

    #[test]
    fn a_caller_has_its_time_for_each_piece() {
        let stats = Arc::new(H2Stats::default());
        let stream = stream(&stats);
        assert!(!stream.check_stall(&after(MINUTE)) && !given_up(&stream));
        let piece = stream.track(Bytes::from_static(b"ab"));
        let next = stream.track(Bytes::from_static(b"cd"));
        let almost = after(MINUTE);
        drop(piece);
        // The stall timer was restarted when `piece` was dropped.
        assert!(!stream.check_stall(&almost) && !given_up(&stream));
        assert!(!stream.check_stall(&after(MINUTE)) && given_up(&stream));
        drop(next);
        assert!(stream.delivery().stall.is_none());
    }

    #[test]
    fn only_its_connection_can_end_a_stream_that_h2_alone_still_has() {
        let stats = Arc::new(H2Stats::default());
        let stream = stream(&stats);
        let _piece = stream.track(Bytes::from_static(b"ab"));
        assert!(stream.finish());
        stream.set_task_over();
        // The stream's task is over, and the caller's window has space. So the socket causes the
        // delay, and `CallerSocket` has its own timeout.
        assert!(!stream.check_stall(&after(MINUTE)) && !given_up(&stream));
        stats.queue(65_535);
        assert!(stream.check_stall(&after(2 * MINUTE)) && given_up(&stream));
    }
}
