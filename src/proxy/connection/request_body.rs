//! A caller's body on its way to the service: never copied, bounded in time and size.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::buffered_body::BufferedBody;
use super::guard::ConnectionGuard;
use crate::policy::Denial;
use crate::proxy::wire::expect_continue::Expectation;
use crate::proxy::wire::head::FramingError;
use crate::proxy::wire::headers;
use crate::proxy::wire::refusal::Refusal;
use crate::proxy::wire::upload_progress::UploadProgress;
use crate::reason::ReasonCode;

/// Why a caller's body ended early.
#[derive(Debug)]
pub(crate) struct RequestBodyError {
    pub(crate) reason: ReasonCode,
    pub(crate) detail: String,
    /// With what h2 resets the request's stream: it is not our fault.
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

/// Finds an error of type `T` among an error and its sources, looking into
/// [`std::io::Error`] too.
pub(crate) fn find_source<'a, T: Error + 'static>(
    error: &'a (dyn Error + 'static),
) -> Option<&'a T> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        if let Some(inner) = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            && let Some(found) = inner.downcast_ref::<T>()
        {
            return Some(found);
        }
        current = error.source();
    }
    None
}

/// A caller's body on its way to the service.
pub(crate) struct RequestBody {
    source: Source,
    /// None where the caller may pause for as long as it likes.
    pause: Option<Pause>,
    left: Option<u64>,
    /// The service has to ask for it first.
    asked_for: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    upload: Arc<UploadProgress>,
    /// Fields that are nobody's but the gateway's: assertion and API key.
    private: [HeaderName; 2],
    /// Keeps the connection's slot as long as the body lasts.
    _guard: ConnectionGuard,
}

/// Where a caller's body comes from.
enum Source {
    /// From its connection, piece by piece.
    Incoming(Incoming),
    /// From memory.
    BufferedBody(BufferedBody),
}

impl Source {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self {
            Self::Incoming(incoming) => Pin::new(incoming).poll_frame(context),
            Self::BufferedBody(held) => Poll::Ready(if held.data.is_empty() {
                held.trailers.take().map(|t| Ok(Frame::trailers(t)))
            } else {
                Some(Ok(Frame::data(std::mem::take(&mut held.data))))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Incoming(incoming) => incoming.is_end_stream(),
            Self::BufferedBody(held) => held.data.is_empty() && held.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Incoming(incoming) => incoming.size_hint(),
            // Trailers need chunks, and those no length.
            Self::BufferedBody(held) if held.trailers.is_some() => SizeHint::default(),
            Self::BufferedBody(held) => {
                SizeHint::with_exact(u64::try_from(held.data.len()).unwrap_or(u64::MAX))
            }
        }
    }
}

impl RequestBody {
    /// A body that was read whole.
    pub(crate) fn held(
        held: BufferedBody,
        private: [HeaderName; 2],
        guard: ConnectionGuard,
    ) -> Self {
        let source = Source::BufferedBody(held);
        Self {
            upload: Arc::new(UploadProgress::new(source.is_end_stream())),
            source,
            pause: None,
            left: None,
            asked_for: None,
            private,
            _guard: guard,
        }
    }

    pub(crate) fn new(
        incoming: Incoming,
        longest_pause: Option<Duration>,
        most_bytes: Option<u64>,
        private: [HeaderName; 2],
        guard: ConnectionGuard,
    ) -> Self {
        let upload = Arc::new(UploadProgress::new(incoming.is_end_stream()));
        Self {
            source: Source::Incoming(incoming),
            pause: longest_pause.map(Pause::new),
            left: most_bytes,
            asked_for: None,
            upload,
            private,
            _guard: guard,
        }
    }

    /// Whether the caller has yet to send it.
    pub(crate) fn waits_for_caller(&self) -> bool {
        matches!(&self.source, Source::Incoming(incoming) if !incoming.is_end_stream())
    }

    /// Is not read before the service has asked for it.
    pub(crate) fn expect(&mut self, expectation: &Arc<Expectation>) {
        self.asked_for = Some(Box::pin(Arc::clone(expectation).met()));
    }

    /// How far it is on its way.
    pub(crate) const fn upload(&self) -> &Arc<UploadProgress> {
        &self.upload
    }

    /// What it takes to send it once more: nothing of it, or all of it, is in
    /// memory.
    pub(crate) fn again(&self) -> Option<BufferedBody> {
        match &self.source {
            Source::BufferedBody(held) => Some(held.clone()),
            Source::Incoming(incoming) => incoming.is_end_stream().then(BufferedBody::default),
        }
    }

    fn failed(error: &hyper::Error) -> RequestBodyError {
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
        this.upload.begin();
        if let Some(asked_for) = &mut this.asked_for {
            ready!(asked_for.as_mut().poll(context));
            this.asked_for = None;
        }
        match this.source.poll_frame(context) {
            Poll::Pending
                if this
                    .pause
                    .as_mut()
                    .is_some_and(|pause| pause.is_over(context)) =>
            {
                Poll::Ready(Some(Err(RequestBodyError::new(
                    ReasonCode::Timeout,
                    "the caller's body paused for too long",
                ))))
            }
            Poll::Pending => {
                this.upload.waits(context.waker());
                Poll::Pending
            }
            Poll::Ready(None) => {
                this.upload.moved();
                this.upload.completed();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(Self::failed(&error)))),
            Poll::Ready(Some(Ok(mut frame))) => {
                this.upload.moved();
                if let Some(pause) = &mut this.pause {
                    pause.end();
                }
                if let Some(trailers) = frame.trailers_mut() {
                    headers::strip_trailers(trailers, &this.private);
                }
                if let (Some(left), Some(data)) = (this.left.as_mut(), frame.data_ref()) {
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
                // A body of known length is not polled again after its last byte.
                if this.source.is_end_stream() {
                    this.upload.completed();
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
        // Looked at afterwards: whoever abandons it wakes only those that wait.
        if self.upload.is_abandoned() && !matches!(polled, Poll::Ready(None)) {
            polled = Poll::Ready(Some(Err(RequestBodyError::new(
                ReasonCode::UpstreamProtocol,
                "the service has answered without the rest of the body",
            ))));
        }
        if let Poll::Ready(Some(Err(error))) = &polled {
            let fault = Denial::new(error.reason, error.detail.clone());
            self.upload.failed(fault);
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

/// Measures how long nothing arrives; costs nothing while data flows.
struct Pause {
    longest: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pause {
    const fn new(longest: Duration) -> Self {
        Self {
            longest,
            timer: None,
        }
    }

    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(self.longest)));
        timer.as_mut().poll(context).is_ready()
    }

    fn end(&mut self) {
        if let Some(timer) = &mut self.timer {
            timer.as_mut().reset(Instant::now() + self.longest);
        }
    }
}
