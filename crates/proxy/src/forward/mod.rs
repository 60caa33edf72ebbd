//! Forwards a permitted request to its upstream. This file makes one attempt to send the request.
//!
//! - `context`: the connection, snapshot, route and permit that every step needs
//! - `request_hints`: header fields that change how a request is forwarded
//! - `upgrade`: requests that switch protocols
//! - `retry`: makes attempts until there is a response, and signs the assertion for each attempt

pub(crate) mod context;
pub(crate) mod request_hints;
pub(crate) mod retry;
pub(crate) mod upgrade;

use std::error::Error as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, TRANSFER_ENCODING};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, request};
use http_body::{Body as _, Frame};

use self::context::ForwardContext;
use crate::assertion::SignedAssertion;
use crate::connection::request_body::RequestBody;
use crate::policy::share::{CallerLimit, NoPlace, Place};
use crate::policy::{Denial, Permit};
use crate::reason::ReasonCode;
use crate::task::yield_once::yield_once;
use crate::upstream::pool::{Lease, PoolShard};
use crate::upstream::{
    Affinity, FLOOD, HttpProtocol, PreemptionSignal, SendError, ServiceError, Upstream,
    UpstreamBody, find_source, h2_code_name,
};
use crate::wire::expect_continue::Expectation;
use crate::wire::refusal::Refusal;
use crate::wire::response_framing::{self, ResponseFramingError};
use crate::wire::upload_progress::UploadProgress;

/// The right to forward a request. [`forward`] requires a `ForwardAuthorization`, so that no
/// request leaves the gateway without an assertion or an anonymous permit.
#[derive(Debug)]
pub(crate) enum ForwardAuthorization {
    /// An assertion about the caller that the gateway has signed.
    Signed(SignedAssertion),
    /// A permit of a route that explicitly authenticates no caller.
    Anonymous(AnonymousPermit),
}

/// Proof that a permit names no caller.
#[derive(Debug)]
pub(crate) struct AnonymousPermit(());

impl AnonymousPermit {
    pub(crate) fn from_permit(permit: &Permit) -> Option<Self> {
        permit.principal().is_none().then_some(Self(()))
    }
}

/// A request as it will be sent to the service, except for its assertion.
pub(crate) struct PreparedRequest {
    pub(crate) parts: request::Parts,
    pub(crate) body: RequestBody,
}

/// A service's response, and the lease of the connection that carries it.
pub(crate) struct UpstreamResponse {
    pub(crate) response: Response<UpstreamBody>,
    pub(crate) lease: Lease<RequestBody>,
    pub(crate) upload: Arc<UploadProgress>,
    /// The service sent a final response instead of a 100 (Continue). The caller then need not send
    /// the body.
    pub(crate) body_unwanted: bool,
    /// True if the status allows no content, as 204 and 304 do. If true, the service's content is
    /// not sent to the caller.
    pub(crate) has_no_content: bool,
    /// The first frame of the content, if it was read before the caller's response was built.
    pub(crate) first_frame: Option<Frame<Bytes>>,
}

/// The reason why an attempt had no response.
pub(crate) enum ForwardError {
    /// The connection was closed before the request was sent. `Unsent` contains the request.
    /// Another attempt needs a new [`ForwardAuthorization`].
    NeverSent(Box<Unsent>),
    /// The connection failed before a response arrived.
    Broken {
        refusal: Refusal,
        /// Index of the endpoint in the upstream's list of endpoints.
        endpoint: usize,
        /// The service reported that it has not processed the request.
        unprocessed: bool,
    },
    /// The request was refused for any other reason, and must not be sent again.
    Refused(Refusal),
}

/// A request of which the gateway has sent no byte.
pub(crate) struct Unsent {
    pub(crate) request: PreparedRequest,
    /// Index of the endpoint that closed a new connection. `None` if the closed connection was
    /// reused: a service may close an idle connection at any time, so the endpoint has not failed.
    pub(crate) endpoint: Option<usize>,
    /// The refusal to return if there is no further attempt.
    pub(crate) refusal: Refusal,
}

impl From<Refusal> for ForwardError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// One attempt to send a request.
pub(crate) struct Attempt<'a> {
    pub(crate) pool: &'a Arc<PoolShard<RequestBody>>,
    pub(crate) upstream: &'a Arc<Upstream>,
    /// A connection that was opened only for this request, because the request asks for an upgrade.
    pub(crate) dedicated: Option<Box<Lease<RequestBody>>>,
    pub(crate) assertion_header: &'a HeaderName,
    pub(crate) authorization: &'a ForwardAuthorization,
    pub(crate) affinity: Affinity<'a>,
    /// If true, opens a new connection instead of reusing a pooled connection.
    pub(crate) fresh: bool,
    /// Index of the endpoint that failed in an earlier attempt, and should not be selected again.
    pub(crate) avoid: Option<usize>,
    /// The timeout for the head of the response. `None` for gRPC to an HTTP/2 service, because gRPC
    /// callers enforce a deadline themselves.
    pub(crate) first_byte_timeout: Option<Duration>,
    /// The value of the `Upgrade` field in the forwarded request.
    pub(crate) upgrade: Option<&'a HeaderValue>,
    /// `Some` if the caller waits for a 100 (Continue) from the service.
    pub(crate) expectation: Option<&'a Arc<Expectation>>,
}

