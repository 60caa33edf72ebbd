//! `Stream` and `Piece`: what of an answer the caller of an h2 stream has taken.
//!
//! hyper asks for an answer's pieces whether or not the caller has window for them, and
//! h2 keeps what it cannot send. Nobody says when it has been sent; but the octets are
//! ours, and h2 drops a piece once it has written all of it, or throws it away with its
//! stream. That is what is followed here: a piece that was written whole has been
//! taken, and an answer is complete when all of its pieces were.
//!
//! A stream whose end h2 has been told cannot be reset by us any more. So an answer for
//! which there is no room says that it has ended only when the caller has taken it. One
//! for which there is room, nearly every one, says so with its last piece, and costs
//! neither another frame nor another turn of its task.
//!
//! Until then its stream ends when its caller takes nothing of it for too long
//! ([`crate::proxy::wire::h2_stall`]), and when the credentials of its request do. Nothing in h2
//! or hyper would ask for either while a piece waits for a window, so that the stream's
//! task looks after both.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::sync::Notify;

use crate::policy::Denial;
use crate::proxy::connection::in_flight::Deadline;
use crate::proxy::connection::response_audit::ResponseAudit;
use crate::proxy::wire::h2_monitor::H2Stats;
use crate::proxy::wire::h2_stall::{Sample, StallTimer};
use crate::reason::ReasonCode;

tokio::task_local! {
    pub(super) static STREAM: Arc<H2Stream>;
}

/// Octets on their way to a caller.
#[derive(Debug)]
pub(crate) struct TrackedBytes {
    octets: Bytes,
    /// Whose they are, and how many there were; none in HTTP/1.1.
    of: Option<(Arc<H2Stream>, u64)>,
}

impl From<Bytes> for TrackedBytes {
    /// Octets that nobody follows.
    fn from(octets: Bytes) -> Self {
        Self { octets, of: None }
    }
}

impl Buf for TrackedBytes {
    fn remaining(&self) -> usize {
        self.octets.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.octets
    }

    fn advance(&mut self, count: usize) {
        self.octets.advance(count);
        if let Some((stream, _)) = &self.of {
            stream.seen.unqueue(count as u64);
        }
    }
}

impl Drop for TrackedBytes {
    fn drop(&mut self) {
        if let Some((stream, octets)) = self.of.take() {
            stream.seen.unqueue(self.octets.len() as u64);
            stream.gone(octets, self.octets.is_empty());
        }
    }
}

/// One stream of a connection.
#[derive(Debug)]
pub(crate) struct H2Stream {
    delivery: Mutex<Delivery>,
    deadline: Mutex<Option<StreamDeadline>>,
    /// Its task has ended by itself: what is left of it is h2's alone.
    served: AtomicBool,
    /// Ends its task.
    pub(super) end: Notify,
    seen: Arc<H2Stats>,
}

/// When the answer has to be over.
struct StreamDeadline(Deadline);

impl fmt::Debug for StreamDeadline {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("StreamDeadline")
    }
}

#[derive(Debug)]
struct Delivery {
    /// How long the caller may leave a piece untaken.
    longest: Duration,
    /// Since when it has not taken the next one.
    wait: Option<StallTimer>,
    /// Pieces that it has not taken, and their octets.
    pieces: usize,
    untaken: u64,
    /// All octets so far.
    handed_over: u64,
    /// There was room for the last piece.
    has_room: bool,
    /// A piece was thrown away.
    lost: bool,
    /// There are no more pieces to come.
    ended: bool,
    /// Who waits for pieces to be taken.
    waiting: Option<Waker>,
    account: Option<ResponseAudit>,
    /// Why it is ended before it was taken.
    denial: Option<Denial>,
}

