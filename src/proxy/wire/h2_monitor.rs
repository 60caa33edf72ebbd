//! Follows the frames of an h2 connection, in both directions, by their headers.
//!
//! What h2 refuses by itself never reaches a handler: heads that are too large or
//! malformed, streams beyond the limit, faults of the protocol. Their traces in the
//! frames are counted here, so that an operator sees them. Frames that cost a lot and
//! carry nothing (resets, pings, settings, empty data) are bounded in number.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::h2_frames::{
    DATA, END_STREAM, FrameScanner, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};

/// The window of streams and of the connection where the caller says nothing (RFC 9113
/// section 6.5.2).
const DEFAULT_WINDOW: u32 = 65_535;

/// What frames without content may cost: at once, and for each second.
const CREDIT: u64 = 10_000;
const CREDIT_PER_SECOND: u64 = 500;
/// A reset throws work away, the gateway's and its service's: it costs more. That is 500
/// at once and 25 a second, beside what is earned: callers that cancel calls, as those of
/// gRPC do, have most of them answered.
const RESET_COST: u64 = 20;
/// Octets that we send for which a caller may send one frame more.
const OCTETS_PER_CREDIT: u64 = 512;
/// For two answers that came to their end a caller may reset a stream.
const CREDIT_PER_ANSWER: u64 = RESET_COST / 2;

/// What was seen of a connection's frames.
#[derive(Debug)]
pub(crate) struct H2Stats {
    /// Streams that the caller has opened.
    opened: AtomicU64,
    /// Streams that we have reset because of a fault of the caller.
    reset: AtomicU64,
    /// The error of the last such reset, and the one that ended the connection.
    reset_code: AtomicU32,
    ended_code: AtomicU32,
    /// Octets of content that we have sent, and answers that we have sent whole.
    sent: AtomicU64,
    answered: AtomicU64,
    /// There were too many frames without content. h2 keeps no more of an error than
    /// its text, so that it is said here.
    flooded: AtomicBool,
    /// The window that streams have at first, as the caller last said.
    stream_window: AtomicU32,
    /// What the connection may be sent in all.
    window: AtomicU64,
    /// Octets of answers that h2 was given and has not sent.
    queued: AtomicU64,
    /// The socket takes nothing of what we have to send.
    blocked: AtomicBool,
}

impl Default for H2Stats {
    fn default() -> Self {
        Self {
            opened: AtomicU64::new(0),
            reset: AtomicU64::new(0),
            reset_code: AtomicU32::new(0),
            ended_code: AtomicU32::new(0),
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            flooded: AtomicBool::new(false),
            stream_window: AtomicU32::new(DEFAULT_WINDOW),
            window: AtomicU64::new(DEFAULT_WINDOW.into()),
            queued: AtomicU64::new(0),
            blocked: AtomicBool::new(false),
        }
    }
}

/// Too many frames without content.
#[derive(Debug, thiserror::Error)]
#[error("the caller floods the connection with frames that carry nothing")]
pub(crate) struct FloodError;

impl H2Stats {
    /// Whether there were too many frames without content.
    pub(crate) fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }

    /// What the caller may send frames for that carry nothing: octets of answers, and
    /// what whole ones count for.
    fn taken(&self) -> u64 {
        let answered = self.answered.load(Ordering::Relaxed);
        let for_answers = answered.saturating_mul(CREDIT_PER_ANSWER * OCTETS_PER_CREDIT);
        self.sent().saturating_add(for_answers)
    }

    /// Octets of an answer are h2's from now on.
    pub(crate) fn queue(&self, octets: u64) {
        self.queued.fetch_add(octets, Ordering::Relaxed);
    }

    /// They have been sent, or never will be.
    pub(crate) fn unqueue(&self, octets: u64) {
        self.queued.fetch_sub(octets, Ordering::Relaxed);
    }

    /// Whether all of what h2 was given has been sent.
    pub(crate) fn is_all_sent(&self) -> bool {
        self.queued.load(Ordering::Relaxed) == 0
    }

    /// Octets of content that the connection has taken.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether the connection takes nothing more, of none of its `streams`: its window
    /// is used up, but for an octet that each stream may have claimed without sending
    /// it, or its socket is full.
    pub(crate) fn is_held_up(&self, streams: u64) -> bool {
        let window = self.window.load(Ordering::Relaxed);
        window.saturating_sub(self.sent()) <= streams || self.blocked.load(Ordering::Relaxed)
    }

    /// Whether the caller's windows take all that h2 was given, of a stream that was
    /// given `of_stream` octets so far. What it adds to the window of one stream is not
    /// followed: the end of a large answer passes for one without room, which costs it
    /// one turn more.
    pub(crate) fn has_room(&self, of_stream: u64) -> bool {
        let sent = self.sent();
        let queued = self.queued.load(Ordering::Relaxed);
        of_stream <= self.stream_window.load(Ordering::Relaxed).into()
            && sent.saturating_add(queued) <= self.window.load(Ordering::Relaxed)
    }

    /// What h2 refused by itself, when `served` requests have reached a handler.
    pub(crate) fn refusals(&self, served: u64) -> Option<String> {
        let silent = self.opened.load(Ordering::Relaxed).saturating_sub(served);
        let reset = self.reset.load(Ordering::Relaxed);
        let ended = self.ended_code.load(Ordering::Relaxed);
        if ended != 0 {
            return Some(format!("HTTP/2 ended the connection: {}", name(ended)));
        }
        if silent == 0 && reset == 0 {
            return None;
        }
        let code = self.reset_code.load(Ordering::Relaxed);
        Some(if reset > 0 {
            format!("HTTP/2 reset {reset} streams, the last with {}", name(code))
        } else {
            format!(
                "HTTP/2 answered or dropped {silent} requests by itself: heads that are too large, or reset at once"
            )
        })
    }
}

