//! How a request ends: with its service's answer, with one of the gateway's own, or
//! without any.

pub(crate) mod body;
pub(crate) mod h2_delivery;
pub(crate) mod h2_streams;
pub(crate) mod problem;
pub(crate) mod protected_resource;
pub(crate) mod tunnel;
pub(crate) mod whoami;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use http_body::Body as _;

use self::body::{GatewayBody, ResponseBody, broken_off};
use self::h2_delivery::H2Stream;
use self::tunnel::Switched;
use crate::proxy::connection::Connection;
use crate::proxy::connection::in_flight::InFlightRequest;
use crate::proxy::forward::UpstreamResponse;
use crate::proxy::forward::upgrade;
use crate::proxy::wire::headers;
use crate::proxy::wire::refusal::Refusal;
use crate::reason::ReasonCode;
use crate::snapshot::Snapshot;
use crate::telemetry::record::AuditRecord;

/// Says why a request ended without an answer, as far as it is known, when it is
/// dropped before there is one.
pub(super) struct RecordNoResponse<'a> {
    pub(super) record: &'a mut AuditRecord,
    pub(super) connection: &'a Connection,
    pub(super) answered: bool,
}

impl Drop for RecordNoResponse<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        if let Some(denial) = self.connection.cut_reason() {
            self.record.refused(denial.reason, &denial.recorded());
        } else if self.connection.is_stopping() {
            let detail = "the gateway stops, and there was no answer yet";
            self.record.refused(ReasonCode::ShuttingDown, detail);
        } else {
            let detail = "the caller went away before there was an answer";
            self.record.unanswered(detail);
        }
    }
}

/// How a request that was not refused was served.
#[expect(
    clippy::large_enum_variant,
    reason = "the large variant is nearly every request; a box for it costs more than the move"
)]
pub(super) enum Served {
    /// By its upstream, which is still at it.
    ForwardedResponse(ForwardedResponse),
    /// By the gateway itself.
    Here(Response<GatewayBody>),
}

/// A service's answer, and what the request still holds.
pub(super) struct ForwardedResponse {
    pub(super) answer: UpstreamResponse,
    pub(super) active: InFlightRequest,
    pub(super) upgrade: Option<upgrade::UpgradeRequest>,
    /// The service was told the caller's certificate.
    pub(super) tells_certificate: bool,
    /// How long the caller may leave the answer untaken.
    pub(super) stall_timeout: Duration,
}

impl ForwardedResponse {
    pub(super) fn has_switched(&self) -> bool {
        let status = self.answer.response.status();
        match &self.upgrade {
            Some(asked) => asked.is_switch(status),
            None => status == StatusCode::SWITCHING_PROTOCOLS,
        }
    }

    /// Whether the answer would be taken for a switch that did not happen.
    pub(super) fn feigns_switch(&self) -> bool {
        let status = self.answer.response.status();
        let asked = self.upgrade.as_ref();
        asked.is_some_and(|asked| asked.is_feigned(status))
    }

    /// Looks at what came together with the answer's head: a caller of HTTP/1.1, which has
    /// nothing but the connection's end for an answer that breaks off, can still be told.
    pub(super) async fn begin(&mut self) -> Result<(), Refusal> {
        let UpstreamResponse {
            response,
            upload,
            is_empty,
            first,
            ..
        } = &mut self.answer;
        if *is_empty || H2Stream::current().is_some() {
            return Ok(());
        }
        let body = response.body_mut();
        let look =
            |context: &mut Context<'_>| Poll::Ready(Pin::new(&mut *body).poll_frame(context));
        match poll_fn(look).await {
            Poll::Ready(Some(Ok(frame))) => *first = Some(frame),
            Poll::Ready(Some(Err(error))) => return Err(broken_off(upload, &error).into()),
            Poll::Ready(None) | Poll::Pending => {}
        }
        Ok(())
    }

    /// Gives up what of the request and its answer is still on the way.
    pub(super) fn give_up(self) {
        self.answer.upload.abandon();
        self.answer.lease.close();
    }

    /// Takes over the connection of a service that has switched protocols.
    pub(super) async fn switch(self) -> Result<Switched, Refusal> {
        let mut answer = self.answer.response;
        let service = hyper::upgrade::on(&mut answer).await;
        match (service, self.upgrade) {
            (Ok(service), Some(asked)) => Ok(Switched {
                asked,
                answer,
                service,
                active: self.active,
                lease: self.answer.lease,
            }),
            _ => Err(Refusal::new(
                ReasonCode::UpstreamProtocol,
                "the service's connection was gone when it had switched protocols",
            )),
        }
    }
}

/// The service's answer as its caller gets it.
pub(super) fn pass_on(
    connection: &Arc<Connection>,
    snapshot: &Snapshot,
    forwarded: ForwardedResponse,
    mut record: AuditRecord,
) -> Response<GatewayBody> {
    let ForwardedResponse {
        answer,
        active,
        tells_certificate,
        stall_timeout,
        ..
    } = forwarded;
    let (mut parts, incoming) = answer.response.into_parts();
    let assertion_header = &snapshot.signer.settings().header;
    let trailers =
        headers::declared_trailers(&parts.headers, std::slice::from_ref(assertion_header));
    headers::strip_response(&mut parts.headers);
    if let Some(trailers) = trailers {
        parts.headers.insert(header::TRAILER, trailers);
    }
    if answer.body_unwanted {
        // The caller may send its body all the same, or another request: nobody
        // can know which.
        let close = HeaderValue::from_static("close");
        parts.headers.insert(header::CONNECTION, close);
    }
    if tells_certificate {
        headers::widen_vary(&mut parts.headers);
    }
    parts.version = http::Version::default();
    record.answered(parts.status.as_u16());
    let body = ResponseBody::new(
        (incoming, answer.first),
        (answer.lease, answer.upload, answer.is_empty),
        record,
        (active, stall_timeout),
        assertion_header.clone(),
        Arc::clone(connection),
    );
    Response::from_parts(parts, GatewayBody::Streamed(Box::new(body)))
}
