//! `Upload`: sends the body of a request to the service.
//!
//! A caller may send its body in pieces of a few bytes. Each piece would become a separate frame.
//! Many services end a connection if too many small frames wait to be processed. The upload
//! therefore combines all pieces that have already arrived. If a stream has sent many small frames,
//! the upload also waits a short time for more content.

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

/// Pieces of content with fewer bytes than this are combined with the content that follows.
const SMALL: usize = 1024;
/// A stream may send `SMALL_AT_ONCE` small frames without delay. After each interval of
/// `SMALL_EACH`, it may send one more, up to this maximum.
const SMALL_AT_ONCE: u32 = 64;
const SMALL_EACH: Duration = Duration::from_millis(10);
/// How long a small piece of content waits for more content, if the stream has sent too many small
/// frames.
const SMALL_DELAY: Duration = Duration::from_millis(5);

/// Sends a body to the service. Dropping the upload stops sending.
pub(super) struct Upload {
    /// The task that sends the body, and the channel through which the task reports a failure.
    /// `None` if no task is needed or the task has ended.
    task: Option<(AbortHandle, oneshot::Receiver<()>)>,
    failed: bool,
}

impl Upload {
    /// Creates an upload that has nothing to send.
    pub(super) const fn none() -> Self {
        Self {
            task: None,
            failed: false,
        }
    }

    /// Starts to send `body`. If the body cannot be sent completely in one poll, a spawned task
    /// sends the rest.
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

    /// Whether the upload has failed: the caller has aborted the body, or the body's trailers
    /// cannot be sent.
    pub(super) fn poll_failed(&mut self, context: &mut Context<'_>) -> bool {
        if let Some((_, heard)) = &mut self.task
            && let Poll::Ready(told) = Pin::new(heard).poll(context)
        {
            self.task = None;
            self.failed = told.is_ok();
        }
        self.failed
    }

    /// Whether the upload has ended without a failure: the whole body was sent, or the service does
    /// not want the rest.
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

/// The error if the caller has aborted the body, or if the body's trailers cannot be sent.
struct UploadError;

/// The future that sends a body.
struct Sending<B> {
    stream: SendStream<Bytes>,
    body: B,
    /// Small pieces of content that wait for more content.
    held: BytesMut,
    small: SmallFrames,
    /// The timer after which `held` is sent. `None` if `held` does not have to wait.
    delay: Option<Pin<Box<Sleep>>>,
    state: Arc<ConnectionState>,
}

/// Limits how many small frames a stream sends without delay.
struct SmallFrames {
    left: u32,
    since: Instant,
}

impl SmallFrames {
    /// Counts a small frame if it may be sent without delay. Returns whether it may.
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

    /// Waits until the service's flow-control windows have space. Returns `None` if the service has
    /// ended the stream.
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

    /// Sends a piece of content, or holds it if it is small. Returns `true` if this was the last
    /// piece, so that the body has ended.
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

    /// Called while the body waits for more content. Sends the held bytes. If the stream has sent
    /// too many small frames, first waits for [`SMALL_DELAY`].
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
                // The service does not want the rest of the body. This is not a failure of the
                // upload. If there is no response, the task that waits for the response detects
                // this.
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
            let sent = match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.take(data),
                    Err(other) => match this.finish(other) {
                        Ok(sent) => Ok(sent),
                        // The trailers are so large that the service would end the connection
                        // because of them.
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
                // An error means that the stream has ended, so nothing more can be sent on it.
                Ok(true) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl<B> Sending<B> {
    /// Sends the held data, and then the trailers, which end the body. Some services end the
    /// connection if the trailers frame is empty. If there are no trailer fields, the held data
    /// therefore ends the body. Returns `true`, because nothing follows.
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