impl H2Stream {
    /// `longest` is how long its caller may leave a piece untaken unless its upstream
    /// says something else.
    pub(super) fn new(seen: Arc<H2Stats>, longest: Duration) -> Self {
        Self {
            delivery: Mutex::new(Delivery {
                longest,
                wait: None,
                pieces: 0,
                untaken: 0,
                handed_over: 0,
                has_room: true,
                lost: false,
                ended: false,
                waiting: None,
                account: None,
                denial: None,
            }),
            deadline: Mutex::new(None),
            served: AtomicBool::new(false),
            end: Notify::new(),
            seen,
        }
    }

    /// The stream that the present task serves; none in HTTP/1.1.
    pub(crate) fn current() -> Option<Arc<Self>> {
        STREAM.try_with(Arc::clone).ok()
    }

    /// How long the caller may leave a piece untaken.
    pub(super) fn may_pause(&self, longest: Duration) {
        self.delivery().longest = longest;
    }

    /// The answer is over then, whether or not the caller has taken it. To be called in
    /// its task.
    pub(super) fn end_by(&self, deadline: Deadline) {
        *self.deadline() = Some(StreamDeadline(deadline));
    }

    /// Resolves when the answer has to be over.
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

    /// Octets for h2, followed until they are taken or thrown away.
    pub(super) fn hand_over(self: &Arc<Self>, octets: Bytes) -> TrackedBytes {
        if octets.is_empty() {
            return octets.into();
        }
        let length = u64::try_from(octets.len()).unwrap_or(u64::MAX);
        self.seen.queue(length);
        let mut delivery = self.delivery();
        delivery.pieces += 1;
        delivery.untaken += length;
        delivery.handed_over += length;
        delivery.has_room = self.seen.has_room(delivery.handed_over);
        if delivery.wait.is_none() {
            delivery.wait = Some(self.wait_from(Instant::now()));
        }
        drop(delivery);
        TrackedBytes {
            octets,
            of: Some((Arc::clone(self), length)),
        }
    }

    /// Keeps what is to be written down of the answer until it is over.
    pub(crate) fn keep(&self, account: ResponseAudit) {
        self.delivery().account = Some(account);
    }

    /// All of the answer has been handed over. Whether h2 gets rid of it without the
    /// caller's doing.
    pub(super) fn end(&self) -> bool {
        let mut delivery = self.delivery();
        delivery.ended = true;
        let leaves = delivery.has_room || delivery.pieces == 0;
        self.settle(delivery);
        leaves
    }

