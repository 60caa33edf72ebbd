//! `UnreadBody`: the part of an HTTP/2 request body that is still unread when the body's reader is
//! dropped.
//!
//! If a response is complete before its request, h2 resets the stream as soon as the request's body
//! is dropped (RFC 9113 section 8.1: NO_ERROR). Some clients lose the response if the reset arrives
//! together with the response. The gateway therefore keeps the body, and discards its data until
//! the response was sent. If the request ends in this time, h2 sends no reset. Otherwise h2 resets
//! the stream later.
//!
//! The task of the stream owns the unread body. A value inside h2 must not own the body, because
//! this would cause a deadlock. h2 drops its values while it holds its lock, and dropping a
//! request's body takes the same lock.

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

/// Maximum time in which the unread part may arrive after the response. Some clients read the
/// response only after they have sent the whole request. The time is shorter than
/// `caller_connections::CLOSE_WAIT`, in which an idle connection must close.
const REST_TIMEOUT: Duration = Duration::from_millis(1500);
/// Maximum size of the unread part in bytes.
const MAX_REST: u64 = LingerLimits::CALLER.bytes;
/// Delay between the response and the reset, if the unread part is too long. It gives the caller
/// time to read the response.
const RESET_DELAY: Duration = Duration::from_millis(100);

tokio::task_local! {
    /// The unread body of the HTTP/2 stream to which the current task belongs. Empty if the request
    /// has no body.
    static UNREAD: OnceCell<Arc<UnreadBody>>;
}

/// Runs the task of an HTTP/2 stream. If a [`CallerBody`] is dropped in this task, its unread part
/// is kept.
pub(crate) fn with_unread_body<F: Future>(task: F) -> impl Future<Output = F::Output> {
    UNREAD.scope(OnceCell::new(), task)
}

fn of_task() -> Option<Arc<UnreadBody>> {
    UNREAD.try_with(|unread| unread.get().cloned()).ok()?
}

/// Discards the unread body while the response is still being sent. Otherwise the unread data would
/// keep the connection's window closed. Never resolves.
pub(crate) async fn discard_unread() {
    if let Some(unread) = of_task() {
        unread.discard().await;
    }
    pending().await
}

/// Discards the unread body. If the body is too long or the request is a CONNECT, then waits for
/// [`RESET_DELAY`]. During this time, the caller can read the response before h2 resets the stream.
/// Must be called when h2 has the whole response.
pub(crate) async fn drain_unread() {
    let Some(unread) = of_task() else { return };
    let discarded = tokio::time::timeout(REST_TIMEOUT, unread.discard()).await;
    if discarded == Ok(Discarded::TooLong) || unread.is_connect.load(Ordering::Relaxed) {
        tokio::time::sleep(RESET_DELAY).await;
    }
}

/// Drops the unread body when the stream's task ends or is cancelled.
pub(crate) struct DropUnread;

impl Drop for DropUnread {
    fn drop(&mut self) {
        if let Some(unread) = of_task() {
            unread.close();
        }
    }
}

/// A caller's request body. If it is dropped before its end, the task of its stream keeps the
/// unread part.
#[derive(Debug)]
pub(crate) struct CallerBody {
    /// `None` only during `drop`.
    incoming: Option<Incoming>,
    /// Receives the unread part when this value is dropped. `None` in HTTP/1.1, and if the request
    /// has no body.
    unread: Option<Arc<UnreadBody>>,
}

impl CallerBody {
    /// Wraps a body. Must be called in the task of the body's stream.
    pub(crate) fn new(incoming: Incoming, is_connect: bool) -> Self {
        let has_rest = is_connect || !incoming.is_end_stream();
        let of_task = || {
            let unread = |cell: &OnceCell<_>| Arc::clone(cell.get_or_init(Arc::default));
            UNREAD.try_with(unread).ok()
        };
        let unread: Option<Arc<UnreadBody>> = has_rest.then(of_task).flatten();
        if let Some(unread) = unread.as_ref().filter(|_| is_connect) {
            // For CONNECT, hyper itself keeps a reference to the stream, so the stream does not end
            // with its body. `drain_unread` therefore always waits for `RESET_DELAY`.
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
    /// The `CallerBody` still exists.
    #[default]
    InUse,
    /// The `CallerBody` was dropped before its end.
    Kept(Incoming),
    /// The body has ended, or the stream's task has ended.
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
        // `left` is dropped after the lock on `state` was released, because dropping a body takes
        // h2's locks.
        drop(left);
        self.kept.notify_one();
    }

    fn close(&self) {
        let left = std::mem::replace(&mut *self.state(), State::Over);
        drop(left);
    }

    /// Waits until the `CallerBody` is dropped, and then discards the unread part. Returns
    /// `TooLong` if more than [`MAX_REST`] bytes arrive.
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
