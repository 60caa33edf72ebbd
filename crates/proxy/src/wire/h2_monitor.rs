//! `MonitoredIo`: reads the frame headers of an HTTP/2 connection in both directions.
//!
//! h2 itself refuses heads that are too large or malformed, streams beyond the limit, and
//! protocol errors. These never reach a handler. They are visible only in the frames, and
//! are counted here, so that an operator sees them. Frames that cost work but carry no
//! content (resets, pings, settings, empty data) are limited in number.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::h2_frames::{
    DATA, END_STREAM, FrameScanner, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};

/// The initial window of streams and of the connection (RFC 9113 section 6.5.2).
const DEFAULT_WINDOW: u32 = 65_535;

/// Maximum credit for frames without content.
const MAX_CREDIT: u64 = 10_000;
/// Credit that is earned in one second.
const CREDIT_PER_SECOND: u64 = 500;
/// A reset costs more, because it discards work of the gateway and of the service. This
/// allows 500 resets at once and 25 per second, and more for each complete response: a
/// gRPC caller that cancels some calls completes most of them.
const RESET_COST: u64 = 20;
/// Bytes of content that earn one credit.
const BYTES_PER_CREDIT: u64 = 512;
/// Credit that a whole response earns: two of them pay for one reset.
const CREDIT_PER_RESPONSE: u64 = RESET_COST / 2;

/// Counts and facts that the monitor learned from the frames of a connection.
#[derive(Debug)]
pub(crate) struct H2Stats {
    /// Number of streams that the caller has opened.
    opened: AtomicU64,
    /// Number of streams that h2 has reset because of an error of the caller.
    reset: AtomicU64,
    /// The code of the last such reset.
    reset_code: AtomicU32,
    /// The error code of the GOAWAY that h2 has sent; 0 if it has sent none.
    goaway_code: AtomicU32,
    /// Bytes of content that were sent.
    sent: AtomicU64,
    /// Number of responses that were sent whole.
    responses: AtomicU64,
    /// There were too many frames without content. Stored here, because h2 keeps only the
    /// text of an I/O error.
    flooded: AtomicBool,
    /// The initial window of streams, as the caller last set it.
    stream_window: AtomicU32,
    /// Total number of bytes that the connection's window has allowed so far.
    connection_window: AtomicU64,
    /// Bytes of responses that were passed to h2 and that it has not sent.
    queued: AtomicU64,
    /// The socket accepts no more bytes.
    socket_is_full: AtomicBool,
}

