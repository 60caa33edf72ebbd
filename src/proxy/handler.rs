//! One request, from its head to its answer: every stage in order.
//!
//! Strip → target → route → authenticate → decide → sign → forward → respond. A
//! stage needs what the one before it made, so that none can be left out.

use std::borrow::Cow;
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use hyper::body::Incoming;

use super::active::{ActiveRequest, Permitted};
use super::body::{GatewayBody, RequestBody, ResponseBody};
use super::connection::Connection;
use super::forward::{self, AnonymousPermit, Answer, ForwardError, Warrant};
use super::framing::Violation;
use super::respond::{self, Refusal};
use super::{headers, target};
use crate::assertion::signer::{RequestBinding, SignError, token_id};
use crate::authn::certificate::CertificateAuthenticator;
use crate::authn::{Authenticator as _, Credentials, Outcome};
use crate::clock;
use crate::policy::{self, Authentication, Denial, Permit};
use crate::reason::ReasonCode;
use crate::route::{Binding, Route, Selected};
use crate::snapshot::Snapshot;
use crate::telemetry::record::AuditRecord;

/// What a request asks for, checked.
struct Target {
    /// The authority as the caller wrote it.
    authority: String,
    /// Its host, normalized.
    host: String,
    path_and_query: PathAndQuery,
    /// The path, decoded, for matching only.
    decoded: String,
}

/// Answers one request. `violation` is set when the framing guard refused it.
pub(crate) async fn handle(
    connection: Arc<Connection>,
    request: Request<Incoming>,
    violation: Option<Violation>,
) -> Response<GatewayBody> {
    let snapshot = connection.snapshot();
    let request_id: Arc<str> = token_id().unwrap_or_default().into();
    let mut record = AuditRecord::open(
        connection.worker().audit().clone(),
        connection.facts().clone(),
        request_id,
        Arc::clone(connection.worker().shared().metrics.unrouted()),
    );
    if let Some(proof) = connection.proof() {
        record.caller(Arc::clone(&proof.identity));
    }
    let asked = respond::Asked {
        grpc: respond::is_grpc(request.headers()),
        head: request.method() == Method::HEAD,
    };
    let served = match violation {
        Some(violation) => Err(refused_framing(violation)),
        None => serve(&connection, &snapshot, request, &mut record).await,
    };
    match served {
        Ok((answer, active)) => pass_on(&connection, &snapshot, answer, active, record),
        Err(refusal) => {
            record.refused(refusal.denial.reason, &refusal.denial.detail);
            let response = respond::answer(
                &refusal,
                &snapshot.signer.settings().issuer,
                record.request_id(),
                asked,
            );
            record.answered(response.status().as_u16());
            record.complete();
            response
        }
    }
}

fn refused_framing(violation: Violation) -> Refusal {
    let mut refusal = Refusal::new(violation.reason, violation.detail);
    if violation.reason == ReasonCode::TooLarge {
        refusal.status = Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    refusal
}

async fn serve(
    connection: &Arc<Connection>,
    snapshot: &Snapshot,
    request: Request<Incoming>,
    record: &mut AuditRecord,
) -> Result<(Answer, ActiveRequest), Refusal> {
    let (mut parts, body) = request.into_parts();
    record.request(
        parts.method.as_str(),
        parts.uri.authority().map_or("", |a| a.as_str()),
        parts.uri.path(),
    );
    let assertion_header = &snapshot.signer.settings().header;
    if parts.method == Method::CONNECT {
        return Err(Refusal::new(
            ReasonCode::MalformedRequest,
            "CONNECT is not supported",
        ));
    }
    let authority = authority(&parts)?;
    headers::strip_request(&mut parts.headers, assertion_header)?;
    let target = target(&parts, authority)?;
    record.request(
        parts.method.as_str(),
        &target.host,
        target.path_and_query.path(),
    );
    check_host(connection, snapshot, &target.host)?;
    let route = select(snapshot, &parts, &target)?;
    record.route(&route.name, route.upstream.name(), route.meter.counters());
    let permit = authorize(connection, route)?;
    check_length(snapshot, &parts)?;

    let authority = match &route.upstream.config().host {
        Some(host) => Cow::Borrowed(host.as_str()),
        None => Cow::Borrowed(target.authority.as_str()),
    };
    let host_value = HeaderValue::from_str(&authority)
        .map_err(|_| Refusal::new(ReasonCode::MalformedRequest, "the host is malformed"))?;
    if let Ok(value) = HeaderValue::from_str(record.request_id()) {
        headers::set(
            &mut parts.headers,
            header::HeaderName::from_static("x-request-id"),
            value,
        );
    }
    let body = RequestBody::new(
        body,
        snapshot.limits.body_timeout,
        snapshot.limits.body_bytes,
        assertion_header.clone(),
        Arc::clone(connection),
    );
    forward::address(&mut parts, host_value, target.path_and_query.clone(), &body);
    let active = connection.active_requests().enter(Permitted {
        method: parts.method.clone(),
        host: target.host,
        decoded_path: target.decoded,
        principal: permit.principal().cloned(),
    });
    let binding = Bound {
        method: parts.method.as_str().to_owned(),
        authority: authority.into_owned(),
        target: &target.path_and_query,
    };
    let answer = send(
        connection, snapshot, route, &permit, &binding, parts, body, record,
    )
    .await?;
    Ok((answer, active))
}

/// What the assertion is bound to, as it is forwarded.
struct Bound<'a> {
    method: String,
    authority: String,
    target: &'a PathAndQuery,
}

