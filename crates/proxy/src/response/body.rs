//! The body of a response while it is sent to the caller. The data is not copied, and its delivery
//! is tracked to the end.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};

use super::h2_delivery::{H2Stream, TrackedBytes};
use crate::connection::Connection;
use crate::connection::in_flight::{Deadline, InFlightRequest};
use crate::connection::request_body::RequestBody;
use crate::connection::response_audit::ResponseAudit;
use crate::forward::ended_with;
use crate::policy::Denial;
use crate::reason::ReasonCode;
use crate::telemetry::record::AuditRecord;
use crate::upstream::pool::Lease;
use crate::upstream::{ServiceError, UpstreamBody, find_source};
use crate::wire::h2_stall::{MAX_BACKLOG, MAX_PIECE};
use crate::wire::headers;
use crate::wire::upload_progress::UploadProgress;

/// The body of a response: made by the gateway, or streamed from the service.
pub(crate) enum GatewayBody {
    Full(Option<Bytes>),
    Streamed(Box<ResponseBody>),
    /// h2 has the whole body, but the caller's flow-control window has no space for all of it yet.
    Draining(Box<Drain>),
}

/// The end of an HTTP/2 response. The stream stays open until the caller has taken the data.
pub(crate) struct Drain {
    stream: Arc<H2Stream>,
    trailers: Option<HeaderMap>,
}

/// A service's body while it is sent to the caller. At its end, the upstream connection returns to
/// the pool if it can be reused. Otherwise the connection is closed.
pub(crate) struct ResponseBody {
    incoming: UpstreamBody,
    /// True if the status allows no content, as 204 and 304 do. If true, the service's content is
    /// not sent.
    has_no_content: bool,
    lease: Option<Lease<RequestBody>>,
    upload: Arc<UploadProgress>,
    audit: Option<ResponseAudit>,
    assertion_header: HeaderName,
    /// The deadline of an HTTP/1.1 response. In HTTP/2 the deadline is in `H2Stream`, because the
    /// stream may outlive this body.
    deadline: Option<Deadline>,
    /// The caller's HTTP/2 stream. `None` in HTTP/1.1.
    stream: Option<Arc<H2Stream>>,
    /// Bytes that are sent before the service's body is polled again. They are the rest of a large
    /// frame, or of the frame that was read before the response was built.
    rest: Bytes,
    /// Trailers that were read before the response was built.
    trailers: Option<Box<HeaderMap>>,
}

/// The values from which a [`ResponseBody`] is made.
pub(super) struct StreamedResponse {
    pub(super) incoming: UpstreamBody,
    pub(super) first_frame: Option<Frame<Bytes>>,
    pub(super) lease: Lease<RequestBody>,
    pub(super) upload: Arc<UploadProgress>,
    pub(super) has_no_content: bool,
    pub(super) record: AuditRecord,
    pub(super) in_flight: InFlightRequest,
    pub(super) stall_timeout: Duration,
    pub(super) assertion_header: HeaderName,
    pub(super) connection: Arc<Connection>,
}

/// Removes at most `MAX_PIECE` bytes from the start of `rest` and returns them. Returns `None` if
/// `rest` is empty.
fn next_piece(rest: &mut Bytes) -> Option<Bytes> {
    (!rest.is_empty()).then(|| rest.split_to(rest.len().min(MAX_PIECE)))
}

/// The reason why the gateway ends a response body early.
#[derive(Debug)]
pub(crate) enum ResponseBodyError {
    /// The service ended the body early.
    Service(ServiceError),
    /// The response's [`Deadline`] future has resolved, for example because the credentials have
    /// expired.
    Expired,
}

impl fmt::Display for ResponseBodyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(error) => error.fmt(formatter),
            Self::Expired => formatter.write_str("the caller's credentials have expired"),
        }
    }
}

impl Error for ResponseBodyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // hyper resets the caller's stream with the code of the h2 error that it finds here.
            // PROTOCOL_ERROR would blame the caller for an error of the service.
            Self::Service(error) if !is_protocol_error(error) => Some(error),
            Self::Service(_) | Self::Expired => None,
        }
    }
}

fn is_protocol_error(error: &ServiceError) -> bool {
    find_source::<h2::Error>(error).and_then(h2::Error::reason) == Some(h2::Reason::PROTOCOL_ERROR)
}

