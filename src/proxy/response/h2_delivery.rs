//! `H2Stream` and `TrackedBytes`: how much of a response the caller of an HTTP/2 stream
//! has taken.
//!
//! hyper asks for a response's data whether or not the caller's window has space for it,
//! and h2 keeps what it cannot send. Neither says when the data has been sent. But h2
//! drops a buffer once it has written all of it, or discards it with its stream.
//! [`TrackedBytes`] observes that: a buffer that was written whole has been taken, and a
//! response is complete when all of its buffers were.
//!
//! Once h2 has been told that a stream ends, we cannot reset the stream any more. A
//! response that does not fit the caller's windows therefore ends its stream only when
//! the caller has taken it. One that fits, as nearly all do, ends with its last data,
//! which saves a frame and a poll of the stream's task.
//!
//! Until then the stream ends if its caller takes nothing for too long
//! ([`crate::proxy::wire::h2_stall`]), or when the deadline of its request passes.
//! Neither h2 nor hyper polls the body while data waits for a window, so that the
//! stream's task checks both.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::sync::Notify;

use crate::policy::Denial;
use crate::proxy::connection::in_flight::Deadline;
use crate::proxy::connection::response_audit::ResponseAudit;
use crate::proxy::connection::unread_body::UnreadBody;
use crate::proxy::wire::h2_monitor::H2Stats;
use crate::proxy::wire::h2_stall::{Sample, StallTimer};
use crate::reason::ReasonCode;

tokio::task_local! {
    pub(super) static CURRENT: Arc<H2Stream>;
}

/// Data of a response on its way to the caller.
#[derive(Debug)]
pub(crate) struct TrackedBytes {
    data: Bytes,
    /// The stream and the original length; none in HTTP/1.1.
    stream: Option<(Arc<H2Stream>, u64)>,
}

impl From<Bytes> for TrackedBytes {
    /// Data that no stream tracks.
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

/// One stream of a connection.
#[derive(Debug)]
pub(crate) struct H2Stream {
    delivery: Mutex<Delivery>,
    deadline: Mutex<Option<StreamDeadline>>,
    /// The stream's task is over: only h2 still holds some of the response.
    task_is_over: AtomicBool,
    /// Ends the stream's task.
    pub(super) end: Notify,
    /// Set if the request had a body.
    unread: OnceLock<Arc<UnreadBody>>,
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
    /// How long the caller may leave a buffer untaken.
    stall_timeout: Duration,
    /// Runs while the caller has not taken the next buffer.
    stall: Option<StallTimer>,
    /// Buffers that the caller has not taken, and their bytes.
    buffers: usize,
    unread_bytes: u64,
    /// All bytes so far.
    total_bytes: u64,
    /// The caller's windows had space for the last buffer.
    fits_window: bool,
    /// h2 discarded a buffer.
    discarded: bool,
    /// No more buffers will come.
    finished: bool,
    /// The task that waits for buffers to be taken.
    waiting: Option<Waker>,
    audit: Option<ResponseAudit>,
    /// Why the stream ends before the response was taken.
    denial: Option<Denial>,
}

impl H2Stream {
    /// `stall_timeout` holds unless the upstream sets another one.
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
            unread: OnceLock::new(),
            stats,
        }
    }

    /// The stream that the current task serves; none in HTTP/1.1.
    pub(crate) fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Keeps what nothing reads of the request until the response is complete.
    pub(crate) fn unread(&self) -> Arc<UnreadBody> {
        Arc::clone(self.unread.get_or_init(Arc::default))
    }

    /// Waits for the rest of a request of which nothing else reads anything; to be called
    /// when h2 has the whole response.
    pub(super) async fn drain_request(&self) {
        if let Some(unread) = self.unread.get() {
            unread.drain().await;
        }
    }

    /// Sets how long the caller may leave a buffer untaken.
    pub(super) fn set_stall_timeout(&self, timeout: Duration) {
        self.delivery().stall_timeout = timeout;
    }

    /// Sets when the response has to be over, taken or not. To be called in the stream's
    /// task, which polls the deadline from then on.
    pub(super) fn set_deadline(&self, deadline: Deadline) {
        *self.deadline() = Some(StreamDeadline(deadline));
    }

    /// Resolves when the response has to be over.
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

    /// Tracks data that is handed to h2, until it is taken or discarded.
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

    /// Keeps the audit record until the response is over.
    pub(crate) fn attach_audit(&self, audit: ResponseAudit) {
        self.delivery().audit = Some(audit);
    }

    /// Records that all of the response has been handed over. Returns whether h2 can send
    /// it without the caller opening a window.
    pub(super) fn finish(&self) -> bool {
        let mut delivery = self.delivery();
        delivery.finished = true;
        let can_be_sent = delivery.fits_window || delivery.buffers == 0;
        self.settle_audit(delivery);
        can_be_sent
    }

    /// Waits until the windows have space, or the caller has taken all but `max_unread`
    /// bytes.
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

    /// Records that a buffer was `taken` or discarded. Must not call h2, which may hold
    /// its own locks here.
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

    /// Closes the audit record if the response is over.
    fn settle_audit(&self, mut delivery: MutexGuard<'_, Delivery>) {
        if !delivery.finished || delivery.buffers > 0 {
            return;
        }
        let Some(audit) = delivery.audit.take() else {
            return;
        };
        let discarded = delivery.discarded;
        let denial = delivery.denial.clone();
        // The record is written without the lock.
        drop(delivery);
        match denial {
            _ if !discarded => audit.complete(),
            Some(denial) => audit.refused(&denial),
            None => {}
        }
    }

    /// Why the stream ends before its caller has taken all of the response.
    pub(super) fn denial(&self) -> Option<Denial> {
        self.delivery().denial.clone()
    }

    fn start_timer(&self, now: Instant) -> StallTimer {
        StallTimer::new(now, self.stats.sent())
    }

    /// Records that the stream's task has ended by itself.
    pub(super) fn set_task_over(&self) {
        self.task_is_over.store(true, Ordering::Relaxed);
    }

    /// Ends the stream if its caller has taken nothing for too long. Returns whether only
    /// the end of the connection can do that.
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
            // The window is open, so that the socket is slow. It has a timeout of its own.
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

    /// A sample of a connection that takes nothing.
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
        // A part of it is not all of it.
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
        // The timer began anew with the next one.
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
        // The socket is slow, which has a timeout of its own.
        assert!(!stream.check_stall(&after(MINUTE)) && !given_up(&stream));
        stats.queue(65_535);
        assert!(stream.check_stall(&after(2 * MINUTE)) && given_up(&stream));
    }
}
