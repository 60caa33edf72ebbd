//! Sending a permitted request to its upstream.

pub(crate) mod retry;
pub(crate) mod upgrade;

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, request};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;

use crate::assertion::SignedAssertion;
use crate::policy::Permit;
use crate::proxy::connection::request_body::{RequestBody, find_source};
use crate::proxy::task::yield_once::yield_once;
use crate::proxy::wire::expect_continue::Expectation;
use crate::proxy::wire::headers;
use crate::proxy::wire::refusal::Refusal;
use crate::proxy::wire::response_framing;
use crate::proxy::wire::upload_progress::UploadProgress;
use crate::reason::ReasonCode;
use crate::upstream::pool::{Lease, PoolShard};
use crate::upstream::{Affinity, FLOOD, HttpProtocol, Upstream};

/// What entitles a request to be forwarded.
#[derive(Debug)]
pub(crate) enum ForwardAuthorization {
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
pub(crate) struct UpstreamResponse {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease<RequestBody>,
    /// How much of the request has been handed over.
    pub(crate) upload: Arc<UploadProgress>,
    /// The service has answered without asking for the body.
    pub(crate) body_unwanted: bool,
    /// The answer has no content, whatever the service sends.
    pub(crate) is_empty: bool,
    /// What of its content has been looked at.
    pub(crate) first: Option<Frame<Bytes>>,
}

/// Why there is no answer.
pub(crate) enum ForwardError {
    /// The connection was closed before the request was sent; it comes back and needs
    /// a fresh assertion.
    NeverSent(Box<Unsent>),
    /// The connection broke before there was an answer.
    Broken {
        refusal: Refusal,
        /// Which of the upstream's endpoints it led to.
        endpoint: usize,
        /// The service said that it has not looked at the request.
        unprocessed: bool,
    },
    /// Anything else.
    Refused(Refusal),
}

/// A request that nothing was sent of.
pub(crate) struct Unsent {
    pub(crate) request: (request::Parts, RequestBody),
    /// Which of the upstream's endpoints has closed a new connection; none where it was
    /// an old one, which may end at any time.
    pub(crate) endpoint: Option<usize>,
    /// What to say when it is not sent again.
    pub(crate) refusal: Refusal,
}

impl From<Refusal> for ForwardError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What a request wants of its way, read before it is stripped.
pub(crate) struct RequestHints {
    /// gRPC over h2: streams pause, and deadlines are the service's.
    pub(crate) grpc: bool,
    /// The caller takes trailers (RFC 9110 section 10.1.4).
    trailers: bool,
    /// How long a gRPC caller waits.
    pub(crate) deadline: Option<Duration>,
    /// Trailers of the request that may pass.
    declared: Option<HeaderValue>,
    /// The caller waits for a 100 before it sends its body.
    expects: bool,
}

impl RequestHints {
    /// `private` gives the fields that are nobody's but the gateway's.
    pub(crate) fn of(parts: &request::Parts, private: impl FnOnce() -> [HeaderName; 2]) -> Self {
        let grpc = parts.version == http::Version::HTTP_2 && headers::is_grpc(&parts.headers);
        Self {
            grpc,
            deadline: grpc.then(|| grpc_timeout(&parts.headers)).flatten(),
            trailers: headers::lists(&parts.headers, &TE, "trailers"),
            declared: parts
                .headers
                .contains_key(TRAILER)
                .then(|| headers::declared_trailers(&parts.headers, &private()))
                .flatten(),
            expects: parts.version == http::Version::HTTP_11
                && headers::lists(&parts.headers, &EXPECT, "100-continue"),
        }
    }

    pub(crate) fn express(&self, parts: &mut request::Parts, protocol: HttpProtocol) {
        // gRPC services demand it, to know that no proxy drops trailers.
        if self.trailers && protocol == HttpProtocol::Http2 {
            parts
                .headers
                .insert(TE, HeaderValue::from_static("trailers"));
        }
        if let Some(declared) = &self.declared {
            parts.headers.insert(TRAILER, declared.clone());
        }
    }

