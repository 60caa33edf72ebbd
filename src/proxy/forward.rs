//! Sending a permitted request to its upstream.

use std::sync::Arc;
use std::time::Instant;

use http::header::{HOST, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, request};
use http_body::Body as _;
use hyper::body::Incoming;

use super::body::{RequestBody, RequestBodyError, find_source};
use super::respond::Refusal;
use crate::assertion::SignedAssertion;
use crate::policy::Permit;
use crate::reason::ReasonCode;
use crate::upstream::Upstream;
use crate::upstream::pool::{ConnectError, Lease, PoolShard};

/// What entitles a request to be forwarded.
#[derive(Debug)]
pub(crate) enum Warrant {
    /// A signed assertion about its caller.
    Signed(SignedAssertion),
    /// A permit for nobody, from a route that says so explicitly.
    Anonymous(AnonymousPermit),
}

/// A permit that names no caller.
#[derive(Debug)]
pub(crate) struct AnonymousPermit(());

impl AnonymousPermit {
    pub(crate) fn from_permit(permit: &Permit) -> Option<Self> {
        permit.principal().is_none().then_some(Self(()))
    }
}

/// A service's answer and the connection it is still being read from.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease<RequestBody>,
}

/// Why there is no answer.
pub(crate) enum ForwardError {
    /// The connection from the pool was closed before the request was sent; the
    /// request comes back and needs a fresh assertion.
    NeverSent(Box<(request::Parts, RequestBody)>),
    /// Anything else.
    Refused(Refusal),
}

impl From<Refusal> for ForwardError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Sends the request. `fresh` asks for a new connection.
pub(crate) async fn forward(
    pool: &Arc<PoolShard<RequestBody>>,
    upstream: &Upstream,
    assertion_header: &HeaderName,
    warrant: &Warrant,
    mut parts: request::Parts,
    body: RequestBody,
    fresh: bool,
) -> Result<Answer, ForwardError> {
    if let Warrant::Signed(assertion) = warrant {
        parts
            .headers
            .insert(assertion_header.clone(), assertion.header_value().clone());
    }
    let mut lease = pool
        .lease(upstream, fresh)
        .await
        .map_err(|error| connect_refusal(upstream, &error))?;
    let request = Request::from_parts(parts, body);
    let timeout = upstream.config().first_byte_timeout;
    let started = Instant::now();
    let sending = lease.sender().try_send_request(request);
    let Ok(outcome) = tokio::time::timeout(timeout, sending).await else {
        return Err(Refusal::new(
            ReasonCode::UpstreamTimeout,
            format!("{} did not answer within {timeout:?}", upstream.name()),
        )
        .into());
    };
    match outcome {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => Err(Refusal::new(
            ReasonCode::UpstreamProtocol,
            format!(
                "{} switched protocols without being asked to",
                upstream.name()
            ),
        )
        .into()),
        Ok(response) => {
            tracing::trace!(upstream = upstream.name(), elapsed = ?started.elapsed(), "answered");
            Ok(Answer { response, lease })
        }
        Err(mut error) => match error.take_message() {
            Some(request) if lease.is_reused() => {
                Err(ForwardError::NeverSent(Box::new(request.into_parts())))
            }
            _ => Err(send_refusal(upstream, error.error()).into()),
        },
    }
}

fn connect_refusal(upstream: &Upstream, error: &ConnectError) -> Refusal {
    let reason = match error {
        ConnectError::Timeout(_) => ReasonCode::UpstreamTimeout,
        ConnectError::NoEndpoint | ConnectError::Io(_) | ConnectError::Handshake(_) => {
            ReasonCode::UpstreamUnavailable
        }
    };
    tracing::warn!(upstream = upstream.name(), %error, "no connection to the upstream");
    // The caller need not learn addresses of services.
    Refusal::new(reason, format!("no connection to {}", upstream.name()))
}

fn send_refusal(upstream: &Upstream, error: &hyper::Error) -> Refusal {
    if let Some(body) = find_source::<RequestBodyError>(error) {
        return Refusal::new(body.reason, body.detail.clone());
    }
    tracing::warn!(upstream = upstream.name(), %error, "the upstream failed");
    let detail = if error.is_parse() {
        "gave an answer that is not HTTP"
    } else if error.is_incomplete_message() {
        "closed the connection before its answer was complete"
    } else {
        "broke the connection off"
    };
    Refusal::new(
        ReasonCode::UpstreamProtocol,
        format!("{} {detail}", upstream.name()),
    )
}

/// Makes the request line, Host and framing of the forwarded request.
pub(crate) fn address(
    parts: &mut request::Parts,
    authority: HeaderValue,
    path_and_query: PathAndQuery,
    body: &RequestBody,
) {
    parts.uri = Uri::from(path_and_query);
    parts.version = http::Version::HTTP_11;
    parts.headers.insert(HOST, authority);
    // Left to itself, hyper would send GET, HEAD and CONNECT without their body.
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        parts
            .headers
            .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}