impl Attempt<'_> {
    async fn lease(&mut self) -> Result<Lease<RequestBody>, Refusal> {
        match self.dedicated.take() {
            Some(dedicated) => Ok(*dedicated),
            None => self
                .pool
                .lease(self.upstream, self.affinity, (self.fresh, self.avoid))
                .await
                .map_err(|error| Refusal::not_connected(self.upstream, &error)),
        }
    }
}

/// Counts a request in progress at its upstream until the returned `Place` is dropped. If the
/// caller has reached its limit, the request waits until another request of the same caller ends.
pub(crate) async fn admit(context: &ForwardContext<'_>) -> Result<Place, Refusal> {
    let upstream = &context.route.upstream;
    let share = context.snapshot.limits.caller.requests_in_flight;
    let caller = context.share_key;
    let admitted = match upstream.admit(caller, share) {
        // Boxed, so that requests that are admitted without waiting use no memory for this future.
        Err(NoPlace::Caller) => Box::pin(upstream.admit_later(caller, share)).await,
        admitted => admitted,
    };
    let name = upstream.name();
    admitted.map_err(|refused| match refused {
        NoPlace::Caller => Refusal::from(Denial::caller_limit(
            CallerLimit::RequestsInFlight,
            format!("this caller has its share of the requests in progress at {name}"),
        )),
        NoPlace::Full => Refusal::new(
            ReasonCode::Overloaded,
            format!("{name} has too many requests in progress"),
        ),
    })
}

/// Sends the request and waits for the head of its response.
pub(crate) async fn forward(
    mut attempt: Attempt<'_>,
    request: PreparedRequest,
) -> Result<UpstreamResponse, ForwardError> {
    let PreparedRequest { mut parts, body } = request;
    let upstream = attempt.upstream;
    if let ForwardAuthorization::Signed(assertion) = attempt.authorization {
        parts.headers.insert(
            attempt.assertion_header.clone(),
            assertion.header_value().clone(),
        );
    }
    // A dedicated connection was opened for this request only. A request that was not sent on it
    // could not succeed on another connection.
    let is_dedicated = attempt.dedicated.is_some();
    // Yields before a connection is leased. If the task yielded after the lease, the service could
    // close the leased connection during the yield.
    yield_once().await;
    let mut lease = attempt.lease().await?;
    let upload = Arc::clone(body.upload());
    let request = Request::from_parts(parts, body);
    let on_interim = attempt.expectation.cloned().map(|expectation| {
        move |status| {
            if status == StatusCode::CONTINUE {
                expectation.continue_received();
            }
        }
    });
    let preemption = lease.preemption();
    let outcome = {
        // Pinned here, so that this large future is stored only once and never moved.
        let sending = pin!(lease.send(request, on_interim));
        let sending = unless_preempted(preemption, upstream, sending);
        match attempt.first_byte_timeout {
            Some(timeout) => upload.response_within(timeout, sending).await,
            None => Ok(sending.await),
        }
    };
    let outcome = match outcome {
        Ok(outcome) => Ok(outcome?),
        Err(late) => Err(late),
    };
    let Ok(outcome) = outcome else {
        upstream.record_timeout(lease.index(), attempt.affinity);
        return Err(Refusal::new(
            ReasonCode::UpstreamTimeout,
            format!("{} did not answer in time", upstream.name()),
        )
        .into());
    };
    match outcome {
        Ok(response) => {
            upstream.record_response(lease.index());
            accept_response(&attempt, response, lease, upload)
        }
        Err(SendError { error, unsent }) => match unsent {
            Some(request) if !is_dedicated => {
                let (parts, body) = request.into_parts();
                let request = PreparedRequest { parts, body };
                Err(never_sent(upstream, lease, request, &error))
            }
            _ => match upload.fault() {
                Some(fault) => Err(Refusal::from(fault.clone()).into()),
                None => Err(send_failure(&attempt, lease, &error)),
            },
        },
    }
}