    /// Asks the service first where the caller does, and can be told what it says.
    pub(crate) fn expectation(
        &self,
        parts: &mut request::Parts,
        protocol: HttpProtocol,
        body: &mut RequestBody,
    ) -> Option<Arc<Expectation>> {
        let asks = self.expects && protocol == HttpProtocol::Http1 && body.waits_for_caller();
        asks.then(|| {
            let expectation = Arc::new(Expectation::default());
            body.expect(&expectation);
            let value = HeaderValue::from_static("100-continue");
            parts.headers.insert(EXPECT, value);
            expectation
        })
    }
}

/// gRPC over HTTP/2, "Timeout": at most eight digits and a unit.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// How a request is sent.
pub(crate) struct Attempt<'a> {
    pub(crate) pool: &'a Arc<PoolShard<RequestBody>>,
    pub(crate) upstream: &'a Arc<Upstream>,
    /// A connection that is there for this request alone.
    pub(crate) own: Option<Box<Lease<RequestBody>>>,
    pub(crate) assertion_header: &'a HeaderName,
    pub(crate) warrant: &'a ForwardAuthorization,
    /// What the caller has to do with the choice of an endpoint.
    pub(crate) affinity: Affinity<'a>,
    /// Asks for a new connection.
    pub(crate) fresh: bool,
    /// An endpoint that has just failed.
    pub(crate) avoid: Option<usize>,
    /// How long the head of the answer may take; none where the caller keeps a
    /// deadline of its own.
    pub(crate) patience: Option<Duration>,
    /// The protocols the caller asked to switch to.
    pub(crate) upgrade: Option<&'a HeaderValue>,
    /// The caller waits for the service to say 100.
    pub(crate) expectation: Option<&'a Arc<Expectation>>,
}

impl Attempt<'_> {
    async fn lease(&mut self) -> Result<Lease<RequestBody>, Refusal> {
        match self.own.take() {
            Some(own) => Ok(*own),
            None => self
                .pool
                .lease(self.upstream, self.affinity, (self.fresh, self.avoid))
                .await
                .map_err(|error| Refusal::not_connected(self.upstream, &error)),
        }
    }
}

/// Sends the request.
pub(crate) async fn forward(
    mut attempt: Attempt<'_>,
    mut parts: request::Parts,
    body: RequestBody,
) -> Result<UpstreamResponse, ForwardError> {
    let upstream = attempt.upstream;
    if let ForwardAuthorization::Signed(assertion) = attempt.warrant {
        parts.headers.insert(
            attempt.assertion_header.clone(),
            assertion.header_value().clone(),
        );
    }
    // It was made for this request, and no other would be like it.
    let is_own = attempt.own.is_some();
    // Before the connection is chosen: it is looked at right before it is used.
    yield_once().await;
    let mut lease = attempt.lease().await?;
    let upload = Arc::clone(body.upload());
    let mut request = Request::from_parts(parts, body);
    if let Some(expectation) = attempt.expectation {
        let expectation = Arc::clone(expectation);
        hyper::ext::on_informational(&mut request, move |interim| {
            if interim.status() == StatusCode::CONTINUE {
                expectation.wanted();
            }
        });
    }
    let sending = lease.send(request);
    let outcome = match attempt.patience {
        Some(patience) => upload.answered(patience, sending).await,
        None => Ok(sending.await),
    };
    let Ok(outcome) = outcome else {
        upstream.left_unanswered(lease.index(), attempt.affinity);
        return Err(Refusal::new(
            ReasonCode::UpstreamTimeout,
            format!("{} did not answer in time", upstream.name()),
        )
        .into());
    };
    match outcome {
        Ok(response) => {
            upstream.answered(lease.index());
            answered(&attempt, response, lease, upload)
        }
        Err(mut error) => match error.take_message() {
            Some(request) if !is_own => {
                let request = request.into_parts();
                Err(never_sent(upstream, lease, request, error.error()))
            }
            _ => match upload.fault() {
                Some(fault) => Err(Refusal::from(fault.clone()).into()),
                None => Err(send_failure(&attempt, lease, error.error())),
            },
        },
    }
}

