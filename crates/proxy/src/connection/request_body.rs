//! `RequestBody`: the body of a request while it is sent to the service. The data is not copied.
//! The size of the body and the length of pauses are limited.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::buffered_body::BufferedBody;
use super::guard::ConnectionGuard;
use super::unread_body::CallerBody;
use crate::policy::Denial;
use crate::reason::ReasonCode;
use crate::upstream::find_source;
use crate::wire::expect_continue::Expectation;
use crate::wire::h2_head;
use crate::wire::head::FramingError;
use crate::wire::headers::RequestTrailers;
use crate::wire::refusal::Refusal;
use crate::wire::upload_progress::UploadProgress;

/// The reason why a request body ended early.
#[derive(Debug)]
pub(crate) struct RequestBodyError {
    pub(crate) reason: ReasonCode,
    pub(crate) detail: String,
    /// The error code with which h2 resets the stream to the service. Without this error, h2 would
    /// send INTERNAL_ERROR.
    reset: h2::Error,
}

impl RequestBodyError {
    fn new(reason: ReasonCode, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            reset: h2::Reason::CANCEL.into(),
        }
    }
}

impl fmt::Display for RequestBodyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.detail)
    }
}

impl Error for RequestBodyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.reset)
    }
}

impl From<RequestBodyError> for Refusal {
    fn from(error: RequestBodyError) -> Self {
        Self::new(error.reason, error.detail)
    }
}

/// The body of a request while it is sent to the service.
pub(crate) struct RequestBody {
    source: Source,
    /// The limit for the caller's pauses. `None` if the caller may pause without limit.
    stall: Option<StallTimeout>,
    /// The number of bytes that the caller may still send. `None` if there is no limit.
    bytes_left: Option<u64>,
    /// Resolves when the body may be read from the caller: after the service's 100 (Continue), or
    /// after a timeout. `None` if the service was not asked for a 100.
    expectation: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    upload: Arc<UploadProgress>,
    trailers: RequestTrailers,
    /// Keeps the connection's slot until the body is dropped, because the body may outlive the
    /// connection's task.
    _guard: ConnectionGuard,
}

/// The source of a body.
enum Source {
    /// Read from the caller's connection.
    Incoming(CallerBody),
    /// Read from memory.
    Buffered(BufferedBody),
}

impl Source {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self {
            Self::Incoming(incoming) => Pin::new(incoming).poll_frame(context),
            Self::Buffered(body) => Poll::Ready(match body.pieces.pop_front() {
                Some(piece) => Some(Ok(Frame::data(piece))),
                None => body.trailers.take().map(|t| Ok(Frame::trailers(t))),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Incoming(incoming) => incoming.is_end_stream(),
            Self::Buffered(body) => body.pieces.is_empty() && body.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Incoming(incoming) => incoming.size_hint(),
            // Trailers need the chunked transfer coding, which excludes Content-Length.
            Self::Buffered(body) if body.trailers.is_some() => SizeHint::default(),
            Self::Buffered(body) => SizeHint::with_exact(body.length()),
        }
    }
}

impl RequestBody {
    /// Makes a request body from a body that is already in memory as a whole.
    pub(crate) fn buffered(
        body: BufferedBody,
        trailers: RequestTrailers,
        guard: ConnectionGuard,
    ) -> Self {
        let source = Source::Buffered(body);
        Self {
            upload: Arc::new(UploadProgress::new(source.is_end_stream())),
            source,
            stall: None,
            bytes_left: None,
            expectation: None,
            trailers,
            _guard: guard,
        }
    }

    /// Makes a body that is read from the caller's connection.
    pub(crate) fn new(
        incoming: CallerBody,
        stall_timeout: Option<Duration>,
        max_bytes: Option<u64>,
        trailers: RequestTrailers,
        guard: ConnectionGuard,
    ) -> Self {
        let upload = Arc::new(UploadProgress::new(incoming.is_end_stream()));
        Self {
            source: Source::Incoming(incoming),
            stall: stall_timeout.map(StallTimeout::new),
            bytes_left: max_bytes,
            expectation: None,
            upload,
            trailers,
            _guard: guard,
        }
    }

    /// Returns whether the caller must still send a part of the body.
    pub(crate) fn is_still_to_come(&self) -> bool {
        matches!(&self.source, Source::Incoming(incoming) if !incoming.is_end_stream())
    }

