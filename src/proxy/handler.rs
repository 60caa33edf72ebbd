//! One request, from its head to its answer: every stage in order.
//!
//! Strip → target → route → authenticate → decide → sign → forward → respond. A
//! stage needs what the one before it made, so that none can be left out.

use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use hyper::body::Incoming;

use super::active::{ActiveRequest, Permitted};
use super::body::{GatewayBody, RequestBody, ResponseBody};
use super::connection::Connection;
use super::forward::{self, AnonymousPermit, Answer, Attempt, ForwardError, Warrant, Wishes};
use super::framing::Violation;
use super::respond::{self, Refusal};
use super::{decide, headers, upgrade, whoami};
use crate::assertion::signer::{RequestBinding, token_id};
use crate::clock;
use crate::policy::Permit;
use crate::reason::ReasonCode;
use crate::route::{Binding, Route};
use crate::snapshot::Snapshot;
use crate::telemetry::record::AuditRecord;
use crate::upstream::{Balance, HttpProtocol};

/// How a request that was not refused was served.
#[expect(
    clippy::large_enum_variant,
    reason = "the large variant is nearly every request; a box for it costs more than the move"
)]
enum Served {
    /// By its upstream, which is still at it.
    Forwarded(Forwarded),
    /// By the gateway itself.
    Here(Response<GatewayBody>),
}

/// A service's answer, and what the request still holds.
struct Forwarded {
    answer: Answer,
    active: ActiveRequest,
    upgrade: Option<upgrade::Asked>,
}

impl Forwarded {
    fn has_switched(&self) -> bool {
        self.answer.response.status() == StatusCode::SWITCHING_PROTOCOLS
    }

    /// Takes over the connection of a service that has switched protocols.
    async fn switch(self) -> Result<upgrade::Switched, Refusal> {
        let mut answer = self.answer.response;
        let service = hyper::upgrade::on(&mut answer).await;
        match (service, self.upgrade) {
            (Ok(service), Some(asked)) => Ok(upgrade::Switched {
                asked,
                answer,
                service,
                active: self.active,
            }),
            _ => Err(Refusal::new(
                ReasonCode::UpstreamProtocol,
                "the service's connection was gone when it had switched protocols",
            )),
        }
    }
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
    let served = match (violation, connection.cut_off()) {
        // The identity no longer holds, although the connection still lasts a moment.
        (_, Some(denial)) => Err(denial.clone().into()),
        (Some(violation), None) => Err(refused_framing(violation)),
        (None, None) if connection.is_stopping() => Err(Refusal::new(
            ReasonCode::ShuttingDown,
            "the gateway takes no more requests; repeat it on a new connection",
        )),
        (None, None) => serve(&connection, &snapshot, request, &mut record).await,
    };
    let refusal = match served {
        Ok(Served::Here(response)) => {
            record.answered(response.status().as_u16());
            record.complete();
            return response;
        }
        Ok(Served::Forwarded(forwarded)) if !forwarded.has_switched() => {
            return pass_on(&connection, &snapshot, forwarded, record);
        }
        Ok(Served::Forwarded(forwarded)) => match forwarded.switch().await {
            Ok(switched) => return switched.accept(&connection, record),
            Err(refusal) => refusal,
        },
        Err(refusal) => refusal,
    };
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
    mut request: Request<Incoming>,
    record: &mut AuditRecord,
) -> Result<Served, Refusal> {
    record.request(
        request.method().as_str(),
        request.uri().authority().map_or("", |a| a.as_str()),
        request.uri().path(),
    );
    let mut upgrade = upgrade::asked(&mut request)?;
    let (mut parts, body) = request.into_parts();
    let assertion_header = &snapshot.signer.settings().header;
    let wishes = Wishes::of(&parts);
    let authority = authority(&parts)?;
    headers::strip_request(&mut parts.headers, assertion_header)?;
    let target = decide::target(authority, parts.uri.path_and_query())?;
    record.request(
        parts.method.as_str(),
        &target.host,
        target.path_and_query.path(),
    );
    decide::check_host(&snapshot.names, connection.server_name(), &target.host)?;
    if whoami::is_asked_for(&target.decoded) {
        let response = whoami::answer(connection, &parts.method, record)?;
        return Ok(Served::Here(response));
    }
    let route = decide::select(&snapshot.routes, &parts.method, &target)?;
    record.route(&route.name, route.upstream.name(), route.meter.counters());
    let permit = decide::authorize(connection.proof(), route)?;
    check_length(snapshot, &parts)?;

    let (authority, host_value) = decide::forwarded_authority(route, &target)?;
    if let Ok(value) = HeaderValue::from_str(record.request_id()) {
        headers::set(
            &mut parts.headers,
            header::HeaderName::from_static("x-request-id"),
            value,
        );
    }
    // Only where the service speaks gRPC too may its caller think for as long as its
    // own deadline allows; elsewhere the name would just switch limits off.
    let patient = wishes.grpc && route.upstream.config().protocol == HttpProtocol::Http2;
    let body = RequestBody::new(
        body,
        (!patient).then_some(snapshot.limits.body_timeout),
        snapshot.limits.body_bytes,
        assertion_header.clone(),
        Arc::clone(connection),
    );
    let upstream = &route.upstream;
    let wanted = target.path_and_query.clone();
    forward::address(&mut parts, upstream, (authority, host_value), wanted, &body)?;
    wishes.express(&mut parts, upstream);
    upgrade::pass_on(&mut upgrade, &mut parts, upstream)?;
    let binding = Bound {
        method: parts.method.as_str().to_owned(),
        authority: authority.to_owned(),
        target: &target.path_and_query,
        patience: (!patient).then_some(upstream.config().first_byte_timeout),
        upgrade: upgrade.as_ref().map(|asked| &asked.protocols),
    };
    let active = connection.active_requests().enter(Permitted {
        method: parts.method.clone(),
        host: target.host,
        decoded_path: target.decoded,
        principal: permit.principal().cloned(),
    });
    let answer = send(
        connection, snapshot, route, &permit, &binding, parts, body, record,
    )
    .await?;
    Ok(Served::Forwarded(Forwarded {
        answer,
        active,
        upgrade,
    }))
}