/// Returns why a service's response ended early. If the upload of the request body failed, this
/// failure is the reason. Otherwise the reason is the service's error.
pub(super) fn response_error(
    upload: &UploadProgress,
    error: &ServiceError,
    lease: Option<&Lease<RequestBody>>,
) -> Denial {
    upload.fault().cloned().unwrap_or_else(|| {
        let detail = match lease.and_then(Lease::ended_with) {
            Some((code, cause)) => format!("the service {}", ended_with(code, cause)),
            None => format!("the service's answer ended early: {error}"),
        };
        Denial::new(ReasonCode::UpstreamProtocol, detail)
    })
}

impl ResponseBody {
    /// Creates the body. In HTTP/2 this must be called in the task of the caller's stream.
    pub(super) fn new(streamed: StreamedResponse) -> Self {
        let StreamedResponse {
            incoming,
            first_frame,
            lease,
            upload,
            has_no_content,
            record,
            mut in_flight,
            stall_timeout,
            assertion_header,
            connection,
        } = streamed;
        let stream = H2Stream::current();
        let mut deadline = in_flight.response_deadline();
        if let Some(stream) = &stream {
            stream.set_stall_timeout(stall_timeout);
            if let Some(deadline) = deadline.take() {
                stream.set_deadline(deadline);
            }
        }
        let mut body = Self {
            incoming,
            has_no_content,
            lease: Some(lease),
            upload,
            assertion_header,
            deadline,
            audit: Some(ResponseAudit::forwarded(record, in_flight, connection)),
            stream,
            rest: Bytes::new(),
            trailers: None,
        };
        match first_frame.map(Frame::into_data) {
            None => {}
            Some(Ok(data)) => body.rest = data,
            Some(Err(other)) => body.trailers = other.into_trailers().ok().map(Box::new),
        }
        // hyper never polls a body that is empty from its beginning, so `finish` is called here.
        if body.has_ended() {
            body.finish();
        }
        body
    }

    /// Returns whether no frame of the body remains.
    fn has_ended(&self) -> bool {
        let nothing_left = self.rest.is_empty() && self.trailers.is_none();
        self.has_no_content || (nothing_left && self.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.incoming.size_hint();
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }

    /// Records that the whole response was passed to hyper. Returns the HTTP/2 stream if it must
    /// stay open until the caller has taken the response.
    fn finish(&mut self) -> Option<Arc<H2Stream>> {
        // A service may respond before it has read the whole request body. If such a connection
        // were reused, the service could read the rest of the body as a new request. Such a
        // connection is therefore closed.
        if !self.upload.is_complete() {
            self.abandon();
        } else if let Some(lease) = self.lease.take() {
            lease.release();
        }
        let mut audit = self.audit.take()?;
        audit.release_upstream();
        let Some(stream) = self.stream.take() else {
            audit.complete();
            return None;
        };
        stream.attach_audit(audit);
        (!stream.finish()).then_some(stream)
    }

    /// Stops the upload of the request body and closes the upstream connection.
    fn abandon(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.upload.abandon();
            lease.close();
        }
    }

    /// Polls the service's body and drives its connection. The upstream connection reads from its
    /// socket only after the body was polled. If the body is pending, body and connection are
    /// therefore polled again.
    fn poll_incoming(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ServiceError>>> {
        let driven = self
            .lease
            .as_mut()
            .is_some_and(|lease| lease.drive(context));
        let polled = Pin::new(&mut self.incoming).poll_frame(context);
        if polled.is_ready() || !driven {
            return polled;
        }
        if let Some(lease) = &mut self.lease {
            lease.drive(context);
        }
        Pin::new(&mut self.incoming).poll_frame(context)
    }

    /// Checks the deadline. If the deadline has passed, ends the response and returns `true`.
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let Some(deadline) = &mut self.deadline else {
            return false;
        };
        let Poll::Ready(denial) = deadline.as_mut().poll(context) else {
            return false;
        };
        self.deadline = None;
        self.fail(&denial);
        true
    }

    fn fail(&mut self, denial: &Denial) {
        if let Some(audit) = self.audit.take() {
            audit.refused(denial);
        }
        self.abandon();
    }