/// Takes an answer that may be shown.
fn answered(
    attempt: &Attempt<'_>,
    mut response: Response<Incoming>,
    mut lease: Lease<RequestBody>,
    upload: Arc<UploadProgress>,
) -> Result<UpstreamResponse, ForwardError> {
    let refuse = |flaw: &str| {
        let detail = format!("{} {flaw}", attempt.upstream.name());
        Err(Refusal::new(ReasonCode::UpstreamProtocol, detail).into())
    };
    let accepted = match response_framing::accept(&mut response, &upload) {
        Ok(accepted) => accepted,
        Err(flaw) => {
            lease.close();
            return refuse(flaw);
        }
    };
    if accepted.is_last {
        lease.spend();
    }
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    // From here on the connection moves with the answer's body. A request that is still
    // being sent must not wait for whoever reads that.
    if switches || !upload.is_complete() {
        lease.detach();
    }
    let was_asked = |asked| upgrade::is_among(response.headers(), asked);
    if switches && !attempt.upgrade.is_some_and(was_asked) {
        return refuse("switched protocols without being asked to");
    }
    let body_unwanted = attempt
        .expectation
        .is_some_and(|expectation| expectation.answered());
    Ok(UpstreamResponse {
        response,
        lease,
        upload,
        body_unwanted,
        is_empty: accepted.is_empty,
        first: None,
    })
}

/// What hyper gives back whole it has not begun with: not an octet of it was written, and
/// its body was not polled, so that it may be sent again whatever it is.
fn never_sent(
    upstream: &Upstream,
    lease: Lease<RequestBody>,
    request: (request::Parts, RequestBody),
    error: &hyper::Error,
) -> ForwardError {
    let endpoint = (!lease.is_reused()).then(|| lease.index());
    lease.retire();
    if let Some(endpoint) = endpoint {
        upstream.failed(endpoint);
        tracing::warn!(upstream = upstream.name(), endpoint, %error,
            "the upstream closed a new connection");
    }
    let name = upstream.name();
    let cause = error.source().and_then(|cause| cause.downcast_ref());
    let is_end = |cause: &hyper::Error| {
        cause.is_incomplete_message() || find_source::<std::io::Error>(cause).is_some()
    };
    let refusal = match find_source::<rustls::Error>(error) {
        Some(rustls::Error::AlertReceived(_)) => refused_handshake(upstream),
        // Octets that are not TLS, or that nobody had asked for.
        Some(_) => Refusal::new(
            ReasonCode::UpstreamProtocol,
            format!("{name} broke the connection off"),
        ),
        None if cause.is_some_and(|cause| !is_end(cause)) => Refusal::new(
            ReasonCode::UpstreamProtocol,
            format!("{name} gave an answer before it was asked"),
        ),
        None => Refusal::new(
            ReasonCode::UpstreamUnavailable,
            format!("{name} closes its connections at once"),
        ),
    };
    ForwardError::NeverSent(Box::new(Unsent {
        request,
        endpoint,
        refusal,
    }))
}

/// With TLS 1.3 a service refuses our certificate after the handshake.
fn refused_handshake(upstream: &Upstream) -> Refusal {
    let detail = format!("{} refused the gateway's handshake", upstream.name());
    Refusal::new(ReasonCode::UpstreamUntrusted, detail)
}

