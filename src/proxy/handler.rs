//! One request, from its head to its answer: every stage in order.
//!
//! Strip → target → route → authenticate → decide → sign → forward → respond. A
//! stage needs what the one before it made, so that none can be left out.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::active::{ActiveRequest, Permitted, unless_expired};
use super::attempts::{self, Bound};
use super::body::{GatewayBody, RequestBody, ResponseBody};
use super::connection::Connection;
use super::decide::Target;
use super::forward::{self, Answer, Wishes};
use super::framing::Violation;
use super::respond::{self, Refusal};
use super::throttle::Throttle;
use super::{continued, decide, headers, held, outgoing, resource, throttle, upgrade, whoami};
use crate::assertion::signer::token_id;
use crate::authn::certificate::ConnectionProof;
use crate::authn::{Field, Presented, Rejection};
use crate::identity::{self, Principal};
use crate::policy::Permit;
use crate::reason::ReasonCode;
use crate::route::Route;
use crate::snapshot::Snapshot;
use crate::telemetry::record::AuditRecord;
use crate::upstream::gate::Pass;
use crate::upstream::{HttpProtocol, Upstream};

/// How long after a gRPC caller's deadline its service may still say so itself.
const GRPC_GRACE: Duration = Duration::from_secs(1);

/// Says why a request ended without an answer, as far as it is known, when it is
/// dropped before there is one.
struct Unanswered<'a> {
    record: &'a mut AuditRecord,
    connection: &'a Connection,
    answered: bool,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        if let Some(denial) = self.connection.cut_off() {
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
    /// The service was told the caller's certificate.
    tells_certificate: bool,
}

impl Forwarded {
    fn has_switched(&self) -> bool {
        self.answer.response.status() == StatusCode::SWITCHING_PROTOCOLS
    }