    /// Returns the next frame to send to the caller.
    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        if self.has_no_content {
            return Poll::Ready(None);
        }
        if self.is_over(context) {
            return Poll::Ready(Some(Err(ResponseBodyError::Expired)));
        }
        if let Some(stream) = &self.stream {
            ready!(stream.poll_capacity(context, MAX_BACKLOG));
        }
        if let Some(piece) = next_piece(&mut self.rest) {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let polled = match self.trailers.take() {
            Some(trailers) => Some(Ok(Frame::trailers(*trailers))),
            None => ready!(self.poll_incoming(context)),
        };
        let Some(polled) = polled else {
            return Poll::Ready(None);
        };
        let mut frame = match polled {
            Ok(frame) => frame,
            Err(error) => {
                let denial = response_error(&self.upload, &error, self.lease.as_ref());
                self.fail(&denial);
                return Poll::Ready(Some(Err(ResponseBodyError::Service(error))));
            }
        };
        if let Some(trailers) = frame.trailers_mut() {
            let private = std::slice::from_ref(&self.assertion_header);
            headers::strip_response_trailers(trailers, private);
        }
        let is_large = frame.data_ref().is_some_and(|data| data.len() > MAX_PIECE);
        if self.stream.is_some() && is_large {
            self.rest = frame.into_data().unwrap_or_default();
            frame = Frame::data(next_piece(&mut self.rest).unwrap_or_default());
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn track(&self, data: Bytes) -> TrackedBytes {
        match &self.stream {
            Some(stream) => stream.track(data),
            None => data.into(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.abandon();
        if let (Some(audit), Some(stream)) = (self.audit.take(), &self.stream)
            && let Some(denial) = stream.denial()
        {
            audit.refused(&denial);
        }
    }
}

type Polled = Poll<Option<Result<Frame<TrackedBytes>, ResponseBodyError>>>;

impl GatewayBody {
    /// Ends the body. If `stream` is `Some`, the body ends when the caller has taken all data. If
    /// it is `None`, the body ends immediately.
    fn end_with(&mut self, stream: Option<Arc<H2Stream>>, trailers: Option<HeaderMap>) {
        *self = match stream {
            None => Self::Full(None),
            Some(stream) => Self::Draining(Box::new(Drain { stream, trailers })),
        };
    }

    fn poll_full(&mut self, data: Bytes) -> Polled {
        let Some(stream) = H2Stream::current() else {
            return Poll::Ready(Some(Ok(Frame::data(data.into()))));
        };
        let piece = stream.track(data);
        if !stream.finish() {
            self.end_with(Some(stream), None);
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn poll_streamed(
        &mut self,
        polled: Option<Result<Frame<Bytes>, ResponseBodyError>>,
        context: &mut Context<'_>,
    ) -> Polled {
        let Self::Streamed(body) = self else {
            return Poll::Ready(None);
        };
        let frame = match polled {
            Some(Ok(frame)) => Some(frame),
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => None,
        };
        match frame.map(Frame::into_data) {
            Some(Ok(data)) => {
                let piece = body.track(data);
                // hyper does not poll a body of known length after its last byte, so `finish` is
                // called here.
                if body.has_ended() {
                    let unread = body.finish();
                    self.end_with(unread, None);
                }
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            last => {
                let trailers = last.and_then(|frame| frame.err()?.into_trailers().ok());
                match body.finish() {
                    None => {
                        self.end_with(None, None);
                        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
                    }
                    unread => {
                        self.end_with(unread, trailers);
                        self.poll_draining(context)
                    }
                }
            }
        }
    }

    fn poll_draining(&mut self, context: &Context<'_>) -> Polled {
        let Self::Draining(drain) = self else {
            return Poll::Ready(None);
        };
        ready!(drain.stream.poll_capacity(context, 0));
        let trailers = drain.trailers.take();
        self.end_with(None, None);
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

impl Body for GatewayBody {
    type Data = TrackedBytes;
    type Error = ResponseBodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let this = self.get_mut();
        match this {
            Self::Full(data) => match data.take() {
                Some(data) => this.poll_full(data),
                None => Poll::Ready(None),
            },
            Self::Streamed(body) => {
                let polled = ready!(body.poll_next(context));
                this.poll_streamed(polled, context)
            }
            Self::Draining(_) => this.poll_draining(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(data) => data.is_none(),
            Self::Streamed(body) => body.has_ended(),
            Self::Draining(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(data) => SizeHint::with_exact(
                data.as_ref()
                    .map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX)),
            ),
            Self::Streamed(body) => body.size_hint(),
            Self::Draining(_) => SizeHint::with_exact(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pieces_are_cut_into_such_as_a_slow_caller_takes_in_time() {
        let whole = Bytes::from_iter((0..400 * 1024).map(|n: u32| n.to_le_bytes()[0]));
        let mut rest = whole.clone();
        let pieces: Vec<Bytes> = std::iter::from_fn(|| next_piece(&mut rest)).collect();
        assert!(
            pieces
                .iter()
                .all(|piece| (1..=MAX_PIECE).contains(&piece.len()))
        );
        assert_eq!(pieces.concat(), whole);
        assert_eq!(pieces.len(), 7);
        assert!(next_piece(&mut Bytes::new()).is_none());
    }
}
