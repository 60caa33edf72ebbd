//! Sends a request, and repeats failed attempts until there is a response. Each attempt gets a new
//! assertion, except on routes with `binding = "caller"`. A request is repeated only if the service
//! has not processed the request, or if the method is idempotent.

use std::sync::Arc;
use std::time::Duration;

use http::header::UPGRADE;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, request};
use tokio::time::Instant;

use super::context::ForwardContext;
use super::{
    AnonymousPermit, Attempt, ForwardAuthorization, ForwardError, PreparedRequest,
    UpstreamResponse, forward,
};
use crate::assertion::signer::RequestBinding;
use crate::clock;
use crate::connection::buffered_body::BufferedBody;
use crate::connection::request_body::RequestBody;
use crate::reason::{Category, ReasonCode};
use crate::route::Binding;
use crate::telemetry::record::AuditRecord;
use crate::upstream::pool::Lease;
use crate::upstream::{HttpProtocol, UpstreamConfig};
use crate::wire::expect_continue::Expectation;
use crate::wire::headers::RequestTrailers;
use crate::wire::refusal::Refusal;

/// The values that the assertions of a request contain, and the settings for sending the request.
/// All values are those of the forwarded request, not of the received request.
pub(crate) struct ForwardPlan<'a> {
    pub(crate) method: String,
    pub(crate) authority: &'a str,
    pub(crate) target: &'a PathAndQuery,
    /// SHA-256 hash of the body, on routes with `bind_body`.
    pub(crate) body_hash: Option<[u8; 32]>,
    /// The `txn` of the transaction that the request continues. `None` begins a new transaction.
    pub(crate) transaction: Option<String>,
    pub(crate) first_byte_timeout: Option<Duration>,
    /// The time by which the response must be complete. It is the same for all attempts.
    pub(crate) deadline: Option<Instant>,
    /// The value of the `Upgrade` field in the forwarded request.
    pub(crate) upgrade: Option<&'a HeaderValue>,
    pub(crate) expectation: Option<Arc<Expectation>>,
    /// A connection that was opened only for this request, because the request asks for an upgrade.
    pub(crate) dedicated: Option<Box<Lease<RequestBody>>>,
}

/// A copy of a request that can be sent again.
struct RetryCopy {
    parts: request::Parts,
    body: BufferedBody,
    /// The method is idempotent: the request may be sent again safely (RFC 9110 section 9.2.2).
    idempotent: bool,
}