#[expect(
    clippy::too_many_arguments,
    reason = "one step of one function, which it keeps readable"
)]
async fn send(
    connection: &Arc<Connection>,
    snapshot: &Snapshot,
    route: &Arc<Route>,
    permit: &Permit,
    bound: &Bound<'_>,
    parts: request::Parts,
    body: RequestBody,
    record: &mut AuditRecord,
) -> Result<Answer, Refusal> {
    let mut pending = (parts, body);
    let mut fresh = false;
    loop {
        // Each attempt carries an assertion of its own.
        let warrant = warrant(connection, snapshot, route, permit, bound, record)?;
        let sent_at = record.elapsed();
        let (parts, body) = pending;
        let outcome = forward::forward(
            connection.worker().pool(),
            &route.upstream,
            &snapshot.signer.settings().header,
            &warrant,
            parts,
            body,
            fresh,
        )
        .await;
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

/// The authority the caller asked for: the target's where it has one (h2,
/// absolute form), else the Host field.
fn authority(parts: &request::Parts) -> Result<String, Refusal> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::new(
            ReasonCode::MalformedRequest,
            "the request has more than one Host field",
        ));
    }
    let host = match host.map(HeaderValue::to_str) {
        None => None,
        Some(Ok(host)) => Some(host),
        Some(Err(_)) => {
            return Err(Refusal::new(
                ReasonCode::MalformedRequest,
                "the Host field is not a host",
            ));
        }
    };
    match (parts.uri.authority(), host) {
        (Some(authority), Some(host)) if !authority.as_str().eq_ignore_ascii_case(host) => {
            Err(Refusal::new(
                ReasonCode::MalformedRequest,
                "Host and request target name different hosts",
            ))
        }
        (Some(authority), _) => Ok(authority.as_str().to_owned()),
        (None, Some(host)) => Ok(host.to_owned()),
        (None, None) => Err(Refusal::new(
            ReasonCode::MalformedRequest,
            "the request names no host",
        )),
    }
}

fn target(parts: &request::Parts, authority: String) -> Result<Target, Refusal> {
    let host = target::normalized_host(&authority)?.into_owned();
    let path_and_query = parts
        .uri
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    if path_and_query.as_str() == "*" {
        return Err(Refusal::new(
            ReasonCode::MalformedRequest,
            "OPTIONS * is not about any route",
        ));
    }
    let decoded = target::checked_path(path_and_query.path())?.into_owned();
    Ok(Target {
        authority,
        host,
        path_and_query,
        decoded,
    })
}

/// The host must select the entry that the connection was opened for.
fn check_host(connection: &Connection, snapshot: &Snapshot, host: &str) -> Result<(), Refusal> {
    let opened_for = snapshot.names.select(connection.server_name());
    let asked_for = snapshot.names.select_host(host);
    match (opened_for, asked_for) {
        (Some(a), Some(b)) if Arc::ptr_eq(a, b) => Ok(()),
        _ => Err(Refusal::new(
            ReasonCode::HostMismatch,
            match connection.server_name() {
                Some(name) => format!("this connection was opened for {name}, not for {host}"),
                None => format!("this connection was opened without a server name, not for {host}"),
            },
        )),
    }
}

