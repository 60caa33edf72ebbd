//! Sending a permitted request until there is an answer: an assertion for each
//! attempt, and another attempt only where that is safe.

use std::sync::Arc;
use std::time::Duration;

use http::header::UPGRADE;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, request};
use tokio::time::Instant;

use super::{
    AnonymousPermit, Attempt, ForwardAuthorization, ForwardError, UpstreamResponse, forward,
};
use crate::assertion::signer::RequestBinding;
use crate::clock;
use crate::identity::Principal;
use crate::policy::Permit;
use crate::proxy::connection::Connection;
use crate::proxy::connection::buffered_body::BufferedBody;
use crate::proxy::connection::request_body::RequestBody;
use crate::proxy::stages::authorize;
use crate::proxy::wire::expect_continue::Expectation;
use crate::proxy::wire::refusal::Refusal;
use crate::reason::{Category, ReasonCode};
use crate::route::{Binding, Route};
use crate::snapshot::Snapshot;
use crate::telemetry::record::AuditRecord;
use crate::upstream::pool::Lease;
use crate::upstream::{Affinity, HttpProtocol, UpstreamConfig};

/// A permitted request of one connection, and what it is decided by.
#[derive(Clone, Copy)]
pub(crate) struct ForwardContext<'a> {
    pub(crate) connection: &'a Arc<Connection>,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) route: &'a Arc<Route>,
    pub(crate) permit: &'a Permit,
}

/// What the assertion is bound to, as it is forwarded, and how to forward it.
pub(crate) struct OutboundRequest<'a> {
    pub(crate) method: String,
    pub(crate) authority: &'a str,
    pub(crate) target: &'a PathAndQuery,
    /// Hash of the body, on routes that read it whole.
    pub(crate) body_hash: Option<[u8; 32]>,
    /// The transaction that goes on; a new one where there is none.
    pub(crate) transaction: Option<String>,
    pub(crate) patience: Option<Duration>,
    /// When there has to be an answer.
    pub(crate) deadline: Option<Instant>,
    /// The `Upgrade` that the service is asked by.
    pub(crate) upgrade: Option<&'a HeaderValue>,
    pub(crate) expectation: Option<Arc<Expectation>>,
}

/// What is needed to send a request once more.
struct RetryCopy {
    parts: request::Parts,
    body: BufferedBody,
    /// Sending it twice does what sending it once does (RFC 9110 section 9.2.2).
    idempotent: bool,
}

impl RetryCopy {
    /// None where the request is sent once at most.
    fn of(parts: &request::Parts, body: &RequestBody, upstream: &UpstreamConfig) -> Option<Self> {
        let idempotent = is_idempotent(&parts.method);
        // Only h2 lets a service say that it has not looked at a request.
        let worthwhile = idempotent || upstream.protocol == HttpProtocol::Http2;
        let switches = parts.method == Method::CONNECT || parts.headers.contains_key(UPGRADE);
        if upstream.retries == 0 || !worthwhile || switches {
            return None;
        }
        Some(Self {
            body: body.again()?,
            parts: parts.clone(),
            idempotent,
        })
    }
}

fn is_idempotent(method: &Method) -> bool {
    [
        Method::GET,
        Method::HEAD,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
        Method::TRACE,
    ]
    .contains(method)
}

/// Sends the request, on a connection of its `own` where it has one.
pub(crate) async fn send(
    permitted: &ForwardContext<'_>,
    bound: &OutboundRequest<'_>,
    request: (request::Parts, RequestBody),
    own: Option<Box<Lease<RequestBody>>>,
    record: &mut AuditRecord,
) -> Result<UpstreamResponse, Refusal> {
    let upstream = &permitted.route.upstream;
    let answered = match bound.deadline {
        None => until_answered(permitted, bound, request, own, record).await,
        Some(deadline) => {
            let sending = Box::pin(until_answered(permitted, bound, request, own, record));
            let in_time = tokio::time::timeout_at(deadline, sending).await;
            in_time.unwrap_or_else(|_| {
                Err(Refusal::new(
                    ReasonCode::UpstreamTimeout,
                    format!("{} did not answer in time", upstream.name()),
                ))
            })
        }
    };
    if let Err(refusal) = &answered
        && refusal.denial.reason.category() == Category::Upstream
    {
        upstream.gave_none(refusal.denial.reason);
    }
    answered
}

