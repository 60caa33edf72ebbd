//! `StallTimer`: how long the caller of an HTTP/2 stream may take nothing of its response.
//!
//! A stream can wait for two things: for its caller to open the stream's window, or for
//! its turn, because the connection's window and the socket are shared by all streams.
//! Which of the two it waits for cannot be seen, because the windows of single streams
//! are not tracked. But h2 leaves no byte waiting that the windows have space for: if the
//! connection is not blocked, then the stream waits for its own window.
//!
//! A stream therefore has its timeout, and while the connection is blocked that much
//! again for each [`MAX_PIECE`] that the connection takes meanwhile: a caller that reads
//! just fast enough would take as much if it had asked for that stream alone. A
//! connection that takes nothing, or next to nothing, adds no time. h2 also serves
//! waiting streams in turn: after more bytes than all other streams may send before this
//! one, the stream's own window must be closed, and no time is added any more. Whatever
//! the caller does, this limits the wait to the time of [`MAX_PER_TURN`] for each stream
//! beside it.

use std::time::{Duration, Instant};

/// Most bytes of a response that are handed to h2 at once. A caller must take a piece
/// within the timeout; with larger pieces a slow caller would look like one that takes
/// nothing.
pub(crate) const MAX_PIECE: usize = 64 * 1024;

/// A caller whose window is closed is given nothing more while it has more bytes than
/// this to take.
pub(crate) const MAX_BACKLOG: u64 = 16 * 1024;

/// Most bytes of another stream that precede a piece: all that it may have to take, twice,
/// because hyper asks for the first byte of a window before it hands over the rest.
const MAX_PER_TURN: u64 = 2 * (MAX_PIECE as u64 + MAX_BACKLOG);

/// The state of a connection when its streams are checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) now: Instant,
    /// Bytes of content that the connection has taken so far.
    pub(crate) sent: u64,
    /// The connection takes no more, or did not at the last check.
    pub(crate) is_blocked: bool,
    /// Number of open streams.
    pub(crate) streams: u64,
}

/// The time since the caller last took something of a response.
#[derive(Debug)]
pub(crate) struct StallTimer {
    since: Instant,
    /// Bytes that the connection had taken at the last check.
    sent: u64,
    /// Bytes of all streams that the connection has taken meanwhile, while it was blocked.
    passed: u64,
    /// The most streams that were open meanwhile.
    max_streams: u64,
}

impl StallTimer {
    /// Starts on a connection that has taken `sent` bytes.
    pub(crate) const fn new(since: Instant, sent: u64) -> Self {
        Self {
            since,
            sent,
            passed: 0,
            max_streams: 1,
        }
    }

    /// Whether the stall lasts too long for a stream that has `timeout` for each piece.
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

    /// The time that is added to `timeout`.
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

    /// How long a stream may stall beside others on a connection that takes `each` bytes
    /// in a quarter of a minute; none if for more than a day.
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
            // Nor for single bytes.
            assert!(lasts(streams, 1, true).unwrap() <= MINUTE + MINUTE / 4);
            assert!(lasts(streams, PIECE / 8, true).unwrap() <= 2 * MINUTE);
        }
    }

    #[test]
    fn a_stream_waits_for_its_turn() {
        // Each of a hundred streams has two pieces to take first, as slowly as it may.
        for each in [PIECE / 4, PIECE / 2] {
            let all = MINUTE / 4 * u32::try_from(200 * PIECE / each).unwrap();
            assert!(lasts(100, each, true).is_none_or(|waited| waited > all));
        }
    }

    #[test]
    fn it_does_not_wait_for_what_passes_it_by() {
        // If the connection would take more, the stream waits for its own window.
        assert_eq!(lasts(100, PIECE, false), Some(MINUTE));
        // If it would not, the same holds once each other stream has had its turn.
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
