//! `Wait`: how long the caller of an h2 stream may take nothing of its answer.
//!
//! A stream waits for its caller, which has to open its window, or for its turn: the
//! window of the connection, and the socket, are shared by all of its streams. Of which
//! it waits is not known of a single stream, since what is added to its window cannot be
//! told from what is added to that of another. But h2 leaves no octet waiting for which
//! there is a window: where the connection is not held up, it is the stream's own.
//!
//! So a stream has its time, and where the connection is held up as much again for each
//! [`PIECE`] that the connection takes meanwhile, which is what its caller would have to
//! take if it asked for that stream alone. Nobody waits on a connection that takes
//! nothing, or next to nothing. And h2 lets waiting streams pass in turn: when more has
//! passed than all of the others may have had before it, its own window is what is
//! closed, and no time is added. That bounds the wait at the time of [`TURNS`] for each
//! stream beside it, whatever its caller does.

use std::time::{Duration, Instant};

/// Most octets that a caller in h2 is given at once: it is given up on when it takes
/// too long to take them. In large pieces a slow caller would pass for one that takes
/// nothing.
pub(crate) const PIECE: usize = 64 * 1024;

/// A caller in h2 that has no window is given nothing more while it has so many octets
/// to take.
pub(crate) const BACKLOG: u64 = 16 * 1024;

/// Most octets of another stream that go before a piece: all that it may have to take,
/// twice, since hyper asks for the first octet of a window before it hands over the
/// rest.
const TURNS: u64 = 2 * (PIECE as u64 + BACKLOG);

/// What was found when the streams of a connection were looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) now: Instant,
    /// Octets of content that the connection has taken so far.
    pub(crate) sent: u64,
    /// It takes no more at the moment, or did not at the last look.
    pub(crate) is_held_up: bool,
    /// The streams that there are.
    pub(crate) streams: u64,
}

/// Since when nothing was taken of an answer.
#[derive(Debug)]
pub(crate) struct StallTimer {
    since: Instant,
    /// What the connection had taken when it was last looked at.
    sent: u64,
    /// What it has taken of all of its streams meanwhile, while it was held up.
    passed: u64,
    /// The most streams that there were meanwhile.
    streams: u64,
}

impl StallTimer {
    /// From now on, on a connection that has taken so many octets.
    pub(crate) const fn new(since: Instant, sent: u64) -> Self {
        Self {
            since,
            sent,
            passed: 0,
            streams: 1,
        }
    }

    /// Whether it lasts too long, of a stream that has `longest` for each piece.
    pub(crate) fn is_over(&mut self, look: &Sample, longest: Duration) -> bool {
        let taken = look.sent.saturating_sub(self.sent);
        self.sent = look.sent;
        if look.is_held_up {
            self.passed = self.passed.saturating_add(taken);
        }
        self.streams = self.streams.max(look.streams);
        let waited = look.now.saturating_duration_since(self.since);
        waited >= longest.saturating_add(self.more(longest))
    }

    /// What is added to `longest`.
    fn more(&self, longest: Duration) -> Duration {
        if self.passed > self.streams.saturating_mul(TURNS) {
            return Duration::ZERO;
        }
        let pieces = u32::try_from(self.passed).unwrap_or(u32::MAX);
        longest.saturating_mul(pieces) / u32::try_from(PIECE).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const PIECE: u64 = super::PIECE as u64;

    /// Until when a stream waits beside others on a connection that takes so many octets
    /// in each quarter of a minute; none if it does so for more than a day.
    fn lasts(streams: u64, each: u64, is_held_up: bool) -> Option<Duration> {
        let begin = Instant::now();
        let mut wait = StallTimer::new(begin, 1000);
        (1..4 * 60 * 24)
            .map(|step| (step, MINUTE / 4 * step))
            .find_map(|(step, waited)| {
                let look = Sample {
                    now: begin + waited,
                    sent: 1000 + each * u64::from(step),
                    is_held_up,
                    streams,
                };
                wait.is_over(&look, MINUTE).then_some(waited)
            })
    }

    #[test]
    fn nobody_waits_on_a_connection_that_takes_nothing() {
        for streams in [1, 100] {
            assert_eq!(lasts(streams, 0, true), Some(MINUTE));
            // Nor for single octets.
            assert!(lasts(streams, 1, true).unwrap() <= MINUTE + MINUTE / 4);
            assert!(lasts(streams, PIECE / 8, true).unwrap() <= 2 * MINUTE);
        }
    }

    #[test]
    fn a_stream_waits_for_its_turn() {
        // Each of a hundred has two pieces to take before it, as slowly as one may.
        for each in [PIECE / 4, PIECE / 2] {
            let all = MINUTE / 4 * u32::try_from(200 * PIECE / each).unwrap();
            assert!(lasts(100, each, true).is_none_or(|waited| waited > all));
        }
    }

    #[test]
    fn it_does_not_wait_for_what_passes_it_by() {
        // Where the connection would take more, it is its own window.
        assert_eq!(lasts(100, PIECE, false), Some(MINUTE));
        // Where it would not, when each of the others has had its turn.
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
        let mut wait = StallTimer::new(begin, 0);
        let look = |time, pieces, streams| Sample {
            now: begin + time,
            sent: pieces * PIECE,
            is_held_up: true,
            streams,
        };
        assert!(!wait.is_over(&look(MINUTE, 50, 50), MINUTE));
        assert!(!wait.is_over(&look(2 * MINUTE, 100, 1), MINUTE));
    }
}
