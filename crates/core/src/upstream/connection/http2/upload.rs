//! `Upload`: a request's body on its way to the service.
//!
//! A caller may send its body in pieces of a few bytes. Each piece would become a separate
//! frame, and services end a connection that has too many of them in front of a handler that
//! does not read at once. Pieces that are available together are therefore sent together, and a
//! stream that has sent many small pieces waits a moment for more.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::SendStream;
use http_body::{Body, Frame};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep_until};

use super::field_limits::{check_fields, field_sizes};
use super::state::ConnectionState;
use crate::upstream::connection::error::ServiceError;

/// Content of fewer bytes than this is combined with the content that follows.
const SMALL: usize = 1024;
/// Number of small frames that a stream may send without delay, and the time after which one
/// more is allowed.
const SMALL_AT_ONCE: u32 = 64;
const SMALL_EACH: Duration = Duration::from_millis(10);
/// How long small content waits for more, if there were too many small frames.
const SMALL_DELAY: Duration = Duration::from_millis(5);

/// The sending of a body to the service. Dropping it abandons what was not sent.
pub(super) struct Upload {
    /// The task that sends the body, and the channel on which it reports a failure.
    task: Option<(AbortHandle, oneshot::Receiver<()>)>,
    failed: bool,
}

impl Upload {
    /// Creates an upload without a body, or whose body was sent completely.
    pub(super) const fn none() -> Self {
        Self {
            task: None,
            failed: false,
        }
    }

    /// Begins to send `body`. If it cannot be sent at once, a task continues.
    pub(super) async fn begin<B>(
        stream: SendStream<Bytes>,
        body: B,
        state: &Arc<ConnectionState>,
    ) -> Self
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let mut sending = Box::pin(Sending::new(stream, body, Arc::clone(state)));
        let first = std::future::poll_fn(|context| Poll::Ready(sending.as_mut().poll(context)));
        match first.await {
            Poll::Ready(Ok(())) => Self::none(),
            Poll::Ready(Err(UploadError)) => Self {
                task: None,
                failed: true,
            },
            Poll::Pending => {
                let (tell, heard) = oneshot::channel();
                let task = tokio::spawn(async move {
                    if sending.await.is_err() {
                        let _ = tell.send(());
                    }
                });
                Self {
                    task: Some((task.abort_handle(), heard)),
                    failed: false,
                }
            }
        }
    }

    /// Whether the caller broke off the body.
    pub(super) fn poll_failed(&mut self, context: &mut Context<'_>) -> bool {
        if let Some((_, heard)) = &mut self.task
            && let Poll::Ready(told) = Pin::new(heard).poll(context)
        {
            self.task = None;
            self.failed = told.is_ok();
        }
        self.failed
    }

    /// Whether the whole body was sent, or the service does not want the rest.
    pub(super) fn has_ended(&mut self) -> bool {
        let failed = self.poll_failed(&mut Context::from_waker(Waker::noop()));
        !failed && self.task.is_none()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some((task, _)) = &self.task {
            task.abort();
        }
    }
}

/// The caller broke off the body.
struct UploadError;

/// Sends a body.
struct Sending<B> {
    stream: SendStream<Bytes>,
    body: B,
    /// Small content that waits for more.
    held: BytesMut,
    small: SmallFrames,
    /// When the held bytes are sent.
    delay: Option<Pin<Box<Sleep>>>,
    state: Arc<ConnectionState>,
}

/// Counts the small frames of a stream.
struct SmallFrames {
    left: u32,
    since: Instant,
}