    /// Delays the first read until the service has sent a 100 (Continue), or until a timeout.
    pub(crate) fn wait_for(&mut self, expectation: &Arc<Expectation>) {
        self.expectation = Some(Box::pin(Arc::clone(expectation).met()));
    }

    pub(crate) const fn trailers(&self) -> &RequestTrailers {
        &self.trailers
    }

    pub(crate) const fn upload(&self) -> &Arc<UploadProgress> {
        &self.upload
    }

    /// Returns a copy of the body for a retry. Returns `None` if the body is neither in memory nor
    /// empty.
    pub(crate) fn copy(&self) -> Option<BufferedBody> {
        match &self.source {
            Source::Buffered(body) => Some(body.clone()),
            Source::Incoming(incoming) => incoming.is_end_stream().then(BufferedBody::default),
        }
    }

    /// Converts hyper's error about an incomplete body into an error with a reason code.
    pub(crate) fn read_error(error: &hyper::Error) -> RequestBodyError {
        match find_source::<FramingError>(error) {
            Some(FramingError { reason, detail }) => RequestBodyError::new(*reason, *detail),
            None => RequestBodyError::new(
                ReasonCode::MalformedRequest,
                format!("the caller's body ended early: {error}"),
            ),
        }
    }

    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let this = self;
        this.upload.set_started();
        if let Some(expectation) = &mut this.expectation {
            ready!(expectation.as_mut().poll(context));
            this.expectation = None;
        }
        match this.source.poll_frame(context) {
            Poll::Pending
                if this
                    .stall
                    .as_mut()
                    .is_some_and(|stall| stall.is_over(context)) =>
            {
                Poll::Ready(Some(Err(RequestBodyError::new(
                    ReasonCode::Timeout,
                    "the caller's body paused for too long",
                ))))
            }
            Poll::Pending => {
                this.upload.set_waiting_for_caller(context.waker());
                Poll::Pending
            }
            Poll::Ready(None) => {
                this.upload.record_progress();
                this.upload.set_complete();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(Self::read_error(&error)))),
            Poll::Ready(Some(Ok(mut frame))) => {
                this.upload.record_progress();
                if let Some(stall) = &mut this.stall {
                    stall.restart();
                }
                if let Some(trailers) = frame.trailers_mut() {
                    if h2_head::has_blank_edges(trailers) {
                        let error = RequestBodyError::new(
                            ReasonCode::MalformedRequest,
                            h2_head::BLANK_EDGES,
                        );
                        return Poll::Ready(Some(Err(error)));
                    }
                    this.trailers.strip(trailers);
                    // An empty trailer section is not forwarded, because some services close the
                    // connection if they receive one.
                    if trailers.is_empty() {
                        this.upload.set_complete();
                        return Poll::Ready(None);
                    }
                }
                if let (Some(left), Some(data)) = (this.bytes_left.as_mut(), frame.data_ref()) {
                    let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                    match left.checked_sub(length) {
                        Some(rest) => *left = rest,
                        None => {
                            return Poll::Ready(Some(Err(RequestBodyError::new(
                                ReasonCode::TooLarge,
                                "the body is larger than allowed",
                            ))));
                        }
                    }
                }
                // hyper does not poll a body of known length after its last byte, so the end is
                // recorded here.
                if this.source.is_end_stream() {
                    this.upload.set_complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let mut polled = self.poll_next(context);
        // `is_abandoned` is checked after the poll, which registers this task to be woken by
        // `abandon`. If the check came first, an `abandon` between the check and the poll would
        // wake no task.
        if self.upload.is_abandoned() && !matches!(polled, Poll::Ready(None)) {
            polled = Poll::Ready(Some(Err(RequestBodyError::new(
                ReasonCode::UpstreamProtocol,
                "the service has answered without the rest of the body",
            ))));
        }
        if let Poll::Ready(Some(Err(error))) = &polled {
            let fault = Denial::new(error.reason, error.detail.clone());
            self.upload.set_fault(fault);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}

/// Limits the time during which the caller sends no data. The timer is created at the first pause,
/// so that a body without pauses needs no timer.
struct StallTimeout {
    timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl StallTimeout {
    const fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            timer: None,
        }
    }

    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(self.timeout)));
        timer.as_mut().poll(context).is_ready()
    }

    fn restart(&mut self) {
        if let Some(timer) = &mut self.timer {
            timer.as_mut().reset(Instant::now() + self.timeout);
        }
    }
}