fn send_failure(
    attempt: &Attempt<'_>,
    lease: Lease<RequestBody>,
    error: &hyper::Error,
) -> ForwardError {
    let upstream = attempt.upstream;
    let endpoint = lease.index();
    // An old connection may end at any time, and a reset of one stream is a word of a
    // service that is there.
    let of_h2 = find_source::<h2::Error>(error);
    if !lease.is_reused() && of_h2.is_none_or(h2::Error::is_io) {
        upstream.left_unanswered(endpoint, attempt.affinity);
    }
    if of_h2.is_some_and(h2::Error::is_go_away) {
        lease.retire();
    }
    tracing::warn!(upstream = upstream.name(), endpoint, %error, "the upstream failed");
    if let Some(rustls::Error::AlertReceived(_)) = find_source::<rustls::Error>(error) {
        return refused_handshake(upstream).into();
    }
    // What a service gets wrong it would get wrong again, and in h2 at the cost of those
    // who share its connection.
    let is_flood = is_flood(error);
    let is_nonsense = error.is_parse() || of_h2.is_some_and(h2::Error::is_library);
    let detail = if is_flood {
        "sent interim answers without end"
    } else if is_nonsense {
        "gave an answer that is not HTTP"
    } else if error.is_incomplete_message() {
        "closed the connection before its answer was complete"
    } else {
        "broke the connection off"
    };
    let refusal = Refusal::new(
        ReasonCode::UpstreamProtocol,
        format!("{} {detail}", upstream.name()),
    );
    if is_flood || is_nonsense {
        return refusal.into();
    }
    let reset = of_h2.and_then(h2::Error::reason);
    ForwardError::Broken {
        refusal,
        endpoint,
        // RFC 9113 section 8.7
        unprocessed: reset == Some(h2::Reason::REFUSED_STREAM) || goes_away(error),
    }
}

/// Whether the service has said GOAWAY before it came to the request. Requests that it
/// may have looked at end otherwise, when the connection does.
fn goes_away(error: &hyper::Error) -> bool {
    find_source::<h2::Error>(error).is_some_and(|error| error.is_go_away() && error.is_remote())
}

/// Whether the service sent more interim answers than it may.
fn is_flood(error: &hyper::Error) -> bool {
    let io = match find_source::<h2::Error>(error) {
        Some(of_h2) => of_h2.get_io(),
        None => find_source::<std::io::Error>(error),
    };
    io.is_some_and(|io| io.kind() == FLOOD)
}

/// Makes the request line, Host and framing of the forwarded request.
pub(crate) fn address(
    parts: &mut request::Parts,
    (upstream, protocol): (&Arc<Upstream>, HttpProtocol),
    (authority, host): (&str, HeaderValue),
    path_and_query: PathAndQuery,
    body: &RequestBody,
) -> Result<(), Refusal> {
    // What the connection to the caller left there concerns that connection.
    parts.extensions.clear();
    match protocol {
        HttpProtocol::Http1 => {
            parts.uri = Uri::from(path_and_query);
            parts.version = http::Version::HTTP_11;
            parts.headers.insert(HOST, host);
            // Left to itself, hyper would send GET, HEAD and CONNECT without
            // their body.
            if !body.is_end_stream() && body.size_hint().exact().is_none() {
                parts
                    .headers
                    .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
        HttpProtocol::Http2 => {
            let scheme = match upstream.config().tls {
                Some(_) => Scheme::HTTPS,
                None => Scheme::HTTP,
            };
            parts.uri = Uri::builder()
                .scheme(scheme)
                .authority(authority)
                .path_and_query(path_and_query)
                .build()
                .map_err(|_| Refusal::new(ReasonCode::MalformedRequest, "the host is malformed"))?;
            parts.version = http::Version::HTTP_2;
            // RFC 9113 section 8.3.1: `:authority` says it.
            parts.headers.remove(HOST);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_of_grpc_are_read_strictly() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_str(value).unwrap());
            grpc_timeout(&headers)
        };
        for (value, milliseconds) in [
            ("1H", 3_600_000),
            ("2M", 120_000),
            ("10S", 10_000),
            ("99999999m", 99_999_999),
            ("5000u", 5),
            ("7000000n", 7),
            ("0S", 0),
        ] {
            assert_eq!(
                read(value),
                Some(Duration::from_millis(milliseconds)),
                "{value}"
            );
        }
        for value in [
            "",
            "S",
            "10",
            "10s",
            "-1S",
            "+1S",
            "1.5S",
            "999999999S",
            "1 S",
            "\u{e9}",
        ] {
            assert_eq!(read(value), None, "{value}");
        }
    }
}
