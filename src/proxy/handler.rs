//! One request, from its head to its answer: every stage in order.
//!
//! Strip → target → route → authenticate → decide → sign → forward → respond. A
//! stage needs what the one before it made, so that none can be left out.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, request};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::connection::Connection;
use super::connection::buffered_body;
use super::connection::in_flight::{PermittedRequest, unless_expired};
use super::connection::request_body::RequestBody;
use super::connection::response_audit::ResponseAudit;
use super::forward::retry::{self, OutboundRequest};
use super::forward::upgrade;
use super::forward::{self, RequestHints};
use super::response::body::GatewayBody;
use super::response::h2_delivery::H2Stream;
use super::response::problem;
use super::response::protected_resource;
use super::response::whoami;
use super::response::{ForwardedResponse, RecordNoResponse, Served, pass_on};
use super::stages::admission::{
    admit, authenticate, authority, begin, bring_another, check_length,
};
use super::stages::authorize::{self, Target};
use super::stages::request_headers;
use super::stages::transaction;
use super::wire::head::FramingError;
use super::wire::headers;
use super::wire::refusal::Refusal;
use crate::assertion::signer::token_id;
use crate::authn::Presented;
use crate::authn::certificate::ConnectionProof;
use crate::reason::ReasonCode;
use crate::snapshot::Snapshot;
use crate::telemetry::record::AuditRecord;
use crate::upstream::HttpProtocol;

/// How long after a gRPC caller's deadline its service may still say so itself.
const GRPC_GRACE: Duration = Duration::from_secs(1);

/// Answers one request. `violation` is set when the framing guard refused it.
pub(crate) async fn handle(
    connection: Arc<Connection>,
    request: Request<Incoming>,
    error: Option<FramingError>,
) -> Response<GatewayBody> {
    let snapshot = connection.snapshot();
    let request_id: Arc<str> = token_id().unwrap_or_default().into();
    let mut record = AuditRecord::open(
        connection.worker().audit().clone(),
        Arc::clone(connection.facts()),
        request_id,
        Arc::clone(connection.worker().shared().metrics.unrouted()),
    );
    let outset = begin(&connection, &snapshot, error);
    let proof = connection.proof();
    if let Some(proof) = &proof {
        record.caller(Arc::clone(&proof.identity));
    }
    let asked = problem::ResponseFormat {
        grpc: headers::is_grpc(request.headers()),
        head: request.method() == Method::HEAD,
    };
    let mut unanswered = RecordNoResponse {
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
        Ok(Served::Here(response)) => return answer_made(&connection, record, response),
        Ok(Served::ForwardedResponse(forwarded)) if forwarded.feigns_switch() => Refusal::new(
            ReasonCode::UpstreamProtocol,
            "the service did not switch protocols",
        ),
        Ok(Served::ForwardedResponse(mut forwarded)) if !forwarded.has_switched() => {
            match forwarded.begin().await {
                Ok(()) => return pass_on(&connection, &snapshot, forwarded, record),
                Err(refusal) => {
                    forwarded.give_up();
                    refusal
                }
            }
        }
        Ok(Served::ForwardedResponse(forwarded)) => match forwarded.switch().await {
            Ok(switched) => return switched.accept(&connection, record),
            Err(refusal) => refusal,
        },
        Err(refusal) => refusal,
    };
    record.refused(refusal.denial.reason, &refusal.denial.recorded());
    let response = problem::answer(
        &refusal,
        &snapshot.signer.settings().issuer,
        record.request_id(),
        asked,
    );
    answer_made(&connection, record, response)
}

