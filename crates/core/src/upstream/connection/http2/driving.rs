//! The task that drives a connection, limits the rate of its resets, and detects that the service
//! does not respond any more.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::Connection;
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use super::settings::{PING_INTERVAL, PING_TIMEOUT};
use super::state::ConnectionState;

/// Maximum number of streams that are reset before the service has responded to the next PING. The
/// response proves that the service has processed these resets. Some services end a connection
/// after 20 resets of streams that they have not processed yet.
const RESETS_PER_ROUND_TRIP: usize = 8;

/// Drives the connection until it ends.
pub(super) async fn drive<S>(mut connection: Connection<S, Bytes>, state: Arc<ConnectionState>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut pings = connection.ping_pong().map(|pings| Pings {
        pings,
        awaited: false,
        resets_left: RESETS_PER_ROUND_TRIP,
        reads: 0,
    });
    let mut connection = pin!(connection);
    let mut timer = pin!(sleep_until(Instant::now() + PING_INTERVAL));
    let error = poll_fn(|context| {
        state.task().waker = Some(context.waker().clone());
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                return Poll::Ready(ended.err());
            }
            state.release_ended();
            let Some(pings) = &mut pings else {
                return Poll::Pending;
            };
            match pings.poll(context, &state, timer.as_mut()) {
                Step::Wait => return Poll::Pending,
                Step::Again => {}
                Step::End => {
                    state.note_silence();
                    return Poll::Ready(None);
                }
            }
        }
    })
    .await;
    state.end(error);
}

/// What the driving task does next, after it has checked PINGs and timers.
enum Step {
    /// Wait for data or the timer.
    Wait,
    /// Poll the connection again, because there are frames to send.
    Again,
    /// End the connection, because the service does not respond.
    End,
}

struct Pings {
    pings: PingPong,
    /// Whether a PING was sent and its response has not arrived.
    awaited: bool,
    /// Number of resets that may be sent until the service has responded to the next PING.
    resets_left: usize,
    /// The value of `ConnectionState::reads` when the timer last expired.
    reads: u64,
}

impl Pings {
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        state: &ConnectionState,
        mut timer: Pin<&mut Sleep>,
    ) -> Step {
        let mut step = Step::Wait;
        if self.awaited && self.pings.poll_pong(context).is_ready() {
            self.awaited = false;
            self.resets_left = RESETS_PER_ROUND_TRIP;
            timer.as_mut().reset(Instant::now() + PING_INTERVAL);
        }
        if self.send_resets(state) {
            step = Step::Again;
        }
        if self.resets_left == 0 && !self.awaited && self.ask(timer.as_mut()) {
            step = Step::Again;
        }
        while timer.as_mut().poll(context).is_ready() {
            if self.awaited {
                return Step::End;
            }
            let reads = state.reads.load(Ordering::Relaxed);
            let is_silent = std::mem::replace(&mut self.reads, reads) == reads;
            state.abandon_ending();
            // If no client uses the connection and no stream is open, only unsent data remains. If
            // the service has also sent nothing since the timer last expired, it will probably
            // never read this data. The connection therefore ends.
            if is_silent && state.has_no_clients() && !state.is_busy() {
                return Step::End;
            }
            if is_silent && state.is_busy() && self.ask(timer.as_mut()) {
                step = Step::Again;
            } else {
                timer.as_mut().reset(Instant::now() + PING_INTERVAL);
            }
        }
        step
    }

    /// Resets as many abandoned streams as `resets_left` allows. Returns whether any stream was
    /// reset.
    fn send_resets(&mut self, state: &ConnectionState) -> bool {
        let mut any = false;
        while self.resets_left > 0 {
            // The lock of `state.task()` is released before `stream` is dropped, because h2 takes
            // its own lock when a stream is dropped.
            let Some(stream) = state.task().abandoned.pop_front() else {
                break;
            };
            drop(stream);
            self.resets_left -= 1;
            any = true;
        }
        any
    }

    /// Sends a PING and starts the timeout for its response. Returns false if the PING could not be
    /// sent.
    fn ask(&mut self, timer: Pin<&mut Sleep>) -> bool {
        self.awaited = self.pings.send_ping(Ping::opaque()).is_ok();
        if self.awaited {
            timer.reset(Instant::now() + PING_TIMEOUT);
        }
        self.awaited
    }
}