    /// Waits until there is room, or the caller has taken all but `most` octets.
    pub(super) fn poll_room(&self, context: &Context<'_>, most: u64) -> Poll<()> {
        let mut delivery = self.delivery();
        if delivery.untaken <= most || (delivery.has_room && !delivery.ended) {
            return Poll::Ready(());
        }
        match &mut delivery.waiting {
            Some(known) => known.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// A piece is gone: `taken`, or thrown away. h2 may hold its own locks: nothing
    /// here calls it.
    fn gone(&self, octets: u64, taken: bool) {
        let mut delivery = self.delivery();
        delivery.pieces = delivery.pieces.saturating_sub(1);
        delivery.untaken = delivery.untaken.saturating_sub(octets);
        delivery.lost |= !taken;
        delivery.wait = (delivery.pieces > 0).then(|| self.wait_from(Instant::now()));
        let waiting = delivery.waiting.take();
        self.settle(delivery);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    /// Closes the account when the answer is over.
    fn settle(&self, mut delivery: MutexGuard<'_, Delivery>) {
        if !delivery.ended || delivery.pieces > 0 {
            return;
        }
        let Some(account) = delivery.account.take() else {
            return;
        };
        let lost = delivery.lost;
        let denial = delivery.denial.clone();
        drop(delivery);
        match denial {
            _ if !lost => account.complete(),
            Some(denial) => account.refused(&denial),
            None => {}
        }
    }

    /// Why the stream is ended before its caller has taken all of its answer.
    pub(super) fn denial(&self) -> Option<Denial> {
        self.delivery().denial.clone()
    }

    fn wait_from(&self, now: Instant) -> StallTimer {
        StallTimer::new(now, self.seen.sent())
    }

    /// Its task has ended by itself.
    pub(super) fn served(&self) {
        self.served.store(true, Ordering::Relaxed);
    }

    /// Ends the stream if its caller has taken nothing for too long. Whether only the
    /// end of its connection can do that.
    pub(super) fn give_up(&self, look: &Sample) -> bool {
        let mut delivery = self.delivery();
        let longest = delivery.longest;
        let Some(wait) = &mut delivery.wait else {
            return false;
        };
        if !wait.is_over(look, longest) {
            return false;
        }
        let served = self.served.load(Ordering::Relaxed);
        if served && self.seen.has_room(delivery.handed_over) {
            // It has window: the socket is slow, and looks after itself.
            delivery.wait = Some(self.wait_from(look.now));
            return false;
        }
        let detail = "the caller did not take the answer for too long";
        let denial = || Denial::new(ReasonCode::Timeout, detail);
        delivery.denial.get_or_insert_with(denial);
        drop(delivery);
        self.end.notify_one();
        served
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

    fn stream(seen: &Arc<H2Stats>) -> Arc<H2Stream> {
        Arc::new(H2Stream::new(Arc::clone(seen), MINUTE))
    }

    /// A look at a connection of which nothing is taken.
    fn after(time: Duration) -> Sample {
        Sample {
            now: Instant::now() + time,
            sent: 0,
            is_held_up: true,
            streams: 1,
        }
    }

    fn given_up(stream: &H2Stream) -> bool {
        stream
            .denial()
            .is_some_and(|denial| denial.reason == ReasonCode::Timeout)
    }

    fn poll(stream: &H2Stream, most: u64) -> bool {
        let context = Context::from_waker(Waker::noop());
        stream.poll_room(&context, most).is_ready()
    }

    #[test]
    fn an_answer_with_room_ends_at_once_and_one_without_when_it_was_taken() {
        let seen = Arc::new(H2Stats::default());
        let first = stream(&seen);
        let mut piece = first.hand_over(Bytes::from_static(&[0; 65_535]));
        assert!(first.end());
        let second = stream(&seen);
        let other = second.hand_over(Bytes::from_static(b"ab"));
        assert!(!second.end() && !poll(&second, 0) && poll(&second, 2));
        // A part of it is not all of it.
        piece.advance(65_534);
        assert!(!seen.is_all_sent() && first.delivery().pieces == 1);
        piece.advance(1);
        drop(piece);
        assert!(!first.give_up(&after(MINUTE)));
        drop(other);
        assert!(poll(&second, 0) && second.delivery().lost && seen.is_all_sent());
    }

    #[test]
    fn a_caller_has_its_time_for_each_piece() {
        let seen = Arc::new(H2Stats::default());
        let stream = stream(&seen);
        assert!(!stream.give_up(&after(MINUTE)) && !given_up(&stream));
        let piece = stream.hand_over(Bytes::from_static(b"ab"));
        let next = stream.hand_over(Bytes::from_static(b"cd"));
        let almost = after(MINUTE);
        drop(piece);
        // Its clock began anew with the next one.
        assert!(!stream.give_up(&almost) && !given_up(&stream));
        assert!(!stream.give_up(&after(MINUTE)) && given_up(&stream));
        drop(next);
        assert!(stream.delivery().wait.is_none());
    }

    #[test]
    fn only_its_connection_can_end_a_stream_that_h2_alone_still_has() {
        let seen = Arc::new(H2Stats::default());
        let stream = stream(&seen);
        let _piece = stream.hand_over(Bytes::from_static(b"ab"));
        assert!(stream.end());
        stream.served();
        // The socket is slow: that is not the stream's to judge.
        assert!(!stream.give_up(&after(MINUTE)) && !given_up(&stream));
        seen.queue(65_535);
        assert!(stream.give_up(&after(2 * MINUTE)) && given_up(&stream));
    }
}