fn select<'s>(
    snapshot: &'s Snapshot,
    parts: &request::Parts,
    target: &Target,
) -> Result<&'s Arc<Route>, Refusal> {
    let find = |path: &str| snapshot.routes.select(&target.host, path, &parts.method);
    let selected = find(&target.decoded);
    if let Some(bare) = target::without_parameters(&target.decoded) {
        // The service may or may not cut path parameters off; both readings must
        // lead to the same route.
        let same = match (&selected, &find(&bare)) {
            (Selected::Route(a), Selected::Route(b)) => Arc::ptr_eq(a, b),
            (Selected::Nothing, Selected::Nothing) => true,
            _ => false,
        };
        if !same {
            return Err(Refusal::new(
                ReasonCode::MalformedRequest,
                "the path's parameters after ';' make it ambiguous which route it means",
            ));
        }
    }
    match selected {
        Selected::Route(route) => Ok(route),
        Selected::Nothing => Err(Refusal::new(
            ReasonCode::NoRoute,
            format!(
                "no route matches {} {}",
                target.host,
                target.path_and_query.path()
            ),
        )),
        Selected::MethodNotAllowed(allow) => Err(Refusal {
            allow,
            ..Refusal::new(
                ReasonCode::MethodNotAllowed,
                format!("{} is not allowed here", parts.method),
            )
        }),
    }
}

fn authorize(connection: &Connection, route: &Route) -> Result<Permit, Refusal> {
    let principal = match route.rule.authentication {
        Authentication::None => None,
        Authentication::Certificate => {
            let credentials = Credentials {
                proof: connection.proof(),
            };
            match CertificateAuthenticator.authenticate(&credentials) {
                Outcome::Authenticated(principal) => Some(principal),
                Outcome::NotApplicable => None,
                Outcome::Rejected(denial) => return Err(denial.into()),
            }
        }
    };
    Ok(policy::decide(&route.rule, principal)?)
}

fn check_length(snapshot: &Snapshot, parts: &request::Parts) -> Result<(), Refusal> {
    let declared = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<u64>().ok());
    match (snapshot.limits.body_bytes, declared) {
        (Some(most), Some(length)) if length > most => Err(Refusal::new(
            ReasonCode::TooLarge,
            format!("the body has {length} bytes, at most {most} are accepted"),
        )),
        _ => Ok(()),
    }
}

fn warrant(
    connection: &Connection,
    snapshot: &Snapshot,
    route: &Arc<Route>,
    permit: &Permit,
    bound: &Bound<'_>,
    record: &mut AuditRecord,
) -> Result<Warrant, Refusal> {
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
                    authority: &bound.authority,
                    path: bound.target.path(),
                    query: bound.target.query(),
                    transaction: &request_id,
                },
                now,
            )
        }
        Binding::Caller => connection
            .caller_assertions()
            .get(snapshot, route, permit, now),
    };
    let signed = signed.map_err(|error| match error {
        SignError::Expired => Refusal::from(Denial::new(
            ReasonCode::CertificateExpired,
            "the certificate path has expired",
        )),
        SignError::TooLong => Refusal::new(
            ReasonCode::TooLarge,
            "the URL or the certificate's names are too long for an assertion",
        ),
        SignError::Nobody | SignError::NoKey | SignError::Failed => {
            tracing::error!(%error, "no assertion was signed");
            Refusal::new(ReasonCode::Overloaded, "no assertion can be signed")
        }
    })?;
    connection.worker().shared().metrics.assertion_signed();
    record.allowed(signed.jti());
    Ok(Warrant::Signed(signed))
}

fn pass_on(
    connection: &Arc<Connection>,
    snapshot: &Snapshot,
    answer: Answer,
    active: ActiveRequest,
    mut record: AuditRecord,
) -> Response<GatewayBody> {
    let (mut parts, incoming) = answer.response.into_parts();
    headers::strip_response(&mut parts.headers);
    parts.version = http::Version::default();
    record.answered(parts.status.as_u16());
    let body = ResponseBody::new(
        incoming,
        answer.lease,
        record,
        active,
        snapshot.signer.settings().header.clone(),
        Arc::clone(connection),
    );
    Response::from_parts(parts, GatewayBody::Streamed(Box::new(body)))
}