impl Default for H2Stats {
    fn default() -> Self {
        Self {
            opened: AtomicU64::new(0),
            reset: AtomicU64::new(0),
            reset_code: AtomicU32::new(0),
            goaway_code: AtomicU32::new(0),
            sent: AtomicU64::new(0),
            responses: AtomicU64::new(0),
            flooded: AtomicBool::new(false),
            stream_window: AtomicU32::new(DEFAULT_WINDOW),
            connection_window: AtomicU64::new(DEFAULT_WINDOW.into()),
            queued: AtomicU64::new(0),
            socket_is_full: AtomicBool::new(false),
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

    /// Returns the number of bytes for which the caller earns credit: the content that was
    /// sent, and a fixed number for each complete response.
    fn earning_bytes(&self) -> u64 {
        let responses = self.responses.load(Ordering::Relaxed);
        let for_responses = responses.saturating_mul(CREDIT_PER_RESPONSE * BYTES_PER_CREDIT);
        self.sent().saturating_add(for_responses)
    }

    /// Records that bytes of a response were passed to h2.
    pub(crate) fn queue(&self, bytes: u64) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Records that h2 has sent or discarded bytes of a response.
    pub(crate) fn unqueue(&self, bytes: u64) {
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether h2 has sent all bytes that were passed to it.
    pub(crate) fn is_all_sent(&self) -> bool {
        self.queued.load(Ordering::Relaxed) == 0
    }

    /// Returns the number of content bytes that were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether none of the `streams` can send, because the socket is full or the
    /// connection's window is used up. Each stream may have reserved one byte of the
    /// window.
    pub(crate) fn is_blocked(&self, streams: u64) -> bool {
        let window = self.connection_window.load(Ordering::Relaxed);
        window.saturating_sub(self.sent()) <= streams || self.socket_is_full.load(Ordering::Relaxed)
    }

    /// Whether the caller's windows have space for all bytes that were passed to h2;
    /// `of_stream` of them belong to the stream that asks. Window updates of single
    /// streams are not tracked. A large response therefore never seems to fit, which costs
    /// one more poll at its end.
    pub(crate) fn fits_window(&self, of_stream: u64) -> bool {
        let sent = self.sent();
        let queued = self.queued.load(Ordering::Relaxed);
        of_stream <= self.stream_window.load(Ordering::Relaxed).into()
            && sent.saturating_add(queued) <= self.connection_window.load(Ordering::Relaxed)
    }

    /// Describes what h2 itself has refused, if anything. `served` is the number of
    /// requests that reached a handler.
    pub(crate) fn refusals(&self, served: u64) -> Option<String> {
        let unserved = self.opened.load(Ordering::Relaxed).saturating_sub(served);
        let reset = self.reset.load(Ordering::Relaxed);
        let goaway = self.goaway_code.load(Ordering::Relaxed);
        if goaway != 0 {
            return Some(format!("HTTP/2 ended the connection: {}", name(goaway)));
        }
        if unserved == 0 && reset == 0 {
            return None;
        }
        let code = self.reset_code.load(Ordering::Relaxed);
        Some(if reset > 0 {
            format!("HTTP/2 reset {reset} streams, the last with {}", name(code))
        } else {
            format!(
                "HTTP/2 answered or dropped {unserved} requests by itself: heads that are too large, or reset at once"
            )
        })
    }
}

/// Returns the name of an error code (RFC 9113 section 7).
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

/// Whether h2 uses this code for an error of the caller. The gateway itself resets streams
/// only with INTERNAL_ERROR, CANCEL and NO_ERROR.
const fn is_caller_error(code: u32) -> bool {
    matches!(code, 1 | 3 | 5 | 6 | 7 | 9 | 11)
}

/// The credit that a caller has left for frames without content. Credit is earned by time
/// and by content that is sent to the caller.
#[derive(Debug)]
struct Credit {
    left: u64,
    /// Credit was added for the time up to this moment.
    paid_until: Instant,
    /// Credit was added for this number of bytes.
    paid_bytes: u64,
}

impl Credit {
    /// Spends `cost`. Returns whether there was enough credit. `earning_bytes` is the
    /// total so far.
    fn spend(&mut self, cost: u64, earning_bytes: u64, now: impl FnOnce() -> Instant) -> bool {
        // Reads the clock only if it matters.
        if self.left < MAX_CREDIT / 2 {
            let seconds = now().saturating_duration_since(self.paid_until).as_secs();
            let for_bytes = earning_bytes.saturating_sub(self.paid_bytes) / BYTES_PER_CREDIT;
            let earned = seconds
                .saturating_mul(CREDIT_PER_SECOND)
                .saturating_add(for_bytes);
            self.left = self.left.saturating_add(earned).min(MAX_CREDIT);
            // Fractions of a second and of a credit are counted the next time.
            self.paid_until += Duration::from_secs(seconds);
            self.paid_bytes = self.paid_bytes.saturating_add(for_bytes * BYTES_PER_CREDIT);
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

/// A connection whose frames are monitored.
pub(crate) struct MonitoredIo<S> {
    inner: S,
    incoming: FrameScanner,
    outgoing: FrameScanner,
    last_opened: u32,
    credit: Credit,
    stats: Arc<H2Stats>,
}

impl<S> MonitoredIo<S> {
    pub(crate) fn new(inner: S, stats: Arc<H2Stats>) -> Self {
        Self {
            inner,
            incoming: FrameScanner::new(PREFACE),
            outgoing: FrameScanner::new(0),
            last_opened: 0,
            credit: Credit {
                left: MAX_CREDIT,
                paid_until: Instant::now(),
                paid_bytes: 0,
            },
            stats,
        }
    }

    /// Processes the frames in received bytes.
    fn received(&mut self, bytes: &[u8]) -> Result<(), FloodError> {
        let (stats, credit, last) = (&self.stats, &mut self.credit, &mut self.last_opened);
        let mut enough = true;
        self.incoming.advance(bytes, |frame| {
            let cost = match frame.kind {
                HEADERS => {
                    // HEADERS on a stream that was opened before are trailers.
                    if frame.stream > *last {
                        *last = frame.stream;
                        stats.opened.fetch_add(1, Ordering::Relaxed);
                    }
                    0
                }
                DATA if frame.length > 0 || frame.flags & END_STREAM != 0 => 0,
                RST_STREAM => RESET_COST,
                _ => 1,
            };
            match (frame.kind, frame.window) {
                (WINDOW_UPDATE, Some(more)) if frame.stream == 0 => {
                    stats
                        .connection_window
                        .fetch_add(more.into(), Ordering::Relaxed);
                }
                (SETTINGS, Some(window)) => stats.stream_window.store(window, Ordering::Relaxed),
                _ => {}
            }
            if cost > 0 {
                enough &= credit.spend(cost, stats.earning_bytes(), Instant::now);
            }
        });
        if enough {
            return Ok(());
        }
        stats.flooded.store(true, Ordering::Relaxed);
        Err(FloodError)
    }

    /// Records whether the socket is full.
    fn observe<T>(&self, written: Poll<T>) -> Poll<T> {
        let is_full = &self.stats.socket_is_full;
        // Stored only if it has changed, because it rarely does.
        if is_full.load(Ordering::Relaxed) != written.is_pending() {
            is_full.store(written.is_pending(), Ordering::Relaxed);
        }
        written
    }

    /// Processes the frames in sent bytes.
    fn sent(&mut self, bytes: &[u8]) {
        let stats = &self.stats;
        self.outgoing.advance(bytes, |frame| match frame.kind {
            DATA | HEADERS => {
                if frame.kind == DATA {
                    stats
                        .sent
                        .fetch_add(u64::from(frame.length), Ordering::Relaxed);
                }
                if frame.flags & END_STREAM != 0 {
                    stats.responses.fetch_add(1, Ordering::Relaxed);
                }
            }
            RST_STREAM if is_caller_error(frame.code) => {
                stats.reset.fetch_add(1, Ordering::Relaxed);
                stats.reset_code.store(frame.code, Ordering::Relaxed);
            }
            GOAWAY if is_caller_error(frame.code) => {
                stats.goaway_code.store(frame.code, Ordering::Relaxed);
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
        let bytes = buffer.filled().get(before..).unwrap_or_default();
        Poll::Ready(this.received(bytes).map_err(io::Error::other))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MonitoredIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        let count = ready!(self.observe(written))?;
        self.sent(bytes.get(..count).unwrap_or_default());
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.observe(flushed)
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
        let count = ready!(self.observe(written))?;
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
    use super::*;
    use crate::h2_frames::fixture::frame;

    #[test]
    fn what_h2_refused_is_described() {
        let stats = Arc::new(H2Stats::default());
        let mut monitored = MonitoredIo::new((), Arc::clone(&stats));
        monitored.received(&[0; 24]).unwrap();
        for stream in [1, 3, 3, 5] {
            monitored
                .received(&frame(HEADERS, 4, stream, b"x"))
                .unwrap();
        }
        assert_eq!(stats.refusals(3), None);
        assert!(stats.refusals(2).unwrap().contains("1 requests"));
        // Neither a caller's cancellation nor our own is an error of the caller.
        monitored.sent(&frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()));
        monitored.sent(&frame(RST_STREAM, 0, 1, &0_u32.to_be_bytes()));
        assert_eq!(stats.refusals(3), None);
        monitored.sent(&frame(RST_STREAM, 0, 1, &1_u32.to_be_bytes()));
        assert!(stats.refusals(3).unwrap().contains("PROTOCOL_ERROR"));
        monitored.sent(&frame(GOAWAY, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 11]));
        assert!(stats.refusals(3).unwrap().contains("ENHANCE_YOUR_CALM"));
    }

    #[test]
    fn what_both_windows_take_fits() {
        let stats = Arc::new(H2Stats::default());
        let mut monitored = MonitoredIo::new((), Arc::clone(&stats));
        monitored.received(&[0; 24]).unwrap();
        let mut setting = vec![0, 3, 0, 0, 0, 9];
        setting.extend([0, 4, 0, 1, 0, 0]);
        assert!(stats.fits_window(65_535) && !stats.fits_window(65_536));
        monitored
            .received(&frame(SETTINGS, 0, 0, &setting))
            .unwrap();
        assert!(stats.fits_window(65_536) && !stats.fits_window(65_537));
        // The connection has its own window.
        stats.queue(65_535);
        assert!(stats.fits_window(1));
        stats.queue(1);
        assert!(!stats.fits_window(1) && !stats.is_all_sent());
        let more = 100_u32.to_be_bytes();
        monitored
            .received(&frame(WINDOW_UPDATE, 0, 1, &more))
            .unwrap();
        assert!(!stats.fits_window(1));
        monitored
            .received(&frame(WINDOW_UPDATE, 0, 0, &more))
            .unwrap();
        assert!(stats.fits_window(1));
        // Sent bytes use the window, discarded bytes do not.
        monitored.sent(&frame(DATA, 0, 1, &[0; 65_535]));
        stats.unqueue(65_536);
        stats.queue(100);
        assert!(stats.fits_window(1));
        stats.queue(1);
        assert!(!stats.fits_window(1));
        stats.unqueue(101);
        assert!(stats.is_all_sent());
    }

    #[tokio::test]
    async fn a_connection_is_blocked_by_its_window_and_by_its_socket() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let stats = Arc::new(H2Stats::default());
        let (ours, mut theirs) = tokio::io::duplex(100);
        let mut monitored = MonitoredIo::new(ours, Arc::clone(&stats));
        monitored.received(&[0; 24]).unwrap();
        let data = frame(DATA, 0, 1, &[0; 91]);
        assert!(!stats.is_blocked(9));
        monitored.write_all(&data).await.unwrap();
        assert!(!stats.is_blocked(9) && stats.sent() == 91);
        let more = std::future::poll_fn(|context| {
            Poll::Ready(Pin::new(&mut monitored).poll_write(context, &data))
        });
        assert!(more.await.is_pending() && stats.is_blocked(9));
        theirs.read_exact(&mut [0; 100]).await.unwrap();
        monitored.write_all(&data).await.unwrap();
        assert!(!stats.is_blocked(9) && stats.sent() == 182);
        // The rest may be reserved by streams.
        monitored.sent(&frame(DATA, 0, 1, &[0; 65_535 - 182 - 9]));
        assert!(stats.is_blocked(9) && !stats.is_blocked(8));
        let more = 1_u32.to_be_bytes();
        let update = frame(WINDOW_UPDATE, 0, 0, &more);
        monitored.received(&update).unwrap();
        assert!(!stats.is_blocked(9));
    }

    #[test]
    fn frames_without_content_are_bounded_and_those_with_it_are_not() {
        let ping = frame(6, 0, 0, &[0; 8]);
        let window = frame(8, 0, 0, &[0; 4]);
        let reset = frame(RST_STREAM, 0, 1, &[0; 4]);
        let empty = frame(DATA, 0, 1, b"");
        for (bytes, most) in [
            (&ping, MAX_CREDIT),
            (&window, MAX_CREDIT),
            (&empty, MAX_CREDIT),
            (&reset, MAX_CREDIT / RESET_COST),
        ] {
            let mut monitored = MonitoredIo::new((), Arc::default());
            monitored.received(&[0; 24]).unwrap();
            let mut count = 0;
            while monitored.received(bytes).is_ok() {
                count += 1;
                assert!(count < most + 20_000);
            }
            assert!(count >= most, "{count}");
        }
        // A caller that completes two requests for each that it resets may go on.
        let mut monitored = MonitoredIo::new((), Arc::default());
        monitored.received(&[0; 24]).unwrap();
        let whole = frame(HEADERS, 4 | END_STREAM, 1, b"x");
        for _ in 0..10 * MAX_CREDIT / RESET_COST {
            monitored.sent(&whole);
            monitored.sent(&whole);
            monitored.received(&reset).unwrap();
        }
        // A caller that receives a lot of content may send as many window updates.
        let mut monitored = MonitoredIo::new((), Arc::default());
        monitored.received(&[0; 24]).unwrap();
        let data = frame(DATA, 0, 1, &[0; 1024]);
        for _ in 0..30_000 {
            monitored.sent(&data);
            monitored.received(&window).unwrap();
            monitored.received(&frame(DATA, 0, 1, b"x")).unwrap();
        }
    }

    #[test]
    fn credit_comes_back_with_time() {
        let begin = Instant::now();
        let mut credit = Credit {
            left: 0,
            paid_until: begin,
            paid_bytes: 0,
        };
        assert!(!credit.spend(1, 0, || begin));
        assert!(credit.spend(CREDIT_PER_SECOND, 0, || begin + Duration::from_secs(1)));
        assert!(!credit.spend(1, 0, || begin + Duration::from_secs(1)));
        assert!(credit.spend(MAX_CREDIT, 0, || begin + Duration::from_secs(3600)));
    }

    #[test]
    fn what_is_earned_by_bytes_does_not_use_up_what_time_earns() {
        let begin = Instant::now();
        let mut credit = Credit {
            left: MAX_CREDIT,
            paid_until: begin,
            paid_bytes: 0,
        };
        // Ten responses per second, and frames that cost less than one second earns.
        let cost = CREDIT_PER_SECOND / 10 - 1;
        for step in 1..6000_u64 {
            let now = begin + Duration::from_millis(100 * step);
            assert!(credit.spend(cost, 600 * step, || now), "step {step}");
        }
    }
}
