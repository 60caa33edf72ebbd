//! `UnreadBody`: what the caller of an HTTP/2 stream still sends when its response is
//! already complete.
//!
//! h2 resets a stream whose response is complete and whose request is not, as soon as
//! nothing can read the request any more (RFC 9113, section 8.1: NO_ERROR). Some clients
//! lose a response that arrives together with the reset. So the rest of the request is
//! kept until the response is on its way: a short rest is read and discarded, which needs
//! no reset, and for a long one the reset comes later.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::Notify;

use crate::proxy::wire::socket::LingerLimits;

/// Limits how much is read and discarded, and for how long. Some clients read no response
/// before they have sent the whole request.
const LIMITS: LingerLimits = LingerLimits::CALLER;
/// How long after its response a stream with a long rest is reset. The caller has read
/// the response by then.
const RESET_DELAY: Duration = Duration::from_millis(100);

/// A caller's body. Dropping it leaves what was not read to its stream.
#[derive(Debug)]
pub(crate) struct CallerBody {
    /// Absent only while it is dropped.
    incoming: Option<Incoming>,
    unread: Option<Arc<UnreadBody>>,
}

impl CallerBody {
    /// `unread` is called for a body that is still to come over HTTP/2.
    pub(crate) fn new(
        incoming: Incoming,
        unread: impl FnOnce() -> Option<Arc<UnreadBody>>,
    ) -> Self {
        Self {
            unread: (!incoming.is_end_stream()).then(unread).flatten(),
            incoming: Some(incoming),
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

/// The unread rest of a stream's request, after everything else has stopped reading it.
#[derive(Debug, Default)]
pub(crate) struct UnreadBody {
    state: Mutex<State>,
    kept: Notify,
}

#[derive(Debug, Default)]
enum State {
    /// The request is being read.
    #[default]
    InUse,
    Kept(Incoming),
    /// The stream's task is over: nothing is kept any more.
    Over,
}

/// Marks the state when draining ends, also early.
struct OverOnDrop<'a>(&'a UnreadBody);

impl Drop for OverOnDrop<'_> {
    fn drop(&mut self) {
        let left = std::mem::replace(&mut *self.0.state(), State::Over);
        // Dropped without the lock, because h2 takes its own locks.
        drop(left);
    }
}

impl UnreadBody {
    fn keep(&self, incoming: Incoming) {
        let left = {
            let mut state = self.state();
            match &*state {
                State::InUse if !incoming.is_end_stream() => {
                    *state = State::Kept(incoming);
                    None
                }
                _ => Some(incoming),
            }
        };
        drop(left);
        self.kept.notify_one();
    }

    /// Discards the rest of the request, or lets the caller read its response before the
    /// stream is reset. To be called when h2 has the whole response.
    pub(crate) async fn drain(&self) {
        let _over = OverOnDrop(self);
        let discarded = tokio::time::timeout(LIMITS.time, self.discard()).await;
        if discarded == Ok(Discarded::TooLong) {
            tokio::time::sleep(RESET_DELAY).await;
        }
    }

    async fn discard(&self) -> Discarded {
        self.kept.notified().await;
        let mut left = LIMITS.bytes;
        let next = |context: &mut Context<'_>| match &mut *self.state() {
            State::Kept(incoming) => Pin::new(incoming).poll_frame(context),
            State::InUse | State::Over => Poll::Ready(None),
        };
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
