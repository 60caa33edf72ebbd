//! `MonitoredIo`: reads the frame headers of an HTTP/2 connection in both directions.
//!
//! h2 itself rejects heads that are too large or malformed, streams beyond the limit, and protocol
//! errors. The handler never sees requests that h2 rejects. They are visible only in the frames.
//! `MonitoredIo` counts these requests, so that the audit log contains their number.
//!
//! `MonitoredIo` also limits the number of frames that cost work but carry no content: resets,
//! pings, settings and empty DATA frames.

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

/// Initial window of each stream and of the connection in bytes (RFC 9113 section 6.9.2).
const DEFAULT_WINDOW: u32 = 65_535;

/// Maximum [`Credit`] of a connection. Most frames without content cost one credit.
const MAX_CREDIT: u64 = 10_000;
/// Credit that a connection earns per second.
const CREDIT_PER_SECOND: u64 = 500;
/// Credit that a reset costs. A reset is more expensive, because it discards work of the gateway
/// and of the service. A connection with full credit may send 500 resets, and after them 25 per
/// second. Complete responses earn further resets, because a gRPC caller that cancels some calls
/// completes most of them.
const RESET_COST: u64 = 20;
/// Number of content bytes sent to the caller that earn one credit.
const BYTES_PER_CREDIT: u64 = 512;
/// Credit that a complete response earns. Two complete responses pay for one reset.
const CREDIT_PER_RESPONSE: u64 = RESET_COST / 2;

/// Counters and state that the monitor derives from the frames of a connection.
#[derive(Debug)]
pub(crate) struct H2Stats {
    /// Number of streams that the caller has opened.
    opened: AtomicU64,
    /// Number of streams that h2 has reset because of the caller's errors.
    reset: AtomicU64,
    /// Number of these streams on which the gateway has sent a response before the reset.
    answered: AtomicU64,
    /// The error code of the last stream that h2 has reset because of the caller's errors.
    reset_code: AtomicU32,
    /// The error code of the GOAWAY frame that h2 has sent. 0 if h2 has sent none.
    goaway_code: AtomicU32,
    /// Number of content bytes that were sent to the caller.
    sent: AtomicU64,
    /// Number of responses that were sent completely.
    responses: AtomicU64,
    /// Whether there were too many frames without content. Stored here, because the error that h2
    /// returns contains only the text of `FloodError`.
    flooded: AtomicBool,
    /// The initial window of each stream in bytes, from the caller's last SETTINGS frame.
    stream_window: AtomicU32,
    /// Total number of bytes that the connection's flow-control window has allowed the gateway to
    /// send since the connection began.
    connection_window: AtomicU64,
    /// Number of response bytes that were passed to h2 and not yet sent or discarded.
    queued: AtomicU64,
    /// Whether the last write or flush found the socket's send buffer full.
    socket_is_full: AtomicBool,
}