/// Accepts a response. Refuses it if its framing is ambiguous, or if it switches to a protocol that
/// the gateway did not offer.
fn accept_response(
    attempt: &Attempt<'_>,
    mut response: Response<UpstreamBody>,
    mut lease: Lease<RequestBody>,
    upload: Arc<UploadProgress>,
) -> Result<UpstreamResponse, ForwardError> {
    let refuse = |problem: &str| {
        let detail = format!("{} {problem}", attempt.upstream.name());
        Err(Refusal::new(ReasonCode::UpstreamProtocol, detail).into())
    };
    let limits = attempt.upstream.config().response_limits;
    if let Some(problem) = limits.describe_excess(response.version(), response.headers()) {
        lease.close();
        return refuse(&problem);
    }
    let framing = match response_framing::accept(&mut response, &upload) {
        Ok(framing) => framing,
        Err(ResponseFramingError(problem)) => {
            lease.close();
            return refuse(problem);
        }
    };
    if framing.prevents_reuse {
        lease.mark_last();
    }
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    // From here on, only reads of the response's body drive the connection. If the request is still
    // being sent, or if the connection becomes a tunnel, a separate task must drive it.
    if switches || !upload.is_complete() {
        lease.detach();
    }
    let was_offered = |offered| upgrade::is_offered(response.headers(), offered);
    if switches && !attempt.upgrade.is_some_and(was_offered) {
        return refuse("switched protocols without being asked to");
    }
    let body_unwanted = attempt
        .expectation
        .is_some_and(|expectation| expectation.final_response_received());
    Ok(UpstreamResponse {
        response,
        lease,
        upload,
        body_unwanted,
        has_no_content: framing.has_no_content,
        first_frame: None,
    })
}

