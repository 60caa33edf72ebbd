//! `UnreadBody`: the rest of a request in HTTP/2 that nothing reads any more.
//!
//! h2 resets a stream whose response is complete and whose request is not, as soon as
//! nothing can read the request any more (RFC 9113, section 8.1: NO_ERROR). Some clients
//! lose a response that arrives together with the reset. So the rest of the request is
//! discarded until the response is on its way. If the request ends, there is no reset;
//! otherwise the reset comes later.
//!
//! The rest belongs to the task of its stream. Nothing that h2 holds may own it: h2 drops
//! what it holds under its own lock, which dropping a request's body takes too.

use std::cell::OnceCell;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::Notify;

use crate::wire::socket::LingerLimits;

/// How long the rest of a request may take to arrive after the response. Some clients
/// read no response before they have sent the whole request. Less than the time that a
/// connection has to close for another one.
const REST_TIMEOUT: Duration = Duration::from_millis(1500);
/// Maximum size of the rest.
const MAX_REST: u64 = LingerLimits::CALLER.bytes;
/// How long after its response a stream is reset if its rest is too long. The caller has
/// read the response by then.
const RESET_DELAY: Duration = Duration::from_millis(100);

tokio::task_local! {
    /// The unread body of the stream that the task serves. Absent if the request has none.
    static UNREAD: OnceCell<Arc<UnreadBody>>;
}

/// Runs the task of a stream in HTTP/2, for which [`CallerBody`] keeps what is unread.
pub(crate) fn with_unread_body<F: Future>(task: F) -> impl Future<Output = F::Output> {
    UNREAD.scope(OnceCell::new(), task)
}

fn of_task() -> Option<Arc<UnreadBody>> {
    UNREAD.try_with(|unread| unread.get().cloned()).ok()?
}

/// Discards what is unread while the response is still being sent, so that it does not
/// keep the connection's window closed. Never resolves.
pub(crate) async fn discard_unread() {
    if let Some(unread) = of_task() {
        unread.discard().await;
    }
    pending().await
}

/// Discards what is unread, or lets the caller read its response before the stream is
/// reset. To be called when h2 has the whole response.
pub(crate) async fn drain_unread() {
    let Some(unread) = of_task() else { return };
    let discarded = tokio::time::timeout(REST_TIMEOUT, unread.discard()).await;
    if discarded == Ok(Discarded::TooLong) || unread.is_connect.load(Ordering::Relaxed) {
        tokio::time::sleep(RESET_DELAY).await;
    }
}

/// Drops what is unread at the end of the stream's task, however the task ends.
pub(crate) struct DropUnread;

impl Drop for DropUnread {
    fn drop(&mut self) {
        if let Some(unread) = of_task() {
            unread.close();
        }
    }
}

/// A caller's body. Dropping it leaves what was not read to the task of its stream.
#[derive(Debug)]
pub(crate) struct CallerBody {
    /// Absent only while it is dropped.
    incoming: Option<Incoming>,
    /// None over HTTP/1.1, and if there is no body to come.
    unread: Option<Arc<UnreadBody>>,
}

impl CallerBody {
    /// Wraps a body. To be called in the task of its stream.
    pub(crate) fn new(incoming: Incoming, is_connect: bool) -> Self {
        let has_rest = is_connect || !incoming.is_end_stream();
        let of_task = || {
            let unread = |cell: &OnceCell<_>| Arc::clone(cell.get_or_init(Arc::default));
            UNREAD.try_with(unread).ok()
        };
        let unread: Option<Arc<UnreadBody>> = has_rest.then(of_task).flatten();
        if let Some(unread) = unread.as_ref().filter(|_| is_connect) {
            // hyper holds the stream of a CONNECT by itself.
            unread.is_connect.store(true, Ordering::Relaxed);
        }
        Self {
            incoming: Some(incoming),
            unread,
        }
    }
}

impl Body for CallerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.incoming {
            Some(incoming) => Pin::new(incoming).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for CallerBody {
    fn drop(&mut self) {
        if let (Some(incoming), Some(unread)) = (self.incoming.take(), self.unread.take()) {
            unread.keep(incoming);
        }
    }
}

#[derive(Debug, Default)]
struct UnreadBody {
    state: Mutex<State>,
    kept: Notify,
    is_connect: AtomicBool,
}

#[derive(Debug, Default)]
enum State {
    /// The request is being read.
    #[default]
    InUse,
    Kept(Incoming),
    /// Nothing is left, or the stream's task is over.
    Over,
}

impl UnreadBody {
    fn keep(&self, incoming: Incoming) {
        let is_over = incoming.is_end_stream();
        let left = {
            let mut state = self.state();
            match &*state {
                State::InUse if is_over => {
                    *state = State::Over;
                    Some(incoming)
                }
                State::InUse => {
                    *state = State::Kept(incoming);
                    None
                }
                State::Kept(_) | State::Over => Some(incoming),
            }
        };
        // Dropped without the lock, as h2 has locks too.
        drop(left);
        self.kept.notify_one();
    }

    fn close(&self) {
        let left = std::mem::replace(&mut *self.state(), State::Over);
        drop(left);
    }

    /// Waits until nothing else reads the body, and discards the rest.
    async fn discard(&self) -> Discarded {
        while matches!(*self.state(), State::InUse) {
            self.kept.notified().await;
        }
        let next = |context: &mut Context<'_>| match &mut *self.state() {
            State::Kept(incoming) => Pin::new(incoming).poll_frame(context),
            State::InUse | State::Over => Poll::Ready(None),
        };
        let mut left = MAX_REST;
        while let Some(Ok(frame)) = poll_fn(next).await {
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => return Discarded::TooLong,
            }
        }
        Discarded::All
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Discarded {
    All,
    TooLong,
}