/// Names of error codes (RFC 9113 section 7).
const fn name(code: u32) -> &'static str {
    match code {
        1 => "PROTOCOL_ERROR",
        2 => "INTERNAL_ERROR",
        3 => "FLOW_CONTROL_ERROR",
        4 => "SETTINGS_TIMEOUT",
        5 => "STREAM_CLOSED",
        6 => "FRAME_SIZE_ERROR",
        7 => "REFUSED_STREAM",
        8 => "CANCEL",
        9 => "COMPRESSION_ERROR",
        11 => "ENHANCE_YOUR_CALM",
        _ => "another error",
    }
}

/// Whether a reset with this code is h2's own answer to a fault of the caller. Ours
/// are INTERNAL_ERROR, CANCEL and NO_ERROR.
const fn is_fault(code: u32) -> bool {
    matches!(code, 1 | 3 | 5 | 6 | 7 | 9 | 11)
}

/// What a caller's frames without content may still cost.
#[derive(Debug)]
struct Credit {
    left: u64,
    since: Instant,
    sent: u64,
}

impl Credit {
    /// Takes `cost`; whether there was enough. `sent` are the octets that the caller has
    /// earned by now.
    fn take(&mut self, cost: u64, sent: u64, now: impl FnOnce() -> Instant) -> bool {
        // Time and what was sent are looked at only where they matter.
        if self.left < CREDIT / 2 {
            let seconds = now().saturating_duration_since(self.since).as_secs();
            let octets = sent.saturating_sub(self.sent) / OCTETS_PER_CREDIT;
            let earned = seconds
                .saturating_mul(CREDIT_PER_SECOND)
                .saturating_add(octets);
            self.left = self.left.saturating_add(earned).min(CREDIT);
            // Only as far as it is paid: what is left over counts the next time.
            self.since += Duration::from_secs(seconds);
            self.sent = self.sent.saturating_add(octets * OCTETS_PER_CREDIT);
        }
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

/// A connection whose frames are followed.
pub(crate) struct MonitoredIo<S> {
    inner: S,
    incoming: FrameScanner,
    outgoing: FrameScanner,
    last_opened: u32,
    credit: Credit,
    seen: Arc<H2Stats>,
}

impl<S> MonitoredIo<S> {
    pub(crate) fn new(inner: S, seen: Arc<H2Stats>) -> Self {
        Self {
            inner,
            incoming: FrameScanner::new(PREFACE),
            outgoing: FrameScanner::new(0),
            last_opened: 0,
            credit: Credit {
                left: CREDIT,
                since: Instant::now(),
                sent: 0,
            },
            seen,
        }
    }

    fn received(&mut self, octets: &[u8]) -> Result<(), FloodError> {
        let (seen, credit, last) = (&self.seen, &mut self.credit, &mut self.last_opened);
        let mut enough = true;
        self.incoming.advance(octets, |frame| {
            let cost = match frame.kind {
                HEADERS => {
                    // Trailers come on a stream that was opened before.
                    if frame.stream > *last {
                        *last = frame.stream;
                        seen.opened.fetch_add(1, Ordering::Relaxed);
                    }
                    0
                }
                DATA if frame.length > 0 || frame.flags & END_STREAM != 0 => 0,
                RST_STREAM => RESET_COST,
                _ => 1,
            };
            match (frame.kind, frame.window) {
                (WINDOW_UPDATE, Some(more)) if frame.stream == 0 => {
                    seen.window.fetch_add(more.into(), Ordering::Relaxed);
                }
                (SETTINGS, Some(window)) => seen.stream_window.store(window, Ordering::Relaxed),
                _ => {}
            }
            if cost > 0 {
                enough &= credit.take(cost, seen.taken(), Instant::now);
            }
        });
        if enough {
            return Ok(());
        }
        seen.flooded.store(true, Ordering::Relaxed);
        Err(FloodError)
    }

    /// Notes whether the socket is full.
    fn noting<T>(&self, written: Poll<T>) -> Poll<T> {
        let blocked = &self.seen.blocked;
        // It hardly ever changes.
        if blocked.load(Ordering::Relaxed) != written.is_pending() {
            blocked.store(written.is_pending(), Ordering::Relaxed);
        }
        written
    }

    fn sent(&mut self, octets: &[u8]) {
        let seen = &self.seen;
        self.outgoing.advance(octets, |frame| match frame.kind {
            DATA | HEADERS => {
                if frame.kind == DATA {
                    seen.sent
                        .fetch_add(u64::from(frame.length), Ordering::Relaxed);
                }
                if frame.flags & END_STREAM != 0 {
                    seen.answered.fetch_add(1, Ordering::Relaxed);
                }
            }
            RST_STREAM if is_fault(frame.code) => {
                seen.reset.fetch_add(1, Ordering::Relaxed);
                seen.reset_code.store(frame.code, Ordering::Relaxed);
            }
            GOAWAY if is_fault(frame.code) => {
                seen.ended_code.store(frame.code, Ordering::Relaxed);
            }
            _ => {}
        });
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MonitoredIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
        let octets = buffer.filled().get(before..).unwrap_or_default();
        Poll::Ready(this.received(octets).map_err(io::Error::other))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MonitoredIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, octets);
        let count = ready!(self.noting(written))?;
        self.sent(octets.get(..count).unwrap_or_default());
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.noting(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        let count = ready!(self.noting(written))?;
        let mut left = count;
        for slice in slices {
            let now = left.min(slice.len());
            self.sent(slice.get(..now).unwrap_or_default());
            left -= now;
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::super::h2_frames::tests::frame;
    use super::*;

    #[test]
    fn what_h2_refused_is_said() {
        let seen = Arc::new(H2Stats::default());
        let mut watched = MonitoredIo::new((), Arc::clone(&seen));
        watched.received(&[0; 24]).unwrap();
        for stream in [1, 3, 3, 5] {
            watched.received(&frame(HEADERS, 4, stream, b"x")).unwrap();
        }
        assert_eq!(seen.refusals(3), None);
        assert!(seen.refusals(2).unwrap().contains("1 requests"));
        // A caller's cancellation and our own are no faults.
        watched.sent(&frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()));
        watched.sent(&frame(RST_STREAM, 0, 1, &0_u32.to_be_bytes()));
        assert_eq!(seen.refusals(3), None);
        watched.sent(&frame(RST_STREAM, 0, 1, &1_u32.to_be_bytes()));
        assert!(seen.refusals(3).unwrap().contains("PROTOCOL_ERROR"));
        watched.sent(&frame(GOAWAY, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 11]));
        assert!(seen.refusals(3).unwrap().contains("ENHANCE_YOUR_CALM"));
    }

    #[test]
    fn there_is_room_for_what_both_windows_take() {
        let seen = Arc::new(H2Stats::default());
        let mut watched = MonitoredIo::new((), Arc::clone(&seen));
        watched.received(&[0; 24]).unwrap();
        let mut setting = vec![0, 3, 0, 0, 0, 9];
        setting.extend([0, 4, 0, 1, 0, 0]);
        assert!(seen.has_room(65_535) && !seen.has_room(65_536));
        watched.received(&frame(SETTINGS, 0, 0, &setting)).unwrap();
        assert!(seen.has_room(65_536) && !seen.has_room(65_537));
        // The connection's window is another.
        seen.queue(65_535);
        assert!(seen.has_room(1));
        seen.queue(1);
        assert!(!seen.has_room(1) && !seen.is_all_sent());
        let more = 100_u32.to_be_bytes();
        watched
            .received(&frame(WINDOW_UPDATE, 0, 1, &more))
            .unwrap();
        assert!(!seen.has_room(1));
        watched
            .received(&frame(WINDOW_UPDATE, 0, 0, &more))
            .unwrap();
        assert!(seen.has_room(1));
        // What was sent uses it up, what was thrown away does not.
        watched.sent(&frame(DATA, 0, 1, &[0; 65_535]));
        seen.unqueue(65_536);
        seen.queue(100);
        assert!(seen.has_room(1));
        seen.queue(1);
        assert!(!seen.has_room(1));
        seen.unqueue(101);
        assert!(seen.is_all_sent());
    }

    #[tokio::test]
    async fn a_connection_is_held_up_by_its_window_and_by_its_socket() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let seen = Arc::new(H2Stats::default());
        let (ours, mut theirs) = tokio::io::duplex(100);
        let mut watched = MonitoredIo::new(ours, Arc::clone(&seen));
        watched.received(&[0; 24]).unwrap();
        let data = frame(DATA, 0, 1, &[0; 91]);
        assert!(!seen.is_held_up(9));
        watched.write_all(&data).await.unwrap();
        assert!(!seen.is_held_up(9) && seen.sent() == 91);
        let more = std::future::poll_fn(|context| {
            Poll::Ready(Pin::new(&mut watched).poll_write(context, &data))
        });
        assert!(more.await.is_pending() && seen.is_held_up(9));
        theirs.read_exact(&mut [0; 100]).await.unwrap();
        watched.write_all(&data).await.unwrap();
        assert!(!seen.is_held_up(9) && seen.sent() == 182);
        // Streams may have claimed what is left.
        watched.sent(&frame(DATA, 0, 1, &[0; 65_535 - 182 - 9]));
        assert!(seen.is_held_up(9) && !seen.is_held_up(8));
        let more = 1_u32.to_be_bytes();
        let update = frame(WINDOW_UPDATE, 0, 0, &more);
        watched.received(&update).unwrap();
        assert!(!seen.is_held_up(9));
    }

    #[test]
    fn frames_without_content_are_bounded_and_those_with_it_are_not() {
        let ping = frame(6, 0, 0, &[0; 8]);
        let window = frame(8, 0, 0, &[0; 4]);
        let reset = frame(RST_STREAM, 0, 1, &[0; 4]);
        let empty = frame(DATA, 0, 1, b"");
        for (octets, most) in [
            (&ping, CREDIT),
            (&window, CREDIT),
            (&empty, CREDIT),
            (&reset, CREDIT / RESET_COST),
        ] {
            let mut watched = MonitoredIo::new((), Arc::default());
            watched.received(&[0; 24]).unwrap();
            let mut count = 0;
            while watched.received(octets).is_ok() {
                count += 1;
                assert!(count < most + 20_000);
            }
            assert!(count >= most, "{count}");
        }
        // A caller that has two answered for each that it resets may go on.
        let mut watched = MonitoredIo::new((), Arc::default());
        watched.received(&[0; 24]).unwrap();
        let whole = frame(HEADERS, 4 | END_STREAM, 1, b"x");
        for _ in 0..10 * CREDIT / RESET_COST {
            watched.sent(&whole);
            watched.sent(&whole);
            watched.received(&reset).unwrap();
        }
        // A caller that is sent a lot may say so as often.
        let mut watched = MonitoredIo::new((), Arc::default());
        watched.received(&[0; 24]).unwrap();
        let data = frame(DATA, 0, 1, &[0; 1024]);
        for _ in 0..30_000 {
            watched.sent(&data);
            watched.received(&window).unwrap();
            watched.received(&frame(DATA, 0, 1, b"x")).unwrap();
        }
    }

    #[test]
    fn credit_comes_back_with_time() {
        let begin = Instant::now();
        let mut credit = Credit {
            left: 0,
            since: begin,
            sent: 0,
        };
        assert!(!credit.take(1, 0, || begin));
        assert!(credit.take(CREDIT_PER_SECOND, 0, || begin + Duration::from_secs(1)));
        assert!(!credit.take(1, 0, || begin + Duration::from_secs(1)));
        assert!(credit.take(CREDIT, 0, || begin + Duration::from_secs(3600)));
    }

    #[test]
    fn what_is_earned_by_octets_does_not_eat_what_time_earns() {
        let begin = Instant::now();
        let mut credit = Credit {
            left: CREDIT,
            since: begin,
            sent: 0,
        };
        // Ten answers a second, beside frames that cost less than a second earns.
        let cost = CREDIT_PER_SECOND / 10 - 1;
        for step in 1..6000_u64 {
            let now = begin + Duration::from_millis(100 * step);
            assert!(credit.take(cost, 600 * step, || now), "step {step}");
        }
    }
}