impl Default for H2Stats {
    fn default() -> Self {
        Self {
            opened: AtomicU64::new(0),
            reset: AtomicU64::new(0),
            answered: AtomicU64::new(0),
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

/// The error for too many frames without content.
#[derive(Debug, thiserror::Error)]
#[error("the caller floods the connection with frames that carry nothing")]
pub(crate) struct FloodError;

impl H2Stats {
    /// Records that a stream that h2 resets has got a response. It has an audit line of its own.
    pub(crate) fn record_answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns whether there were too many frames without content.
    pub(crate) fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }

    /// Returns the number of bytes for which the connection has earned credit. It is the number of
    /// sent content bytes, plus a fixed number for each complete response.
    fn earning_bytes(&self) -> u64 {
        let responses = self.responses.load(Ordering::Relaxed);
        let for_responses = responses.saturating_mul(CREDIT_PER_RESPONSE * BYTES_PER_CREDIT);
        self.sent().saturating_add(for_responses)
    }

    /// Records that response bytes were passed to h2.
    pub(crate) fn queue(&self, bytes: u64) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Records that h2 has sent or discarded response bytes.
    pub(crate) fn unqueue(&self, bytes: u64) {
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Returns whether h2 has sent or discarded all bytes that were passed to it.
    pub(crate) fn is_all_sent(&self) -> bool {
        self.queued.load(Ordering::Relaxed) == 0
    }

    /// Returns the number of content bytes that were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Returns whether none of the `streams` streams can send. The streams cannot send if the
    /// socket is full, or if the connection's window is used up. Each stream may have reserved one
    /// byte of the window and not used it. Therefore a window with at most `streams` bytes left
    /// counts as used up.
    pub(crate) fn is_blocked(&self, streams: u64) -> bool {
        let window = self.connection_window.load(Ordering::Relaxed);
        window.saturating_sub(self.sent()) <= streams || self.socket_is_full.load(Ordering::Relaxed)
    }

    /// Returns whether the caller's windows have space for all bytes that were passed to h2.
    /// `of_stream` is the total number of response bytes that were passed to h2 on one stream,
    /// whose window is also checked.
    ///
    /// Window updates of single streams are not tracked. For a response that is larger than the
    /// initial window, the result is therefore always `false`. This costs one more poll at the
    /// response's end.
    pub(crate) fn fits_window(&self, of_stream: u64) -> bool {
        let sent = self.sent();
        let queued = self.queued.load(Ordering::Relaxed);
        of_stream <= self.stream_window.load(Ordering::Relaxed).into()
            && sent.saturating_add(queued) <= self.connection_window.load(Ordering::Relaxed)
    }

    /// Describes the requests and frames that h2 itself has rejected without a response. Returns
    /// `None` if there are none. `served` is the number of requests that have audit lines.
    pub(crate) fn refusals(&self, served: u64) -> Option<String> {
        let unserved = self.opened.load(Ordering::Relaxed).saturating_sub(served);
        let answered = self.answered.load(Ordering::Relaxed);
        let reset = self.reset.load(Ordering::Relaxed).saturating_sub(answered);
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

/// Returns the name of an HTTP/2 error code (RFC 9113 section 7).
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

/// Returns whether h2 uses this code for an error of the caller. The gateway itself resets streams
/// only with INTERNAL_ERROR, CANCEL and NO_ERROR.
const fn is_caller_error(code: u32) -> bool {
    matches!(code, 1 | 3 | 5 | 6 | 7 | 9 | 11)
}

/// The credit that a connection has for frames without content. Time and content that is sent to
/// the caller earn credit.
#[derive(Debug)]
struct Credit {
    left: u64,
    /// The time until which earned credit was added to `left`.
    paid_until: Instant,
    /// The number of bytes whose earned credit was added to `left`.
    paid_bytes: u64,
}

impl Credit {
    /// Spends `cost`. Returns whether there was enough credit. `earning_bytes` is the result of
    /// `H2Stats::earning_bytes`.
    fn spend(&mut self, cost: u64, earning_bytes: u64, now: impl FnOnce() -> Instant) -> bool {
        // Reads the clock only if the credit is low.
        if self.left < MAX_CREDIT / 2 {
            let seconds = now().saturating_duration_since(self.paid_until).as_secs();
            let for_bytes = earning_bytes.saturating_sub(self.paid_bytes) / BYTES_PER_CREDIT;
            let earned = seconds
                .saturating_mul(CREDIT_PER_SECOND)
                .saturating_add(for_bytes);
            self.left = self.left.saturating_add(earned).min(MAX_CREDIT);
            // Only whole seconds and whole credits were added to `left`. Fractions are added in a
            // later call.
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

/// A connection on which the frame headers of both directions are read.
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

    /// Processes the frames in bytes that were received from the caller.
    fn received(&mut self, bytes: &[u8]) -> Result<(), FloodError> {
        let (stats, credit, last) = (&self.stats, &mut self.credit, &mut self.last_opened);
        let mut enough = true;
        self.incoming.advance(bytes, |frame| {
            let cost = match frame.kind {
                HEADERS => {
                    // A HEADERS frame on a new stream opens the stream. On an older stream it
                    // contains trailers.
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

    /// Records whether the socket is full, from the result of a write or flush.
    fn observe<T>(&self, written: Poll<T>) -> Poll<T> {
        let is_full = &self.stats.socket_is_full;
        // The flag is stored only if it changes, because changes are rare.
        if is_full.load(Ordering::Relaxed) != written.is_pending() {
            is_full.store(written.is_pending(), Ordering::Relaxed);
        }
        written
    }

    /// Processes the frames in bytes that were sent to the caller.
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
        // CANCEL and NO_ERROR do not mean an error of the caller.
        monitored.sent(&frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()));
        monitored.sent(&frame(RST_STREAM, 0, 1, &0_u32.to_be_bytes()));
        assert_eq!(stats.refusals(3), None);
        monitored.sent(&frame(RST_STREAM, 0, 1, &1_u32.to_be_bytes()));
        assert!(stats.refusals(3).unwrap().contains("PROTOCOL_ERROR"));
        stats.record_answered();
        assert_eq!(stats.refusals(3), None);
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
        // SETTINGS does not change the connection's window. Its size is still 65,535 bytes.
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
        // Sent bytes use up the window, but discarded bytes do not.
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
        // Nine bytes of the window remain. Nine streams may have reserved all of them, but eight
        // streams cannot.
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
        // A caller that completes two requests for each reset may continue without limit.
        let mut monitored = MonitoredIo::new((), Arc::default());
        monitored.received(&[0; 24]).unwrap();
        let whole = frame(HEADERS, 4 | END_STREAM, 1, b"x");
        for _ in 0..10 * MAX_CREDIT / RESET_COST {
            monitored.sent(&whole);
            monitored.sent(&whole);
            monitored.received(&reset).unwrap();
        }
        // A caller that receives content may send a window update for each DATA frame.
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
        // In each step of 100 ms, the connection spends slightly less credit than it earns in 100
        // ms. The content bytes that it sends earn a little more.
        let cost = CREDIT_PER_SECOND / 10 - 1;
        for step in 1..6000_u64 {
            let now = begin + Duration::from_millis(100 * step);
            assert!(credit.spend(cost, 600 * step, || now), "step {step}");
        }
    }
}