/// Hands over an answer that the gateway made.
fn answer_made(
    connection: &Arc<Connection>,
    mut record: AuditRecord,
    response: Response<GatewayBody>,
) -> Response<GatewayBody> {
    record.answered(response.status().as_u16());
    match H2Stream::current() {
        // It is complete when the caller has taken it.
        Some(stream) if !response.body().is_end_stream() => {
            stream.keep(ResponseAudit::made(record, Arc::clone(connection)));
        }
        _ => record.complete(),
    }
    response
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
    let wishes = RequestHints::of(&parts, || snapshot.private_fields());
    let authority = authority(&parts)?;
    let continued = snapshot
        .routes
        .continues_transactions()
        .then(|| transaction::presented(&parts.headers, assertion_header))
        .flatten();
    let api_key_header = snapshot.api_keys.header();
    let presented = Presented::take(&mut parts.headers, api_key_header);
    headers::strip_request(&mut parts.headers, assertion_header, api_key_header)?;
    let target = authorize::target(authority, parts.uri.path_and_query())?;
    record.request(
        parts.method.as_str(),
        &target.host,
        target.path_and_query.path(),
    );
    authorize::check_host(&snapshot.names, connection.server_name(), &target.host)?;
    let of = (&**connection, proof);
    if let Some(answered) = answer_here(of, snapshot, &parts.method, &target, record) {
        // An answer with success would tell a caller that it has a tunnel.
        if upgrade.as_ref().is_some_and(|asked| asked.stream.is_some()) {
            return Err(Refusal::new(
                ReasonCode::MalformedRequest,
                "the gateway itself carries no tunnels",
            ));
        }
        return answered.map(Served::Here);
    }
    let route = authorize::select(&snapshot.routes, &parts.method, &target)?;
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
    let declared = check_length(snapshot, &mut parts)?;
    let transaction = continued
        .filter(|_| route.continue_transaction)
        .and_then(|assertion| transaction::transaction(snapshot, &permit, &assertion));
    if let Some(transaction) = &transaction {
        record.transaction(transaction);
    }
    let decided = Decided {
        permitted: retry::ForwardContext {
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
    permitted: retry::ForwardContext<'a>,
    target: Target,
    presented: Presented,
    wishes: RequestHints,
    upgrade: Option<upgrade::UpgradeRequest>,
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
    let retry::ForwardContext {
        connection,
        snapshot,
        route,
        permit,
    } = permitted;
    let upstream = &route.upstream;
    let config = upstream.config();
    request_headers::mark(&mut parts, connection, permit, config, &asked_for, record);
    let (authority, host_value) = authorize::forwarded_authority(route, &asked_for)?;
    let wanted = authorize::forwarded_path(route, &path_and_query)?;
    let place = (host, decoded_path);
    let entered = PermittedRequest::new(parts.method.clone(), place, route, permit, presented);
    let mut active = connection.register(snapshot, entered)?;
    // Only where the service speaks gRPC too may its caller think for as long as its
    // own deadline allows; elsewhere the name would just switch limits off. A body
    // that is read whole cannot wait for an answer.
    let patient = wishes.grpc && config.protocol == HttpProtocol::Http2;
    let incoming = incoming(&permitted, body, patient);
    let (mut body, body_hash) = match route.bind_body {
        None => (incoming, None),
        // Boxed, so that other requests have no room for it.
        Some(most) => Box::pin(read_whole(&permitted, incoming, (most, declared))).await?,
    };
    // A caller that sends slowly what is read whole takes no place from others.
    active.hold(admit(upstream)?);
    let host = (authority, host_value);
    let way = way(&permitted, &mut upgrade, &parts.method, record).await?;
    let to = (upstream, way.protocol);
    forward::address(&mut parts, to, host, wanted.clone(), &body)?;
    wishes.express(&mut parts, way.protocol);
    upgrade::pass_on(&mut upgrade, &mut parts, to)?;
    let expectation = wishes.expectation(&mut parts, way.protocol, &mut body);
    let until = deadline(config.total_timeout, wishes.deadline);
    active.bound(until);
    let bound = OutboundRequest {
        method: parts.method.as_str().to_owned(),
        authority,
        target: &wanted,
        body_hash,
        transaction,
        patience: (!patient).then_some(config.first_byte_timeout),
        deadline: until,
        upgrade: upgrade.as_ref().and_then(upgrade::UpgradeRequest::upgrade),
        expectation,
    };
    let sending = retry::send(&permitted, &bound, (parts, body), way.lease, record);
    let answer = match active.deadline() {
        None => sending.await?,
        Some(deadline) => {
            let asked = (&*asked_for, path_and_query.path());
            let sent = unless_expired(deadline, Box::pin(sending)).await;
            let sent = sent.map_err(Refusal::from).flatten();
            sent.map_err(|refusal| bring_another(refusal, permit, asked, route))?
        }
    };
    Ok(Served::ForwardedResponse(ForwardedResponse {
        answer,
        active,
        upgrade,
        tells_certificate: config.certificate_fields.any(),
        stall_timeout: config.stall_timeout.unwrap_or(snapshot.limits.body_timeout),
    }))
}

/// A body as it comes, which may pause where the caller is `patient`.
fn incoming(permitted: &retry::ForwardContext<'_>, body: Incoming, patient: bool) -> RequestBody {
    let snapshot = permitted.snapshot;
    let may_pause = patient && permitted.route.bind_body.is_none();
    RequestBody::new(
        body,
        (!may_pause).then_some(snapshot.limits.body_timeout),
        snapshot.limits.body_bytes,
        snapshot.private_fields(),
        permitted.connection.guard().clone(),
    )
}

/// How the service is reached. Only a switch over h2 has to be prepared.
async fn way(
    permitted: &retry::ForwardContext<'_>,
    upgrade: &mut Option<upgrade::UpgradeRequest>,
    method: &Method,
    record: &mut AuditRecord,
) -> Result<upgrade::UpstreamTransport, Refusal> {
    let retry::ForwardContext {
        connection,
        route,
        permit,
        ..
    } = *permitted;
    let upstream = &route.upstream;
    let protocol = upstream.config().protocol;
    if upgrade.is_none() || protocol != HttpProtocol::Http2 {
        return Ok(upgrade::UpstreamTransport {
            protocol,
            lease: None,
        });
    }
    record.allowed(None);
    let to = (connection.worker().pool(), upstream);
    let affinity = retry::affinity(route, permit);
    Box::pin(upgrade::way(upgrade, method, to, affinity)).await
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
    permitted: &retry::ForwardContext<'_>,
    incoming: RequestBody,
    bounds: (u64, Option<u64>),
) -> Result<(RequestBody, Option<[u8; 32]>), Refusal> {
    let snapshot = permitted.snapshot;
    let all = &permitted.connection.worker().shared().held;
    let held = buffered_body::read(incoming, bounds, (all, snapshot.limits.held_bytes)).await?;
    let hash = held.hash();
    let private = snapshot.private_fields();
    let body = RequestBody::held(held, private, permitted.connection.guard().clone());
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
    protected_resource::is_asked_for(&target.decoded)
        .then(|| protected_resource::answer(snapshot, method, target, record))
}
