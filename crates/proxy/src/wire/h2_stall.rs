//! `StallTimer`: limits how long the caller of an HTTP/2 stream may take no part of a waiting
//! response.
//!
//! A stream can wait for its own window, which the caller must open. Or it can wait for other
//! streams, because all streams share the connection's window and the socket. The gateway does not
//! track the windows of single streams, so it cannot observe the cause directly. But h2 sends every
//! byte for which the windows have space. If the connection is not blocked, the stream therefore
//! waits for its own window.
//!
//! Each stream has a timeout for one piece of [`MAX_PIECE`] bytes. While the connection is blocked,
//! the timeout is added once more for each [`MAX_PIECE`] bytes that the connection sends. If the
//! connection sends at this speed, the caller is reading, and could have read one piece of this
//! stream in the same time. If the connection sends no or almost no bytes, the timeout is not
//! extended.
//!
//! h2 serves waiting streams in turn. There is a limit for the bytes that all other streams may
//! send before this stream has its turn. If the connection has sent more, only the stream's own
//! window can be the cause, and the timeout is not extended any more. Each other stream can
//! therefore extend the wait by at most the time for [`MAX_PER_TURN`] bytes.

use std::time::{Duration, Instant};

/// Maximum number of response bytes that are passed to h2 in one buffer (a piece). A caller must
/// take each piece within the timeout. With larger pieces, a slow caller would look like a caller
/// that takes no data.
pub(crate) const MAX_PIECE: usize = 64 * 1024;

/// Maximum number of bytes that may wait for a caller with a closed window. While more bytes wait,
/// no more data is passed to h2.
pub(crate) const MAX_BACKLOG: u64 = 16 * 1024;

/// Maximum number of bytes that each other stream can send before h2 sends a waiting piece of the
/// stream that a [`StallTimer`] measures. It is twice the data that may be queued for a stream,
/// because a piece can need two turns. hyper first reserves one byte of the window. When hyper gets
/// that byte, it passes the piece to h2.
const MAX_PER_TURN: u64 = 2 * (MAX_PIECE as u64 + MAX_BACKLOG);

/// The state of a connection when its streams are checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) now: Instant,
    /// Number of content bytes that the connection has sent until now.
    pub(crate) sent: u64,
    /// Whether the connection is blocked now, or was blocked at the previous check
    /// (`H2Stats::is_blocked`).
    pub(crate) is_blocked: bool,
    /// Number of open streams.
    pub(crate) streams: u64,
}

/// Measures the time since the caller last took a part of a response.
#[derive(Debug)]
pub(crate) struct StallTimer {
    since: Instant,
    /// The value of `Sample::sent` at the previous check.
    sent: u64,
    /// Number of bytes that the connection has sent since `since` while it was blocked.
    passed: u64,
    /// Maximum number of open streams since `since`.
    max_streams: u64,
}

impl StallTimer {
    /// Starts a timer on a connection that has already sent `sent` bytes.
    pub(crate) const fn new(since: Instant, sent: u64) -> Self {
        Self {
            since,
            sent,
            passed: 0,
            max_streams: 1,
        }
    }

    /// Returns whether the stall has lasted too long. `timeout` is the maximum time in which the
    /// caller must take one buffer of the stream's data.
    pub(crate) fn is_over(&mut self, sample: &Sample, timeout: Duration) -> bool {
        let taken = sample.sent.saturating_sub(self.sent);
        self.sent = sample.sent;
        if sample.is_blocked {
            self.passed = self.passed.saturating_add(taken);
        }
        self.max_streams = self.max_streams.max(sample.streams);
        let stalled = sample.now.saturating_duration_since(self.since);
        stalled >= timeout.saturating_add(self.extension(timeout))
    }

    /// Returns the time by which `timeout` is extended, because the connection has sent data of
    /// other streams.
    fn extension(&self, timeout: Duration) -> Duration {
        if self.passed > self.max_streams.saturating_mul(MAX_PER_TURN) {
            return Duration::ZERO;
        }
        let passed = u32::try_from(self.passed).unwrap_or(u32::MAX);
        timeout.saturating_mul(passed) / u32::try_from(MAX_PIECE).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const PIECE: u64 = MAX_PIECE as u64;

    /// Returns how long a stream may stall on a connection with `streams` streams. The connection
    /// sends `each` bytes per quarter of a minute. Returns `None` if the stream may stall for a
    /// day.
    fn lasts(streams: u64, each: u64, is_blocked: bool) -> Option<Duration> {
        let begin = Instant::now();
        let mut timer = StallTimer::new(begin, 1000);
        (1..4 * 60 * 24)
            .map(|step| (step, MINUTE / 4 * step))
            .find_map(|(step, waited)| {
                let sample = Sample {
                    now: begin + waited,
                    sent: 1000 + each * u64::from(step),
                    is_blocked,
                    streams,
                };
                timer.is_over(&sample, MINUTE).then_some(waited)
            })
    }

    #[test]
    fn no_stream_waits_on_a_connection_that_takes_nothing() {
        for streams in [1, 100] {
            assert_eq!(lasts(streams, 0, true), Some(MINUTE));
            // If the connection sends only single bytes, they add almost no time.
            assert!(lasts(streams, 1, true).unwrap() <= MINUTE + MINUTE / 4);
            assert!(lasts(streams, PIECE / 8, true).unwrap() <= 2 * MINUTE);
        }
    }

    #[test]
    fn a_stream_waits_for_its_turn() {
        // The other 99 streams send two pieces each before this stream has its turn. The connection
        // sends at the lowest speed at which the timeout keeps being extended, and at twice this
        // speed.
        for each in [PIECE / 4, PIECE / 2] {
            let all = MINUTE / 4 * u32::try_from(200 * PIECE / each).unwrap();
            assert!(lasts(100, each, true).is_none_or(|waited| waited > all));
        }
    }

    #[test]
    fn it_does_not_wait_for_what_passes_it_by() {
        // If the connection is not blocked, the stream waits for its own window, and the timeout is
        // not extended.
        assert_eq!(lasts(100, PIECE, false), Some(MINUTE));
        // If the connection is blocked, the extension ends as soon as every other stream has had
        // its turn.
        assert_eq!(lasts(1, PIECE, true), Some(MINUTE));
        assert_eq!(lasts(2, 2 * PIECE, true), Some(MINUTE));
        for streams in [2, 10, 100] {
            let bound = MINUTE * u32::try_from(1 + 3 * streams).unwrap();
            for each in 1..64 {
                let waited = lasts(streams, each * PIECE / 16, true).unwrap();
                assert!(waited <= bound, "{streams} {each} {waited:?}");
            }
        }
    }

    #[test]
    fn others_that_have_finished_had_their_turn() {
        let begin = Instant::now();
        let mut timer = StallTimer::new(begin, 0);
        let sample = |time, pieces, streams| Sample {
            now: begin + time,
            sent: pieces * PIECE,
            is_blocked: true,
            streams,
        };
        assert!(!timer.is_over(&sample(MINUTE, 50, 50), MINUTE));
        assert!(!timer.is_over(&sample(2 * MINUTE, 100, 1), MINUTE));
    }
}
