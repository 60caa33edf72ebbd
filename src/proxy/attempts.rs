//! Sending a permitted request until there is an answer: an assertion for each
//! attempt, and another attempt only where that is safe.

use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderValue, request};

use super::body::RequestBody;
use super::connection::Connection;
use super::decide;
use super::forward::{self, AnonymousPermit, Answer, Attempt, ForwardError, Warrant};
use super::respond::Refusal;
use crate::assertion::signer::RequestBinding;
use crate::clock;
use crate::policy::Permit;
use crate::reason::ReasonCode;
use crate::route::{Binding, Route};
use crate::snapshot::Snapshot;
use crate::telemetry::record::AuditRecord;
use crate::upstream::Balance;

/// A permitted request of one connection, and what it is decided by.
#[derive(Clone, Copy)]
pub(super) struct Permitted<'a> {
    pub(super) connection: &'a Arc<Connection>,
    pub(super) snapshot: &'a Snapshot,
    pub(super) route: &'a Arc<Route>,
    pub(super) permit: &'a Permit,
}

/// What the assertion is bound to, as it is forwarded, and how to forward it.
pub(super) struct Bound<'a> {
    pub(super) method: String,
    pub(super) authority: &'a str,
    pub(super) target: &'a PathAndQuery,
    /// Hash of the body, on routes that read it whole.
    pub(super) body_hash: Option<[u8; 32]>,
    /// The transaction that goes on; a new one where there is none.
    pub(super) transaction: Option<String>,
    pub(super) patience: Option<Duration>,
    pub(super) upgrade: Option<&'a HeaderValue>,
}

/// Sends the request.
pub(super) async fn send(
    permitted: &Permitted<'_>,
    bound: &Bound<'_>,
    (parts, body): (request::Parts, RequestBody),
    record: &mut AuditRecord,
) -> Result<Answer, Refusal> {
    let Permitted {
        connection,
        snapshot,
        route,
        permit,
    } = permitted;
    let mut pending = (parts, body);
    let mut fresh = false;
    let affinity = affinity(route, permit);
    loop {
        // Each attempt carries an assertion of its own.
        let warrant = warrant(permitted, bound, record)?;
        let sent_at = record.elapsed();
        let (parts, body) = pending;
        let attempt = Attempt {
            pool: connection.worker().pool(),
            upstream: &route.upstream,
            assertion_header: &snapshot.signer.settings().header,
            warrant: &warrant,
            affinity,
            fresh,
            patience: bound.patience,
            upgrade: bound.upgrade,
        };
        let outcome = forward::forward(attempt, parts, body).await;
        match outcome {
            Ok(answer) => {
                record.upstream_answered(record.elapsed().saturating_sub(sent_at));
                return Ok(answer);
            }
            Err(ForwardError::NeverSent(request)) if !fresh => {
                pending = *request;
                fresh = true;
            }
            Err(ForwardError::NeverSent(_)) => {
                return Err(Refusal::new(
                    ReasonCode::UpstreamUnavailable,
                    format!("{} closes its connections at once", route.upstream.name()),
                ));
            }
            Err(ForwardError::Refused(refusal)) => return Err(refusal),
        }
    }
}

fn warrant(
    permitted: &Permitted<'_>,
    bound: &Bound<'_>,
    record: &mut AuditRecord,
) -> Result<Warrant, Refusal> {
    let Permitted {
        connection,
        snapshot,
        route,
        permit,
    } = permitted;
    // Nothing more is vouched for once the identity no longer holds.
    if let Some(denial) = connection.cut_off() {
        return Err(denial.clone().into());
    }
    if let Some(anonymous) = AnonymousPermit::from_permit(permit) {
        record.allowed(None);
        return Ok(Warrant::Anonymous(anonymous));
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
            .caller_assertions()
            .get(snapshot, route, permit, now),
    };
    let signed = signed.map_err(decide::unsigned)?;
    connection.worker().shared().metrics.assertion_signed();
    record.allowed(signed.jti());
    Ok(Warrant::Signed(signed))
}

/// What keeps a caller's requests at one endpoint, where that is wanted.
fn affinity(route: &Route, permit: &Permit) -> Option<u64> {
    if route.upstream.config().balance != Balance::Caller {
        return None;
    }
    let caller = permit.principal()?.caller().to_string();
    route.upstream.affinity(&caller)
}