/// What the assertion is bound to, as it is forwarded, and how to forward it.
struct Bound<'a> {
    method: String,
    authority: String,
    target: &'a PathAndQuery,
    patience: Option<Duration>,
    upgrade: Option<&'a HeaderValue>,
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
    let affinity = affinity(route, permit);
    loop {
        // Each attempt carries an assertion of its own.
        let warrant = warrant(connection, snapshot, route, permit, bound, record)?;
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
    let signed = signed.map_err(decide::unsigned)?;
    connection.worker().shared().metrics.assertion_signed();
    record.allowed(signed.jti());
    Ok(Warrant::Signed(signed))
}

fn pass_on(
    connection: &Arc<Connection>,
    snapshot: &Snapshot,
    forwarded: Forwarded,
    mut record: AuditRecord,
) -> Response<GatewayBody> {
    let Forwarded { answer, active, .. } = forwarded;
    let (mut parts, incoming) = answer.response.into_parts();
    headers::strip_response(&mut parts.headers);
    parts.version = http::Version::default();
    record.answered(parts.status.as_u16());
    let body = ResponseBody::new(
        incoming,
        (answer.lease, answer.sent),
        record,
        active,
        snapshot.signer.settings().header.clone(),
        Arc::clone(connection),
    );
    Response::from_parts(parts, GatewayBody::Streamed(Box::new(body)))
}

/// What keeps a caller's requests at one endpoint, where that is wanted.
fn affinity(route: &Route, permit: &Permit) -> Option<u64> {
    if route.upstream.config().balance != Balance::Caller {
        return None;
    }
    let caller = permit.principal()?.caller().to_string();
    route.upstream.affinity(&caller)
}
