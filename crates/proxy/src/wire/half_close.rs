//! `HalfClose`: a caller over HTTP/1.1 that has sent `close_notify` and may still read.
//!
//! In TLS, each side closes its own direction (RFC 8446 section 6.1). A caller may send its
//! requests, close its direction, and read the responses. But most callers that send `close_notify`
//! before a response have closed the whole connection. The gateway must send something to
//! distinguish these two kinds of callers: if the connection is closed, the caller's system
//! responds with a reset. The gateway therefore sends a 100 (Continue) to a caller that waits.
//! Every HTTP/1.1 client must be able to discard this response (RFC 9110 section 15.2.1).

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// The interim response that shows whether the caller is still there.
pub(super) const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Time from the end of the caller's requests to the first probe. Many responses are sent before
/// this time has passed.
const FIRST_PROBE: Duration = Duration::from_millis(75);
/// Time from a probe to the next check. Most resets have arrived by then.
const AFTER_PROBE: Duration = Duration::from_millis(50);
/// Time between two checks, except before the first probe and after each probe.
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// Time between two probes. A caller may close the connection after the first probe, and only
/// another probe shows this.
const PROBE_EVERY: Duration = Duration::from_secs(3);
/// Maximum time that a response may pause after it has begun. A probe cannot be sent within a
/// response.
const MAX_SILENCE: Duration = Duration::from_secs(3);

/// Returns the maximum time that a response may pause if its caller has sent `close_notify`. The
/// time is long enough for two checks, so that one late check does not cut the response.
pub(crate) fn max_silence(body_timeout: Duration) -> Duration {
    body_timeout.min(MAX_SILENCE).max(2 * CHECK_EVERY)
}

/// The socket below a caller's connection.
pub(crate) trait PeerSocket {
    /// Returns the error of the socket, if there is one, for example a reset by the peer.
    fn socket_error(&self) -> Option<io::Error>;
}

/// What the caller waits for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Awaited {
    /// A response that has not begun.
    Response {
        /// Whether an interim response may be sent.
        may_probe: bool,
    },
    /// The rest of a response. The response may pause for at most this time.
    Rest(Duration),
    /// Bytes that could not be written yet. The timeouts of writes apply to these bytes.
    Unwritten,
}

/// What a check must do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// Send [`PROBE`].
    Probe,
    /// Send nothing, and only check whether the caller has reset the connection.
    Look,
    /// The response in progress has paused for too long.
    Silent,
}

/// The state of a connection whose caller has sent `close_notify`.
#[derive(Debug)]
pub(super) struct HalfClose {
    next_check: Pin<Box<Sleep>>,
    last_probe: Option<Instant>,
    /// The time of the last write.
    last_write: Instant,
}

impl HalfClose {
    pub(super) fn new() -> Self {
        Self {
            next_check: Box::pin(tokio::time::sleep(FIRST_PROBE)),
            last_probe: None,
            last_write: Instant::now(),
        }
    }

    /// Records that a response makes progress.
    pub(super) fn record_write(&mut self) {
        self.last_write = Instant::now();
    }

    /// Resolves with the next check when it is due.
    pub(super) fn poll_check(
        &mut self,
        context: &mut Context<'_>,
        awaited: Awaited,
    ) -> Poll<Check> {
        ready!(self.next_check.as_mut().poll(context));
        let now = Instant::now();
        let check = self.check(now, awaited);
        let next = match check {
            Check::Probe => AFTER_PROBE,
            Check::Look | Check::Silent => CHECK_EVERY,
        };
        self.next_check.as_mut().reset(now + next);
        Poll::Ready(check)
    }

    fn check(&mut self, now: Instant, awaited: Awaited) -> Check {
        let since = |time| now.saturating_duration_since(time);
        match awaited {
            Awaited::Response { may_probe: true }
                if self
                    .last_probe
                    .is_none_or(|last| since(last) >= PROBE_EVERY) =>
            {
                self.last_probe = Some(now);
                Check::Probe
            }
            Awaited::Rest(max) if since(self.last_write) >= max => Check::Silent,
            Awaited::Response { .. } | Awaited::Rest(_) | Awaited::Unwritten => Check::Look,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_silent_response_is_given_up_and_an_awaited_one_is_not() {
        let mut half_close = HalfClose::new();
        let later = half_close.last_write + 2 * SECOND;
        let rest = Awaited::Rest(2 * SECOND);
        assert_eq!(
            half_close.check(later, Awaited::Rest(3 * SECOND)),
            Check::Look
        );
        assert_eq!(half_close.check(later, rest), Check::Silent);
        assert_eq!(half_close.check(later, Awaited::Unwritten), Check::Look);
        half_close.last_write += Duration::from_millis(1);
        assert_eq!(half_close.check(later, rest), Check::Look);
    }

    #[tokio::test]
    async fn a_caller_that_waits_is_probed_again() {
        let mut half_close = HalfClose::new();
        let start = Instant::now();
        let waits = |may_probe| Awaited::Response { may_probe };
        assert_eq!(half_close.check(start, waits(false)), Check::Look);
        assert_eq!(half_close.check(start, waits(true)), Check::Probe);
        let later = start + 2 * SECOND;
        assert_eq!(half_close.check(later, waits(true)), Check::Look);
        let later = start + 3 * SECOND;
        assert_eq!(half_close.check(later, waits(false)), Check::Look);
        assert_eq!(half_close.check(later, waits(true)), Check::Probe);
        assert_eq!(half_close.check(later, waits(true)), Check::Look);
    }

    #[test]
    fn a_response_may_pause_for_two_checks() {
        for (body_timeout, expected) in [(200, 1000), (1500, 1500), (60_000, 3000)] {
            let silence = max_silence(Duration::from_millis(body_timeout));
            assert_eq!(silence.as_millis(), expected);
        }
    }
}