/// Handles a request that hyper returned unsent. hyper wrote no byte of the request and did not
/// poll its body. The request may therefore be sent again even if it is not idempotent.
fn never_sent(
    upstream: &Upstream,
    lease: Lease<RequestBody>,
    request: PreparedRequest,
    error: &ServiceError,
) -> ForwardError {
    let endpoint = (!lease.is_reused()).then(|| lease.index());
    lease.retire();
    if let Some(endpoint) = endpoint {
        upstream.record_connect_failure(endpoint);
        tracing::warn!(upstream = upstream.name(), endpoint, %error,
            "the upstream closed a new connection");
    }
    let name = upstream.name();
    let cause = match error {
        ServiceError::Hyper(error) => error.source().and_then(|cause| cause.downcast_ref()),
        _ => None,
    };
    let is_end = |cause: &hyper::Error| {
        cause.is_incomplete_message() || find_source::<std::io::Error>(cause).is_some()
    };
    let refusal = match find_source::<rustls::Error>(error) {
        Some(rustls::Error::AlertReceived(_)) => refused_handshake(upstream),
        // The service sent bytes that rustls rejects.
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

/// Describes the GOAWAY code with which a service ended a connection, and the likely cause.
pub(crate) fn ended_with(code: h2::Reason, cause: Option<&str>) -> String {
    let code = h2_code_name(code);
    match cause {
        None => format!("ended the connection with GOAWAY {code}"),
        Some(cause) => format!("ended the connection with GOAWAY {code}: {cause}"),
    }
}

/// Runs `sending`, but stops it if another caller needs the upstream connection. If the endpoint
/// has reached its connection limit and a caller waits, the gateway ends a connection of the caller
/// with the most connections.
async fn unless_preempted<T>(
    preemption: Option<Arc<PreemptionSignal>>,
    upstream: &Upstream,
    sending: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Refusal> {
    let Some(preemption) = preemption else {
        return Ok(sending.await);
    };
    tokio::select! {
        biased;
        sent = sending => Ok(sent),
        () = preemption.requested() => Err(preemption_denial(upstream.name()).into()),
    }
}

/// Creates the denial for a request that ends because its connection is given to another caller.
pub(crate) fn preemption_denial(upstream: &str) -> Denial {
    Denial::caller_limit(
        CallerLimit::UpstreamConnections,
        format!("{upstream} has no connection left, and another caller uses fewer"),
    )
}

/// Returns the refusal for a service that rejected the gateway's certificate. In TLS 1.3 the alert
/// arrives only after the handshake.
fn refused_handshake(upstream: &Upstream) -> Refusal {
    let detail = format!("{} refused the gateway's handshake", upstream.name());
    Refusal::new(ReasonCode::UpstreamUntrusted, detail)
}

fn send_failure(
    attempt: &Attempt<'_>,
    lease: Lease<RequestBody>,
    error: &ServiceError,
) -> ForwardError {
    let upstream = attempt.upstream;
    let endpoint = lease.index();
    if let ServiceError::HeadTooLarge { size, max } = error {
        let detail = format!(
            "the head has {size} bytes, and {} takes {max}",
            upstream.name()
        );
        return Refusal::new(ReasonCode::HeadTooLarge, detail).into();
    }
    // A failed reused connection does not count as a failure of the endpoint, because a service may
    // close an idle connection at any time. A reset stream does not count either, because the
    // service still works.
    let h2_error = find_source::<h2::Error>(error);
    if !lease.is_reused() && h2_error.is_none_or(h2::Error::is_io) {
        upstream.record_timeout(endpoint, attempt.affinity);
    }
    tracing::warn!(upstream = upstream.name(), endpoint, %error, "the upstream failed");
    if let Some(rustls::Error::AlertReceived(_)) = find_source::<rustls::Error>(error) {
        return refused_handshake(upstream).into();
    }
    let is_flood = is_flood(error);
    let is_not_http = error.is_parse() || h2_error.is_some_and(h2::Error::is_library);
    let detail = if is_flood {
        "sent interim answers without end".to_owned()
    } else if error.is_head_too_large() {
        upstream.config().response_limits.describe_rejected()
    } else if h2_error.is_some_and(h2::Error::is_library) {
        "gave an answer that is not HTTP/2, or one with much too large a head".to_owned()
    } else if is_not_http {
        "gave an answer that is not HTTP".to_owned()
    } else if error.is_incomplete_message() {
        "closed the connection before its answer was complete".to_owned()
    } else if let Some((code, cause)) = lease.ended_with() {
        ended_with(code, cause)
    } else {
        "broke the connection off".to_owned()
    };
    let refusal = Refusal::new(
        ReasonCode::UpstreamProtocol,
        format!("{} {detail}", upstream.name()),
    );
    // If the response is not HTTP or is a flood, the request is not retried, because the service
    // would probably send the same response again. Over HTTP/2, this response would also end the
    // other requests on the next connection.
    if is_flood || is_not_http {
        return refusal.into();
    }
    if h2_error.is_some_and(h2::Error::is_go_away) {
        lease.retire();
    }
    let reset = h2_error.and_then(h2::Error::reason);
    ForwardError::Broken {
        refusal,
        endpoint,
        // RFC 9113 section 8.7: a request that the service has not processed is safe to retry.
        unprocessed: reset == Some(h2::Reason::REFUSED_STREAM) || is_unprocessed(error),
    }
}

/// Returns whether the service sent GOAWAY before it processed the request. If the service may have
/// processed the request, hyper returns another error, which reports the end of the connection.
fn is_unprocessed(error: &ServiceError) -> bool {
    find_source::<h2::Error>(error).is_some_and(|error| error.is_go_away() && error.is_remote())
}

/// Returns whether the service sent more interim (1xx) responses than the limit allows.
fn is_flood(error: &ServiceError) -> bool {
    let io = match find_source::<h2::Error>(error) {
        Some(h2_error) => h2_error.get_io(),
        None => find_source::<std::io::Error>(error),
    };
    io.is_some_and(|io| io.kind() == FLOOD)
}

/// The destination of a forwarded request, for the request line (HTTP/1.1) or the pseudo-headers
/// (HTTP/2).
pub(crate) struct Destination<'a> {
    pub(crate) upstream: &'a Upstream,
    pub(crate) protocol: HttpProtocol,
    pub(crate) authority: &'a str,
    /// `authority` as the value of the Host field.
    pub(crate) host: HeaderValue,
    pub(crate) path_and_query: PathAndQuery,
}

impl Destination<'_> {
    /// Writes the request target, the Host field and the framing of the forwarded request.
    pub(crate) fn write(
        self,
        parts: &mut request::Parts,
        body: &RequestBody,
    ) -> Result<(), Refusal> {
        // The extensions that hyper has put into `parts` belong to the caller's connection, not to
        // the service's.
        parts.extensions.clear();
        match self.protocol {
            HttpProtocol::Http1 => {
                parts.uri = Uri::from(self.path_and_query);
                parts.version = http::Version::HTTP_11;
                parts.headers.insert(HOST, self.host);
                // Without `Transfer-Encoding`, hyper sends GET, HEAD and CONNECT without their
                // body.
                if !body.is_end_stream() && body.size_hint().exact().is_none() {
                    parts
                        .headers
                        .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                }
            }
            HttpProtocol::Http2 => {
                let scheme = match self.upstream.config().tls {
                    Some(_) => Scheme::HTTPS,
                    None => Scheme::HTTP,
                };
                parts.uri = Uri::builder()
                    .scheme(scheme)
                    .authority(self.authority)
                    .path_and_query(self.path_and_query)
                    .build()
                    .map_err(|_| {
                        Refusal::new(ReasonCode::MalformedRequest, "the host is malformed")
                    })?;
                parts.version = http::Version::HTTP_2;
                // RFC 9113 section 8.3.1: `:authority` replaces Host.
                parts.headers.remove(HOST);
            }
        }
        Ok(())
    }
}