impl RetryCopy {
    /// Copies a request. Returns `None` if the request must not be sent more than once.
    fn of(request: &PreparedRequest, upstream: &UpstreamConfig) -> Option<Self> {
        let PreparedRequest { parts, body } = request;
        let idempotent = is_idempotent(&parts.method);
        // A request can be repeated if its method is idempotent, or if the service can report that
        // it has not processed the request. Only an HTTP/2 service can report that.
        let worthwhile = idempotent || upstream.protocol == HttpProtocol::Http2;
        let switches = parts.method == Method::CONNECT || parts.headers.contains_key(UPGRADE);
        if upstream.retries == 0 || !worthwhile || switches {
            return None;
        }
        Some(Self {
            body: body.copy()?,
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

/// Sends the request until there is a response. Stops earlier if the deadline of the request has
/// passed, if no retry is left, or if another attempt is not safe.
pub(crate) async fn send(
    context: &ForwardContext<'_>,
    plan: &mut ForwardPlan<'_>,
    request: PreparedRequest,
    record: &mut AuditRecord,
) -> Result<UpstreamResponse, Refusal> {
    let upstream = &context.route.upstream;
    let sent = match plan.deadline {
        None => attempt_until_response(context, plan, request, record).await,
        Some(deadline) => {
            let sending = Box::pin(attempt_until_response(context, plan, request, record));
            let in_time = tokio::time::timeout_at(deadline, sending).await;
            in_time.unwrap_or_else(|_| {
                Err(Refusal::new(
                    ReasonCode::UpstreamTimeout,
                    format!("{} did not answer in time", upstream.name()),
                ))
            })
        }
    };
    if let Err(refusal) = &sent
        && refusal.denial.reason.category() == Category::Upstream
    {
        upstream.record_no_response(refusal.denial.reason);
    }
    sent
}

async fn attempt_until_response(
    context: &ForwardContext<'_>,
    plan: &mut ForwardPlan<'_>,
    request: PreparedRequest,
    record: &mut AuditRecord,
) -> Result<UpstreamResponse, Refusal> {
    let ForwardContext {
        connection,
        snapshot,
        route,
        ..
    } = context;
    let upstream = &route.upstream;
    let affinity = context.affinity();
    let copy = RetryCopy::of(&request, upstream.config());
    let mut retries_left = upstream.config().retries;
    let mut pending = request;
    let mut fresh = false;
    let mut avoid = None;
    loop {
        // Each attempt has its own authorization. A service may accept an assertion about one
        // request only once, so a retry needs a new assertion.
        let authorization = authorization(context, plan, record)?;
        let sent_at = record.elapsed();
        let attempt = Attempt {
            pool: connection.worker().pool(),
            upstream,
            dedicated: plan.dedicated.take(),
            assertion_header: &snapshot.signer.settings().header,
            authorization: &authorization,
            affinity,
            fresh,
            avoid,
            first_byte_timeout: plan.first_byte_timeout,
            upgrade: plan.upgrade,
            expectation: plan.expectation.as_ref(),
        };
        let mut may_retry = |is_safe: bool| {
            let may = is_safe && retries_left > 0 && upstream.may_retry();
            retries_left = retries_left.saturating_sub(1);
            may
        };
        match forward(attempt, pending).await {
            Ok(response) => {
                record.upstream_answered(record.elapsed().saturating_sub(sent_at));
                return Ok(response);
            }
            // If a reused pooled connection was closed before the request was sent, the next
            // attempt is not counted as a retry.
            Err(ForwardError::NeverSent(unsent)) if !fresh && unsent.endpoint.is_none() => {
                pending = unsent.request;
            }
            Err(ForwardError::NeverSent(unsent)) if may_retry(true) => {
                avoid = unsent.endpoint.or(avoid);
                pending = unsent.request;
            }
            Err(ForwardError::NeverSent(unsent)) => return Err(unsent.refusal),
            Err(ForwardError::Broken {
                refusal,
                endpoint,
                unprocessed,
            }) => match &copy {
                Some(copy) if may_retry(copy.idempotent || unprocessed) => {
                    let body = RequestBody::buffered(
                        copy.body.clone(),
                        RequestTrailers::new(
                            snapshot.private_fields(),
                            Arc::clone(&upstream.config().header_rules),
                        ),
                        connection.guard().clone(),
                    );
                    let parts = copy.parts.clone();
                    pending = PreparedRequest { parts, body };
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

/// Signs the assertion for one attempt, or returns the anonymous permit.
fn authorization(
    context: &ForwardContext<'_>,
    plan: &ForwardPlan<'_>,
    record: &mut AuditRecord,
) -> Result<ForwardAuthorization, Refusal> {
    let ForwardContext {
        connection,
        snapshot,
        route,
        permit,
        ..
    } = context;
    // If the connection was cut, its identity is no longer valid. The gateway then signs no
    // assertion, not even for a retry.
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
                route.recipient(),
                &RequestBinding {
                    method: &plan.method,
                    authority: plan.authority,
                    path: plan.target.path(),
                    query: plan.target.query(),
                    body_hash: plan.body_hash.as_ref(),
                    transaction: plan.transaction.as_deref().unwrap_or(&request_id),
                },
                now,
            )
        }
        Binding::Caller => connection
            .assertion_cache()
            .get(snapshot, route, permit, now),
    };
    let signed = signed.map_err(Refusal::not_signed)?;
    connection.worker().shared().metrics.assertion_signed();
    record.allowed(signed.jti());
    Ok(ForwardAuthorization::Signed(signed))
}
