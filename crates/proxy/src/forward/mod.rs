//! Forwards a permitted request to its upstream. This file makes one attempt.
//!
//! - `context`: the connection, route and permit that every step needs
//! - `request_hints`: fields of the request that change how it is forwarded
//! - `upgrade`: requests that switch protocols
//! - `retry`: makes attempts until there is a response, each with a new assertion

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

/// The right to forward a request. [`forward`] requires one of the two, so that no request
/// leaves the gateway without it.
#[derive(Debug)]
pub(crate) enum ForwardAuthorization {
    /// A signed assertion about the caller.
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

/// A service's response and the connection that it is read from.
pub(crate) struct UpstreamResponse {
    pub(crate) response: Response<UpstreamBody>,
    pub(crate) lease: Lease<RequestBody>,
    pub(crate) upload: Arc<UploadProgress>,
    /// The service gave a final response instead of a 100.
    pub(crate) body_unwanted: bool,
    /// The response has no content, even if the service sends some.
    pub(crate) has_no_content: bool,
    /// A frame of the content that was read before the response was built.
    pub(crate) first_frame: Option<Frame<Bytes>>,
}

/// Why an attempt gave no response.
pub(crate) enum ForwardError {
    /// The connection was closed before the request was sent. The request is given back;
    /// another attempt needs a fresh assertion.
    NeverSent(Box<Unsent>),
    /// The connection failed before a response arrived.
    Broken {
        refusal: Refusal,
        /// Index of the endpoint among those of the upstream.
        endpoint: usize,
        /// The service said that it has not processed the request.
        unprocessed: bool,
    },
    /// Any other reason.
    Refused(Refusal),
}

/// A request of which the gateway has sent no byte.
pub(crate) struct Unsent {
    pub(crate) request: PreparedRequest,
    /// The endpoint, if it closed a new connection. None if the connection was reused,
    /// because a service may close such a connection at any time.
    pub(crate) endpoint: Option<usize>,
    /// The refusal if the request is not sent again.
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
    /// A connection that was opened only for this request.
    pub(crate) dedicated: Option<Box<Lease<RequestBody>>>,
    pub(crate) assertion_header: &'a HeaderName,
    pub(crate) authorization: &'a ForwardAuthorization,
    pub(crate) affinity: Affinity<'a>,
    /// Takes a new connection instead of a pooled one.
    pub(crate) fresh: bool,
    /// An endpoint that has just failed and should not be selected again.
    pub(crate) avoid: Option<usize>,
    /// How long the head of the response may take. None for gRPC, because gRPC callers
    /// enforce a deadline themselves.
    pub(crate) first_byte_timeout: Option<Duration>,
    /// The `Upgrade` of the forwarded request.
    pub(crate) upgrade: Option<&'a HeaderValue>,
    /// Set if the caller waits for a 100 from the service.
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

/// Counts a request in progress at its upstream until the result is dropped. If the caller
/// has reached its limit, the request waits until another one of the same caller ends.
pub(crate) async fn admit(context: &ForwardContext<'_>) -> Result<Place, Refusal> {
    let upstream = &context.route.upstream;
    let share = context.snapshot.limits.caller.requests_in_flight;
    let caller = context.share_key;
    let admitted = match upstream.admit(caller, share) {
        // Boxed, so that requests that do not wait need no space for this future.
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
    // A dedicated connection was made for this request. A retry on another connection
    // could not succeed.
    let is_dedicated = attempt.dedicated.is_some();
    // Yields before a connection is leased. A connection could otherwise close between its
    // check and its use.
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
        // Pinned here, so that this large future is stored only once.
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

/// Accepts a response, unless its framing is ambiguous or it switches to a protocol that
/// was not offered.
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
    // From here on, the connection makes progress only while the response's body is read. A task
    // therefore drives it if the request is still being sent, or if it becomes a tunnel.
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

/// Handles a request that hyper returned. hyper wrote no byte of it and did not poll its
/// body, so that it may be sent again even if it is not idempotent.
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
        // The service sent bytes that rustls does not accept.
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

/// Describes how a service ended a connection, and the likely cause.
pub(crate) fn ended_with(code: h2::Reason, cause: Option<&str>) -> String {
    let code = h2_code_name(code);
    match cause {
        None => format!("ended the connection with GOAWAY {code}"),
        Some(cause) => format!("ended the connection with GOAWAY {code}: {cause}"),
    }
}

/// Sends a request unless it has to yield its connection: if the endpoint has as many as it
/// may have, the caller that uses the most yields one to a caller that waits.
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

/// Creates the denial for a request that ends because it yields its connection.
pub(crate) fn preemption_denial(upstream: &str) -> Denial {
    Denial::caller_limit(
        CallerLimit::UpstreamConnections,
        format!("{upstream} has no connection left, and another caller uses fewer"),
    )
}

/// Returns the refusal for a service that rejects our certificate. In TLS 1.3 a service
/// does that only after the handshake.
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
    // A reused connection may end at any time, and a service that resets one stream still
    // works. Neither counts as a failure of the endpoint.
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
    // Never retried: the service would make the same mistake again. In HTTP/2 that would
    // also end the other requests on the new connection.
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
        // RFC 9113 section 8.7
        unprocessed: reset == Some(h2::Reason::REFUSED_STREAM) || is_unprocessed(error),
    }
}

/// Whether the service sent GOAWAY before it processed the request. If the request may
/// have been processed, hyper reports the end of the connection instead.
fn is_unprocessed(error: &ServiceError) -> bool {
    find_source::<h2::Error>(error).is_some_and(|error| error.is_go_away() && error.is_remote())
}

/// Whether the service exceeded the limit of interim responses.
fn is_flood(error: &ServiceError) -> bool {
    let io = match find_source::<h2::Error>(error) {
        Some(h2_error) => h2_error.get_io(),
        None => find_source::<std::io::Error>(error),
    };
    io.is_some_and(|io| io.kind() == FLOOD)
}

/// The destination of a forwarded request, as its request line or its pseudo-headers
/// contain it.
pub(crate) struct Destination<'a> {
    pub(crate) upstream: &'a Upstream,
    pub(crate) protocol: HttpProtocol,
    pub(crate) authority: &'a str,
    /// The authority, as the value of a field.
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
        // The extensions that hyper sets belong to the caller's connection.
        parts.extensions.clear();
        match self.protocol {
            HttpProtocol::Http1 => {
                parts.uri = Uri::from(self.path_and_query);
                parts.version = http::Version::HTTP_11;
                parts.headers.insert(HOST, self.host);
                // Without this field hyper sends GET, HEAD and CONNECT without their body.
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
                // RFC 9113 section 8.3.1: `:authority` replaces it.
                parts.headers.remove(HOST);
            }
        }
        Ok(())
    }
}