impl SmallFrames {
    /// Counts a small frame. Returns whether it may be sent at once.
    fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.since);
        let earned = elapsed.as_nanos() / SMALL_EACH.as_nanos();
        if let Ok(earned @ 1..) = u32::try_from(earned) {
            self.left = self.left.saturating_add(earned).min(SMALL_AT_ONCE);
            self.since = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

impl<B> Sending<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    fn new(stream: SendStream<Bytes>, body: B, state: Arc<ConnectionState>) -> Self {
        Self {
            stream,
            body,
            held: BytesMut::new(),
            small: SmallFrames {
                left: SMALL_AT_ONCE,
                since: Instant::now(),
            },
            delay: None,
            state,
        }
    }

    /// Waits until the service's windows have space. `None` if the service has ended the
    /// stream.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<Option<()>> {
        self.stream.reserve_capacity(1);
        while self.stream.capacity() == 0 {
            match self.stream.poll_capacity(context) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
        match self.stream.poll_reset(context) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => Poll::Ready(Some(())),
        }
    }

    fn send(&mut self, data: Bytes, is_last: bool) -> Result<(), h2::Error> {
        if data.len() < SMALL && !is_last {
            self.state.note_small_frame();
        }
        self.stream.send_data(data, is_last)
    }

    fn send_held(&mut self, is_last: bool) -> Result<(), h2::Error> {
        self.delay = None;
        let held = self.held.split().freeze();
        self.send(held, is_last)
    }

    /// Handles content that was read. Returns whether it was the end of the body.
    fn take(&mut self, data: Bytes) -> Result<bool, h2::Error> {
        let is_last = self.body.is_end_stream();
        if self.held.is_empty() && (is_last || data.len() >= SMALL) {
            self.send(data, is_last)?;
        } else {
            self.held.extend_from_slice(&data);
            if is_last || self.held.len() >= SMALL {
                self.send_held(is_last)?;
            }
        }
        Ok(is_last)
    }

    /// Called if nothing more can be read now. Sends the held bytes, unless they wait for more.
    fn poll_held(&mut self, context: &mut Context<'_>) -> Result<(), h2::Error> {
        if self.held.is_empty() {
            return Ok(());
        }
        if self.delay.is_none() {
            let now = Instant::now();
            if self.small.take(now) {
                return self.send_held(false);
            }
            self.delay = Some(Box::pin(sleep_until(now + SMALL_DELAY)));
        }
        let is_over = |timer: &mut Pin<Box<Sleep>>| timer.as_mut().poll(context).is_ready();
        if self.delay.as_mut().is_some_and(is_over) {
            return self.send_held(false);
        }
        Ok(())
    }
}

impl<B> Future for Sending<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Output = Result<(), UploadError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            match this.poll_room(context) {
                Poll::Ready(Some(())) => {}
                // The service does not want the rest. The task that awaits the response notices
                // whether there is one.
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
            let sent = match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.take(data),
                    Err(other) => match this.finish(other) {
                        Ok(sent) => Ok(sent),
                        // The service would end the connection because of the trailers.
                        Err(ServiceError::HeadTooLarge { .. }) => {
                            return Poll::Ready(Err(UploadError));
                        }
                        Err(_) => return Poll::Ready(Ok(())),
                    },
                },
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(UploadError)),
                Poll::Ready(None) => this.send_held(true).map(|()| true),
                Poll::Pending => match this.poll_held(context) {
                    Ok(()) if this.held.is_empty() || this.delay.is_some() => {
                        return Poll::Pending;
                    }
                    sent => sent.map(|()| false),
                },
            };
            match sent {
                Ok(false) => {}
                // If nothing more can be sent on the stream, it has been ended.
                Ok(true) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl<B> Sending<B> {
    /// Ends the body with its trailers. If all fields were left out, no frame is sent, because
    /// some services end the connection because of an empty one.
    fn finish(&mut self, frame: Frame<Bytes>) -> Result<bool, ServiceError> {
        let held = self.held.split().freeze();
        match frame.into_trailers() {
            Ok(trailers) if !trailers.is_empty() => {
                check_fields(&self.state, || field_sizes(&trailers))?;
                if !held.is_empty() {
                    self.stream.send_data(held, false)?;
                }
                self.stream.send_trailers(trailers)?;
            }
            _ => self.stream.send_data(held, true)?,
        }
        Ok(true)
    }
}
