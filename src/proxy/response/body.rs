//! An answer's body on its way to the caller: never copied, and followed to its end.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::h2_delivery::{H2Stream, TrackedBytes};
use crate::policy::Denial;
use crate::proxy::connection::Connection;
use crate::proxy::connection::in_flight::{Deadline, InFlightRequest};
use crate::proxy::connection::request_body::RequestBody;
use crate::proxy::connection::response_audit::ResponseAudit;
use crate::proxy::wire::h2_stall::{BACKLOG, PIECE};
use crate::proxy::wire::headers;
use crate::proxy::wire::upload_progress::UploadProgress;
use crate::reason::ReasonCode;
use crate::telemetry::record::AuditRecord;
use crate::upstream::pool::Lease;

/// An answer's body: made by the gateway, or streamed from the service.
pub(crate) enum GatewayBody {
    Full(Option<Bytes>),
    Streamed(Box<ResponseBody>),
    /// All of it was handed over to h2, and its caller has no window for it.
    Draining(Box<Drain>),
}

/// An answer in h2 that ends when its caller has taken it.
pub(crate) struct Drain {
    stream: Arc<H2Stream>,
    trailers: Option<HeaderMap>,
}

/// A service's body on its way to the caller. Gives the upstream connection
/// back when it has been read to its end, and closes the audit record.
pub(crate) struct ResponseBody {
    incoming: Incoming,
    /// Nothing of what the service sends belongs to its answer.
    is_empty: bool,
    lease: Option<Lease<RequestBody>>,
    upload: Arc<UploadProgress>,
    account: Option<ResponseAudit>,
    assertion: HeaderName,
    /// When the credentials of the request end, or its time does. In h2 its stream
    /// knows, which lasts until the caller has taken what it was given.
    deadline: Option<Deadline>,
    /// The caller's stream, in h2.
    stream: Option<Arc<H2Stream>>,
    /// What is there and still to be handed over: of a large piece in h2, or what was
    /// looked at before the head was.
    rest: Bytes,
    /// The same of trailers.
    trailers: Option<Box<HeaderMap>>,
}

/// Cuts a piece off what there is.
fn cut_off(rest: &mut Bytes) -> Option<Bytes> {
    (!rest.is_empty()).then(|| rest.split_to(rest.len().min(PIECE)))
}

/// Why a service's body ended early.
#[derive(Debug)]
pub(crate) enum ResponseBodyError {
    /// The service broke off.
    Service(hyper::Error),
    /// The caller's credentials have expired.
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
            Self::Service(error) => Some(error),
            Self::Expired => None,
        }
    }
}

/// Whose fault it is that an answer ended early.
pub(super) fn broken_off(upload: &UploadProgress, error: &hyper::Error) -> Denial {
    upload.fault().cloned().unwrap_or_else(|| {
        Denial::new(
            ReasonCode::UpstreamProtocol,
            format!("the service's answer ended early: {error}"),
        )
    })
}

impl ResponseBody {
    pub(crate) fn new(
        (incoming, first): (Incoming, Option<Frame<Bytes>>),
        (lease, upload, is_empty): (Lease<RequestBody>, Arc<UploadProgress>, bool),
        record: AuditRecord,
        (active, stall_timeout): (InFlightRequest, Duration),
        assertion: HeaderName,
        connection: Arc<Connection>,
    ) -> Self {
        let stream = H2Stream::current();
        let mut deadline = active.answer_deadline();
        if let Some(stream) = &stream {
            stream.may_pause(stall_timeout);
            if let Some(deadline) = deadline.take() {
                stream.end_by(deadline);
            }
        }
        let mut body = Self {
            incoming,
            is_empty,
            lease: Some(lease),
            upload,
            assertion,
            deadline,
            account: Some(ResponseAudit::streamed(record, active, connection)),
            stream,
            rest: Bytes::new(),
            trailers: None,
        };
        match first.map(Frame::into_data) {
            None => {}
            Some(Ok(octets)) => body.rest = octets,
            Some(Err(other)) => body.trailers = other.into_trailers().ok().map(Box::new),
        }
        // Nobody polls a body that has already ended.
        if body.has_ended() {
            body.finish();
        }
        body
    }

    /// Whether nothing comes any more.
    fn has_ended(&self) -> bool {
        let nothing_left = self.rest.is_empty() && self.trailers.is_none();
        self.is_empty || (nothing_left && self.incoming.is_end_stream())
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

    /// All of the answer has been handed over. The stream whose caller has to take it
    /// before it may end, if there is one.
    fn finish(&mut self) -> Option<Arc<H2Stream>> {
        // A service may answer before it has read the whole request. The rest
        // would be in the way of, or pass for, another caller's request.
        if !self.upload.is_complete() {
            self.let_go();
        } else if let Some(lease) = self.lease.take() {
            lease.release();
        }
        let mut account = self.account.take()?;
        account.leave_upstream();
        let Some(stream) = self.stream.take() else {
            account.complete();
            return None;
        };
        stream.keep(account);
        (!stream.end()).then_some(stream)
    }

    /// Gives up what of the request and its answer is still on the way.
    fn let_go(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.upload.abandon();
            lease.close();
        }
    }