async fn until_answered(
    permitted: &ForwardContext<'_>,
    bound: &OutboundRequest<'_>,
    request: (request::Parts, RequestBody),
    mut own: Option<Box<Lease<RequestBody>>>,
    record: &mut AuditRecord,
) -> Result<UpstreamResponse, Refusal> {
    let ForwardContext {
        connection,
        snapshot,
        route,
        permit,
    } = permitted;
    let upstream = &route.upstream;
    let affinity = affinity(route, permit);
    let spare = RetryCopy::of(&request.0, &request.1, upstream.config());
    let mut left = upstream.config().retries;
    let mut pending = request;
    let mut fresh = false;
    let mut avoid = None;
    loop {
        // Each attempt carries an assertion of its own.
        let warrant = warrant(permitted, bound, record)?;
        let sent_at = record.elapsed();
        let (parts, body) = pending;
        let attempt = Attempt {
            pool: connection.worker().pool(),
            upstream,
            own: own.take(),
            assertion_header: &snapshot.signer.settings().header,
            warrant: &warrant,
            affinity,
            fresh,
            avoid,
            patience: bound.patience,
            upgrade: bound.upgrade,
            expectation: bound.expectation.as_ref(),
        };
        let mut may_repeat = |possible: bool| {
            let may = possible && left > 0 && upstream.may_retry();
            left = left.saturating_sub(1);
            may
        };
        match forward(attempt, parts, body).await {
            Ok(answer) => {
                record.upstream_answered(record.elapsed().saturating_sub(sent_at));
                return Ok(answer);
            }
            // What a pooled connection did not take is not a second request.
            Err(ForwardError::NeverSent(unsent)) if !fresh && unsent.endpoint.is_none() => {
                pending = unsent.request;
            }
            Err(ForwardError::NeverSent(unsent)) if may_repeat(true) => {
                avoid = unsent.endpoint.or(avoid);
                pending = unsent.request;
            }
            Err(ForwardError::NeverSent(unsent)) => return Err(unsent.refusal),
            Err(ForwardError::Broken {
                refusal,
                endpoint,
                unprocessed,
            }) => match &spare {
                Some(spare) if may_repeat(spare.idempotent || unprocessed) => {
                    let private = snapshot.private_fields();
                    let body =
                        RequestBody::held(spare.body.clone(), private, connection.guard().clone());
                    pending = (spare.parts.clone(), body);
                    avoid = Some(endpoint);
                    record.again();
                }
                _ => return Err(refusal),
            },
            Err(ForwardError::Refused(refusal)) => return Err(refusal),
        }
        fresh = true;
    }
}

fn warrant(
    permitted: &ForwardContext<'_>,
    bound: &OutboundRequest<'_>,
    record: &mut AuditRecord,
) -> Result<ForwardAuthorization, Refusal> {
    let ForwardContext {
        connection,
        snapshot,
        route,
        permit,
    } = permitted;
    // Nothing more is vouched for once the identity no longer holds.
    if let Some(denial) = connection.cut_reason() {
        return Err(denial.clone().into());
    }
    if let Some(anonymous) = AnonymousPermit::from_permit(permit) {
        record.allowed(None);
        return Ok(ForwardAuthorization::Anonymous(anonymous));
    }
    let now = clock::unix_now();
    let signed = match route.binding {
        Binding::Request => {
            let request_id = Arc::clone(record.request_id());
            snapshot.signer.sign_request(
                permit,
                &route.audience,
                &RequestBinding {
                    method: &bound.method,
                    authority: bound.authority,
                    path: bound.target.path(),
                    query: bound.target.query(),
                    body_hash: bound.body_hash.as_ref(),
                    transaction: bound.transaction.as_deref().unwrap_or(&request_id),
                },
                now,
            )
        }
        Binding::Caller => connection
            .assertion_cache()
            .get(snapshot, route, permit, now),
    };
    let signed = signed.map_err(authorize::unsigned)?;
    connection.worker().shared().metrics.assertion_signed();
    record.allowed(signed.jti());
    Ok(ForwardAuthorization::Signed(signed))
}

/// What the caller has to do with the choice of an endpoint.
pub(crate) fn affinity<'a>(route: &Route, permit: &'a Permit) -> Affinity<'a> {
    route
        .upstream
        .affinity(permit.principal().map(Principal::caller))
}
