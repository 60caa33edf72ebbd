//! Ends a request: with the service's response, with the gateway's own response, or with an audit
//! record which says that there was no response.
//!
//! - `body`: the body of a response while it is sent to the caller
//! - `h2_delivery`: tracks how much of a response the caller of an HTTP/2 stream has taken
//! - `h2_streams`: runs the streams of one HTTP/2 connection
//! - `tunnel`: forwards bytes between a caller and a service that has switched protocols
//! - `problem`: makes the response to a refused request

pub(crate) mod body;
pub(crate) mod h2_delivery;
pub(crate) mod h2_streams;
pub(crate) mod problem;
pub(crate) mod tunnel;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::UPGRADE;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::Body as _;

use self::body::{GatewayBody, ResponseBody, StreamedResponse, response_error};
use self::h2_delivery::H2Stream;
use self::tunnel::Switched;
use super::connection::Connection;
use super::connection::in_flight::InFlightRequest;
use super::forward::UpstreamResponse;
use super::forward::upgrade::UpgradeRequest;
use super::wire::headers;
use super::wire::refusal::Refusal;
use crate::reason::ReasonCode;
use crate::telemetry::record::AuditRecord;

/// Records on drop that a request ended without a response, unless `has_response` is set. hyper
/// drops the handler's future when the caller disconnects.
pub(crate) struct RecordNoResponse<'a> {
    pub(crate) record: &'a mut AuditRecord,
    pub(crate) connection: &'a Connection,
    pub(crate) has_response: bool,
}

impl Drop for RecordNoResponse<'_> {
    fn drop(&mut self) {
        if self.has_response {
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

/// The outcome of a request that was not refused.
#[expect(
    clippy::large_enum_variant,
    reason = "the large variant is nearly every request; a box for it costs more than the move"
)]
pub(crate) enum Served {
    /// The service has sent the head of its response. The body must still be read.
    Forwarded(ForwardedResponse),
    /// The gateway has made the response itself.
    Local(Response<GatewayBody>),
}

/// A service's response, and the resources that the request still occupies.
pub(crate) struct ForwardedResponse {
    pub(crate) upstream: UpstreamResponse,
    pub(crate) in_flight: InFlightRequest,
    pub(crate) upgrade: Option<UpgradeRequest>,
    /// Whether header fields of the request told the service about the caller's certificate.
    pub(crate) tells_certificate: bool,
    /// Timeout that ends the response if the caller takes no part of it.
    pub(crate) stall_timeout: Duration,
}

impl ForwardedResponse {
    /// Returns whether the response says that the service has switched protocols.
    pub(crate) fn has_switched(&self) -> bool {
        let status = self.upstream.response.status();
        match &self.upgrade {
            Some(upgrade) => upgrade.is_switch(status),
            None => status == StatusCode::SWITCHING_PROTOCOLS,
        }
    }

    /// Returns whether the caller would read the response as a switch of protocols, although the
    /// service has not switched.
    pub(crate) fn is_false_upgrade(&self) -> bool {
        let status = self.upstream.response.status();
        let upgrade = self.upgrade.as_ref();
        upgrade.is_some_and(|upgrade| upgrade.is_false_upgrade(status))
    }

    /// For a caller over HTTP/1.1, reads the content that arrived together with the response head.
    /// If this read fails, the gateway can still send a refusal. After the response head was sent,
    /// the gateway can only close the caller's connection.
    pub(crate) async fn read_first_frame(&mut self) -> Result<(), Refusal> {
        let UpstreamResponse {
            response,
            lease,
            upload,
            has_no_content,
            first_frame,
            ..
        } = &mut self.upstream;
        if *has_no_content || H2Stream::current().is_some() {
            return Ok(());
        }
        let body = response.body_mut();
        let poll_once =
            |context: &mut Context<'_>| Poll::Ready(Pin::new(&mut *body).poll_frame(context));
        match poll_fn(poll_once).await {
            Poll::Ready(Some(Ok(frame))) => *first_frame = Some(frame),
            Poll::Ready(Some(Err(error))) => {
                return Err(response_error(upload, &error, Some(&*lease)).into());
            }
            Poll::Ready(None) | Poll::Pending => {}
        }
        Ok(())
    }

    /// Stops the upload of the request body and closes the upstream connection.
    pub(crate) fn abandon(self) {
        self.upstream.upload.abandon();
        self.upstream.lease.close();
    }

    /// Takes the raw connection to a service that has switched protocols out of the HTTP client.
    pub(crate) async fn switch(self) -> Result<Switched, Refusal> {
        let mut response = self.upstream.response;
        // A response from an HTTP/2 service has no `Upgrade` field. The field is not needed,
        // because WebSocket is the only protocol that the gateway requests over HTTP/2.
        if let Some(chosen) = response.headers().get(UPGRADE) {
            self.in_flight.set_upgrade(Some(chosen.clone()));
        }
        let service = hyper::upgrade::on(&mut response).await;
        match (service, self.upgrade) {
            (Ok(service), Some(upgrade)) => Ok(Switched {
                upgrade,
                response,
                service,
                in_flight: self.in_flight,
                lease: self.upstream.lease,
            }),
            _ => Err(Refusal::new(
                ReasonCode::UpstreamProtocol,
                "the service's connection was gone when it had switched protocols",
            )),
        }
    }

    /// Makes the response to the caller.
    pub(crate) fn into_response(
        mut self,
        connection: &Arc<Connection>,
        assertion_header: &HeaderName,
        mut record: AuditRecord,
    ) -> Response<GatewayBody> {
        self.in_flight.release_tunnel();
        let upstream = self.upstream;
        let (mut parts, incoming) = upstream.response.into_parts();
        let declared = headers::declared_trailers(&parts.headers);
        headers::strip_response(&mut parts.headers);
        let trailers = declared.and_then(|mut declared| {
            headers::strip_response_trailers(&mut declared, std::slice::from_ref(assertion_header));
            headers::trailer_field(&declared)
        });
        if let Some(trailers) = trailers {
            parts.headers.insert(header::TRAILER, trailers);
        }
        if upstream.body_unwanted {
            // The caller may now send either the body it announced or a new request. The gateway
            // cannot tell which of them arrives, so it closes the connection after the response.
            let close = HeaderValue::from_static("close");
            parts.headers.insert(header::CONNECTION, close);
        }
        if self.tells_certificate {
            headers::widen_vary(&mut parts.headers);
        }
        parts.version = http::Version::default();
        record.answered(parts.status.as_u16());
        let body = ResponseBody::new(StreamedResponse {
            incoming,
            first_frame: upstream.first_frame,
            lease: upstream.lease,
            upload: upstream.upload,
            has_no_content: upstream.has_no_content,
            record,
            in_flight: self.in_flight,
            stall_timeout: self.stall_timeout,
            assertion_header: assertion_header.clone(),
            connection: Arc::clone(connection),
        });
        Response::from_parts(parts, GatewayBody::Streamed(Box::new(body)))
    }
}