    /// Polls the service's body, and the connection that it comes by. Asking for
    /// octets is what lets the connection read them, hence the second look.
    fn poll_incoming(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
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

    /// Whether the credentials of the request have expired.
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
        if let Some(account) = self.account.take() {
            account.refused(denial);
        }
        self.let_go();
    }

    /// The next frame that the service has sent.
    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        if self.is_empty {
            return Poll::Ready(None);
        }
        if self.is_over(context) {
            return Poll::Ready(Some(Err(ResponseBodyError::Expired)));
        }
        if let Some(stream) = &self.stream {
            ready!(stream.poll_room(context, BACKLOG));
        }
        if let Some(piece) = cut_off(&mut self.rest) {
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
                let denial = broken_off(&self.upload, &error);
                self.fail(&denial);
                return Poll::Ready(Some(Err(ResponseBodyError::Service(error))));
            }
        };
        if let Some(trailers) = frame.trailers_mut() {
            headers::strip_trailers(trailers, std::slice::from_ref(&self.assertion));
        }
        let is_large = frame.data_ref().is_some_and(|data| data.len() > PIECE);
        if self.stream.is_some() && is_large {
            self.rest = frame.into_data().unwrap_or_default();
            frame = Frame::data(cut_off(&mut self.rest).unwrap_or_default());
        }
        Poll::Ready(Some(Ok(frame)))
    }

    /// What the caller gets of a frame.
    fn hand_over(&self, octets: Bytes) -> TrackedBytes {
        match &self.stream {
            Some(stream) => stream.hand_over(octets),
            None => octets.into(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.let_go();
        if let (Some(account), Some(stream)) = (self.account.take(), &self.stream)
            && let Some(denial) = stream.denial()
        {
            account.refused(&denial);
        }
    }
}

type Polled = Poll<Option<Result<Frame<TrackedBytes>, ResponseBodyError>>>;

impl GatewayBody {
    /// Nothing more comes of it, once `stream` has got rid of what there is.
    fn ends_with(&mut self, stream: Option<Arc<H2Stream>>, trailers: Option<HeaderMap>) {
        *self = match stream {
            None => Self::Full(None),
            Some(stream) => Self::Draining(Box::new(Drain { stream, trailers })),
        };
    }

    fn poll_made(&mut self, octets: Bytes) -> Polled {
        let Some(stream) = H2Stream::current() else {
            return Poll::Ready(Some(Ok(Frame::data(octets.into()))));
        };
        let piece = stream.hand_over(octets);
        if !stream.end() {
            self.ends_with(Some(stream), None);
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
            Some(Ok(octets)) => {
                let piece = body.hand_over(octets);
                // A body of known length is not polled again after its last byte.
                if body.has_ended() {
                    let untaken = body.finish();
                    self.ends_with(untaken, None);
                }
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            last => {
                let trailers = last.and_then(|frame| frame.err()?.into_trailers().ok());
                match body.finish() {
                    None => {
                        self.ends_with(None, None);
                        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
                    }
                    untaken => {
                        self.ends_with(untaken, trailers);
                        self.poll_untaken(context)
                    }
                }
            }
        }
    }

    fn poll_untaken(&mut self, context: &Context<'_>) -> Polled {
        let Self::Draining(untaken) = self else {
            return Poll::Ready(None);
        };
        ready!(untaken.stream.poll_room(context, 0));
        let trailers = untaken.trailers.take();
        self.ends_with(None, None);
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

impl Body for GatewayBody {
    type Data = TrackedBytes;
    type Error = ResponseBodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let this = self.get_mut();
        match this {
            Self::Full(octets) => match octets.take() {
                Some(octets) => this.poll_made(octets),
                None => Poll::Ready(None),
            },
            Self::Streamed(body) => {
                let polled = ready!(body.poll_next(context));
                this.poll_streamed(polled, context)
            }
            Self::Draining(_) => this.poll_untaken(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Streamed(body) => body.has_ended(),
            Self::Draining(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(
                bytes
                    .as_ref()
                    .map_or(0, |bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
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
        let pieces: Vec<Bytes> = std::iter::from_fn(|| cut_off(&mut rest)).collect();
        assert!(
            pieces
                .iter()
                .all(|piece| (1..=PIECE).contains(&piece.len()))
        );
        assert_eq!(pieces.concat(), whole);
        assert_eq!(pieces.len(), 7);
        assert!(cut_off(&mut Bytes::new()).is_none());
    }
}