    /// Whether the caller would take the answer for a switch that did not happen.
    fn feigns_switch(&self) -> bool {
        self.answer.response.status().is_success()
            && self
                .upgrade
                .as_ref()
                .is_some_and(upgrade::Asked::is_extended_connect)
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
                in_progress: self.answer.lease.in_progress(),
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
        Arc::clone(connection.facts()),
        request_id,
        Arc::clone(connection.worker().shared().metrics.unrouted()),
    );
    let outset = begin(&connection, &snapshot, violation);
    let proof = connection.proof();
    if let Some(proof) = &proof {
        record.caller(Arc::clone(&proof.identity));
    }
    let asked = respond::Asked {
        grpc: respond::is_grpc(request.headers()),
        head: request.method() == Method::HEAD,
    };
    let mut unanswered = Unanswered {
        record: &mut record,
        connection: &connection,
        answered: false,
    };
    let served = match outset {
        Ok(()) => {
            let of = (&connection, proof.as_ref());
            serve(of, &snapshot, request, unanswered.record).await
        }
        Err(refusal) => Err(refusal),
    };
    unanswered.answered = true;
    drop(unanswered);
    let refusal = match served {
        Ok(Served::Here(response)) => {
            record.answered(response.status().as_u16());
            record.complete();
            return response;
        }
        Ok(Served::Forwarded(forwarded)) if forwarded.feigns_switch() => Refusal::new(
            ReasonCode::UpstreamProtocol,
            "the service did not switch protocols",
        ),
        Ok(Served::Forwarded(forwarded)) if !forwarded.has_switched() => {
            return pass_on(&connection, &snapshot, forwarded, record);
        }
        Ok(Served::Forwarded(forwarded)) => match forwarded.switch().await {
            Ok(switched) => return switched.accept(&connection, record),
            Err(refusal) => refusal,
        },
        Err(refusal) => refusal,
    };
    record.refused(refusal.denial.reason, &refusal.denial.recorded());
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

/// Whether a connection may have a request served now. Its identity is the newest
/// afterwards.
fn begin(
    connection: &Connection,
    snapshot: &Snapshot,
    violation: Option<Violation>,
) -> Result<(), Refusal> {
    match (violation, connection.cut_off()) {
        // The identity no longer holds, although the connection still lasts a moment.
        (_, Some(denial)) => Err(denial.clone().into()),
        (Some(violation), None) => Err(refused_framing(violation)),
        (None, None) if connection.is_stopping() => Err(Refusal::new(
            ReasonCode::ShuttingDown,
            "the gateway takes no more requests; repeat it on a new connection",
        )),
        (None, None) => Ok(connection.hold_against(snapshot)?),
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
    (connection, proof): (&Arc<Connection>, Option<&ConnectionProof>),
    snapshot: &Snapshot,
    mut request: Request<Incoming>,
    record: &mut AuditRecord,
) -> Result<Served, Refusal> {
    record.request(
        request.method().as_str(),
        request.uri().authority().map_or("", |a| a.as_str()),
        request.uri().path(),
    );
    let upgrade = upgrade::asked(&mut request)?;
    let (mut parts, body) = request.into_parts();
    let assertion_header = &snapshot.signer.settings().header;
    let wishes = Wishes::of(&parts, || snapshot.private_fields());
    let authority = authority(&parts)?;
    let continued = snapshot
        .routes
        .continues_transactions()
        .then(|| continued::presented(&parts.headers, assertion_header))
        .flatten();
    let api_key_header = snapshot.api_keys.header();
    let presented = Presented::take(&mut parts.headers, api_key_header);
    headers::strip_request(&mut parts.headers, assertion_header, api_key_header)?;
    let target = decide::target(authority, parts.uri.path_and_query())?;
    record.request(
        parts.method.as_str(),
        &target.host,
        target.path_and_query.path(),
    );
    decide::check_host(&snapshot.names, connection.server_name(), &target.host)?;
    let of = (&**connection, proof);
    if let Some(answered) = answer_here(of, snapshot, &parts.method, &target, record) {
        return answered.map(Served::Here);
    }
    let route = decide::select(&snapshot.routes, &parts.method, &target)?;
    record.route(route.meter.counters());
    let permit = authenticate(
        of,
        snapshot,
        (&presented, &target),
        route,
        &mut parts,
        record,
    )
    .await?;
    let declared = check_length(snapshot, &parts)?;
    let transaction = continued
        .filter(|_| route.continue_transaction)
        .and_then(|assertion| continued::transaction(snapshot, &permit, &assertion));
    if let Some(transaction) = &transaction {
        record.transaction(transaction);
    }
    let decided = Decided {
        permitted: attempts::Permitted {
            connection,
            snapshot,
            route,
            permit: &permit,
        },
        target,
        presented,
        wishes,
        upgrade,
        transaction,
        declared,
    };
    pass_in(decided, parts, body, record).await
}

/// A permitted request, and what was read of it before it was stripped.
struct Decided<'a> {
    permitted: attempts::Permitted<'a>,
    target: Target,
    presented: Presented,
    wishes: Wishes,
    upgrade: Option<upgrade::Asked>,
    transaction: Option<String>,
    declared: Option<u64>,
}

/// Makes the request that the service gets, and sends it.
async fn pass_in(
    decided: Decided<'_>,
    mut parts: request::Parts,
    body: Incoming,
    record: &mut AuditRecord,
) -> Result<Served, Refusal> {
    let Decided {
        permitted,
        presented,
        wishes,
        mut upgrade,
        transaction,
        declared,
        target:
            Target {
                authority: asked_for,
                host,
                path_and_query,
                decoded: decoded_path,
            },
    } = decided;
    let attempts::Permitted {
        connection,
        snapshot,
        route,
        permit,
    } = permitted;
    let upstream = &route.upstream;
    let config = upstream.config();
    outgoing::mark(&mut parts, connection, permit, config, &asked_for, record);
    let (authority, host_value) = decide::forwarded_authority(route, &asked_for)?;
    let wanted = decide::forwarded_path(route, &path_and_query)?;
    let place = (host, decoded_path);
    let entered = Permitted::new(parts.method.clone(), place, route, permit, presented);
    let mut active = enter(connection, snapshot, entered)?;
    // Only where the service speaks gRPC too may its caller think for as long as its
    // own deadline allows; elsewhere the name would just switch limits off. A body
    // that is read whole cannot wait for an answer.
    let patient = wishes.grpc && config.protocol == HttpProtocol::Http2;
    let incoming = RequestBody::new(
        body,
        (!patient || route.bind_body.is_some()).then_some(snapshot.limits.body_timeout),
        snapshot.limits.body_bytes,
        snapshot.private_fields(),
        Arc::clone(connection),
    );
    let (mut body, body_hash) = match route.bind_body {
        None => (incoming, None),
        // Boxed, so that other requests have no room for it.
        Some(most) => Box::pin(read_whole(&permitted, incoming, (most, declared))).await?,
    };
    // A caller that sends slowly what is read whole takes no place from others.
    active.hold(admit(upstream)?);
    let host = (authority, host_value);
    forward::address(&mut parts, upstream, host, wanted.clone(), &body)?;
    wishes.express(&mut parts, upstream);
    upgrade::pass_on(&mut upgrade, &mut parts, upstream)?;
    let expectation = wishes.expectation(&mut parts, upstream, &mut body);
    let until = deadline(config.total_timeout, wishes.deadline);
    active.bound(until);
    let bound = Bound {
        method: parts.method.as_str().to_owned(),
        authority,
        target: &wanted,
        body_hash,
        transaction,
        patience: (!patient).then_some(config.first_byte_timeout),
        deadline: until,
        upgrade: upgrade.as_ref().map(|asked| &asked.protocols),
        expectation,
    };
    let sending = attempts::send(&permitted, &bound, (parts, body), record);
    let answer = match active.deadline() {
        None => sending.await?,
        Some(deadline) => {
            let asked = (&*asked_for, path_and_query.path());
            let sent = unless_expired(deadline, Box::pin(sending)).await;
            let sent = sent.map_err(Refusal::from).flatten();
            sent.map_err(|refusal| bring_another(refusal, permit, asked, route))?
        }
    };
    Ok(Served::Forwarded(Forwarded {
        answer,
        active,
        upgrade,
        tells_certificate: config.certificate_fields.any(),
    }))
}

/// Puts a request among those in progress.
fn enter(
    connection: &Connection,
    snapshot: &Snapshot,
    permitted: Permitted,
) -> Result<ActiveRequest, Refusal> {
    let active = connection.active_requests().enter(permitted);
    // A configuration that came while credentials were looked at did not see this
    // request among them.
    if !connection.has_newest(snapshot) {
        let newest = connection.snapshot();
        connection.active_requests().recheck(&newest, connection)?;
    }
    Ok(active)
}

/// A refusal after the caller was permitted: where its credential has ended
/// meanwhile, with how to come by another one.
fn bring_another(refusal: Refusal, permit: &Permit, asked: (&str, &str), route: &Route) -> Refusal {
    if refusal.denial.reason != ReasonCode::TokenExpired || !refusal.fields.is_empty() {
        return refusal;
    }
    let token = permit.principal().and_then(Principal::token);
    let by = match token {
        Some(_) => identity::Method::Token,
        None => identity::Method::ApiKey,
    };
    let rejection = Rejection {
        by: Some(by),
        denial: refusal.denial,
    };
    decide::challenged(rejection, asked, route)
}

/// A place among the requests of an upstream.
fn admit(upstream: &Upstream) -> Result<Pass, Refusal> {
    upstream.admit().ok_or_else(|| {
        Refusal::new(
            ReasonCode::Overloaded,
            format!("{} has too many requests in progress", upstream.name()),
        )
    })
}

/// When there has to be an answer. A gRPC caller gives up by itself; its deadline
/// is for those that are gone without a word.
fn deadline(total: Option<Duration>, grpc: Option<Duration>) -> Option<Instant> {
    let grpc = grpc.map(|timeout| timeout.saturating_add(GRPC_GRACE));
    let longest = match (total, grpc) {
        (Some(total), Some(grpc)) => total.min(grpc),
        (one, other) => one.or(other)?,
    };
    Instant::now().checked_add(longest)
}

/// Reads a body whole, and its hash.
async fn read_whole(
    permitted: &attempts::Permitted<'_>,
    incoming: RequestBody,
    bounds: (u64, Option<u64>),
) -> Result<(RequestBody, Option<[u8; 32]>), Refusal> {
    let snapshot = permitted.snapshot;
    let all = &permitted.connection.worker().shared().held;
    let held = held::read(incoming, bounds, (all, snapshot.limits.held_bytes)).await?;
    let hash = held.hash();
    let private = snapshot.private_fields();
    let body = RequestBody::held(held, private, Arc::clone(permitted.connection));
    Ok((body, Some(hash)))
}

/// What the gateway itself answers, on every host and whatever the routes are.
fn answer_here(
    (connection, proof): (&Connection, Option<&ConnectionProof>),
    snapshot: &Snapshot,
    method: &Method,
    target: &Target,
    record: &mut AuditRecord,
) -> Option<Result<Response<GatewayBody>, Refusal>> {
    if whoami::is_asked_for(&target.decoded) {
        return Some(whoami::answer(connection, proof, method, record));
    }
    resource::is_asked_for(&target.decoded)
        .then(|| resource::answer(snapshot, method, target, record))
}

/// Whether the caller may use the route, and now; passes its token on where that is
/// wanted.
async fn authenticate(
    (connection, proof): (&Connection, Option<&ConnectionProof>),
    snapshot: &Snapshot,
    (presented, target): (&Presented, &Target),
    route: &Route,
    parts: &mut request::Parts,
    record: &mut AuditRecord,
) -> Result<Permit, Refusal> {
    let address = connection.facts().peer.ip();
    let throttle = Throttle {
        limiter: &snapshot.limiter,
        route,
        proof,
        address,
    };
    match throttle.before() {
        throttle::Step::Now(outcome) => outcome?,
        throttle::Step::Later(outcome) => outcome.await?,
    }
    let asking = decide::Asking {
        proof,
        presented,
        address,
        target,
    };
    let decided = match decide::authorize(&asking, route) {
        decide::Decision::Now(decided) => decided,
        decide::Decision::Later(deciding) => deciding.await,
    };
    let permit = decided.inspect_err(|refusal| throttle.refused(refusal))?;
    match throttle.after(permit.principal()) {
        throttle::Step::Now(outcome) => outcome?,
        throttle::Step::Later(outcome) => outcome.await?,
    }
    if let Some(principal) = permit
        .principal()
        .filter(|_| !route.authenticators.is_empty())
    {
        record.credentials(principal);
        if let (true, Some(_), Field::One(token)) = (
            route.forward_token,
            principal.token(),
            &presented.authorization,
        ) {
            parts.headers.insert(header::AUTHORIZATION, token.clone());
        }
    }
    Ok(permit)
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

/// The declared length of the body, within bounds.
fn check_length(snapshot: &Snapshot, parts: &request::Parts) -> Result<Option<u64>, Refusal> {
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
        _ => Ok(declared),
    }
}

fn pass_on(
    connection: &Arc<Connection>,
    snapshot: &Snapshot,
    forwarded: Forwarded,
    mut record: AuditRecord,
) -> Response<GatewayBody> {
    let Forwarded {
        answer,
        active,
        tells_certificate,
        ..
    } = forwarded;
    let (mut parts, incoming) = answer.response.into_parts();
    let assertion_header = &snapshot.signer.settings().header;
    let trailers =
        headers::declared_trailers(&parts.headers, std::slice::from_ref(assertion_header));
    headers::strip_response(&mut parts.headers);
    if let Some(trailers) = trailers {
        parts.headers.insert(header::TRAILER, trailers);
    }
    if answer.body_unwanted {
        // The caller may send its body all the same, or another request: nobody
        // can know which.
        let close = HeaderValue::from_static("close");
        parts.headers.insert(header::CONNECTION, close);
    }
    if tells_certificate {
        headers::widen_vary(&mut parts.headers);
    }
    parts.version = http::Version::default();
    record.answered(parts.status.as_u16());
    let body = ResponseBody::new(
        incoming,
        (answer.lease, answer.upload),
        record,
        active,
        assertion_header.clone(),
        Arc::clone(connection),
    );
    Response::from_parts(parts, GatewayBody::Streamed(Box::new(body)))
}
