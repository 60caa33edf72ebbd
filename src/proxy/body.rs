//! An answer's body on its way to the caller: never copied, and followed to its end.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::active::{ActiveRequest, Deadline};
use super::connection::Connection;
use super::h2_streams::Stream;
use super::headers;
use super::request_body::RequestBody;
use super::upload::Upload;
use crate::policy::Denial;
use crate::reason::ReasonCode;
use crate::telemetry::record::AuditRecord;
use crate::upstream::pool::Lease;

/// An answer's body: made by the gateway, or streamed from the service.
pub(crate) enum GatewayBody {
    Made(Option<Bytes>),
    Streamed(Box<ResponseBody>),
}

/// A service's body on its way to the caller. Gives the upstream connection
/// back when it has been read to its end, and closes the audit record.
pub(crate) struct ResponseBody {
    incoming: Incoming,
    lease: Option<Lease<RequestBody>>,
    upload: Arc<Upload>,
    record: Option<AuditRecord>,
    assertion: HeaderName,
    connection: Arc<Connection>,
    /// When the credentials of the request end, or its time does.
    deadline: Option<Deadline>,
    /// The caller's stream, in h2, and how long it may leave something untaken.
    stream: Option<(Arc<Stream>, Duration)>,
    /// What of a large piece is still to be handed over, in h2.
    rest: Bytes,
    _active: ActiveRequest,
}

/// Most octets that a caller in h2 is given at once. hyper asks for the next piece when
/// the caller has taken the last one: in large pieces a slow caller would pass for one
/// that takes nothing.
const PIECE: usize = 64 * 1024;

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

impl ResponseBody {
    pub(crate) fn new(
        incoming: Incoming,
        (lease, upload): (Lease<RequestBody>, Arc<Upload>),
        record: AuditRecord,
        (active, stall_timeout): (ActiveRequest, Duration),
        assertion: HeaderName,
        connection: Arc<Connection>,
    ) -> Self {
        let mut body = Self {
            incoming,
            lease: Some(lease),
            upload,
            record: Some(record),
            assertion,
            connection,
            deadline: active.answer_deadline(),
            stream: Stream::current().map(|stream| (stream, stall_timeout)),
            rest: Bytes::new(),
            _active: active,
        };
        body.owes();
        // Nobody polls a body that has already ended.
        if body.incoming.is_end_stream() {
            body.finish();
        }
        body
    }

    /// Something is there for the caller.
    fn owes(&self) {
        if let Some((stream, longest)) = &self.stream {
            stream.owes(*longest);
        }
    }

    /// Whether nothing comes any more.
    fn has_ended(&self) -> bool {
        self.rest.is_empty() && self.incoming.is_end_stream()
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

    fn finish(&mut self) {
        // A service may answer before it has read the whole request. The rest
        // would be in the way of, or pass for, another caller's request.
        if !self.upload.is_complete() {
            self.let_go();
        } else if let Some(lease) = self.lease.take() {
            lease.release();
        }
        if let Some(mut record) = self.record.take() {
            record.complete();
        }
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
        if let Some(record) = &mut self.record {
            record.refused(denial.reason, &denial.recorded());
        }
        self.let_go();
        self.record = None;
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.let_go();
        let Some(record) = &mut self.record else {
            return;
        };
        if let Some(denial) = self.connection.cut_off() {
            record.refused(denial.reason, &denial.recorded());
        } else if let Some((stream, _)) = &self.stream
            && stream.is_given_up()
        {
            let detail = "the caller did not take the answer for too long";
            record.refused(ReasonCode::Timeout, detail);
        }
    }
}

impl Body for GatewayBody {
    type Data = Bytes;
    type Error = ResponseBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        let body = match self.get_mut() {
            Self::Made(bytes) => return Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Streamed(body) => body,
        };
        if let Some((stream, _)) = &body.stream {
            stream.taken();
        }
        if body.is_over(context) {
            return Poll::Ready(Some(Err(ResponseBodyError::Expired)));
        }
        if let Some(piece) = cut_off(&mut body.rest) {
            body.owes();
            if body.has_ended() {
                body.finish();
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let polled = body.poll_incoming(context);
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                body.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                let denial = body.upload.fault().cloned().unwrap_or_else(|| {
                    Denial::new(
                        ReasonCode::UpstreamProtocol,
                        format!("the service's answer ended early: {error}"),
                    )
                });
                body.fail(&denial);
                Poll::Ready(Some(Err(ResponseBodyError::Service(error))))
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::strip_trailers(trailers, std::slice::from_ref(&body.assertion));
                }
                if body.stream.is_some() {
                    body.owes();
                    if frame.data_ref().is_some_and(|data| data.len() > PIECE) {
                        body.rest = frame.into_data().unwrap_or_default();
                        frame = Frame::data(cut_off(&mut body.rest).unwrap_or_default());
                    }
                }
                // A body of known length is not polled again after its last byte.
                if body.has_ended() {
                    body.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Made(bytes) => bytes.is_none(),
            Self::Streamed(body) => body.has_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Made(bytes) => SizeHint::with_exact(
                bytes
                    .as_ref()
                    .map_or(0, |bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            ),
            Self::Streamed(body) => body.size_hint(),
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
