//! Serves one request, from its head to its response: calls every stage in order.
//!
//! admission → target → route → authorize (rate_limit, authenticate) → transaction →
//! request_headers → body → forward → response. Each stage needs the result of an earlier stage, so
//! that no stage can be skipped. The stages up to `body` are files in `stages` with these names.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::HOST;
use http::{HeaderValue, Method, Request, Response, Version, request};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::connection::Connection;
use super::connection::in_flight::{
    EndsForAnother, InFlightRequest, PermittedRequest, UsedCredentials, unless_expired,
};
use super::connection::response_audit::ResponseAudit;
use super::connection::unread_body::CallerBody;
use super::forward::context::ForwardContext;
use super::forward::request_hints::RequestHints;
use super::forward::retry::{self, ForwardPlan};
use super::forward::upgrade::{self, UpgradeRequest, choose_transport};
use super::forward::{self, Destination, PreparedRequest, UpstreamResponse};
use super::gateway_routes::{protected_resource, whoami};
use super::response::body::GatewayBody;
use super::response::h2_delivery::H2Stream;
use super::response::problem::{self, ResponseFormat};
use super::response::{ForwardedResponse, RecordNoResponse, Served};
use super::stages::authenticate::with_reauth_challenge;
use super::stages::target::Target;
use super::stages::{
    RequestContext, admission, authorize, body, request_headers, route, target, transaction,
};
use super::wire::expect_continue::Expectation;
use super::wire::head::FramingError;
use super::wire::headers;
use super::wire::refusal::Refusal;
use crate::assertion::signer::token_id;
use crate::authn::{Presented, Resource};
use crate::reason::ReasonCode;
use crate::telemetry::record::AuditRecord;
use crate::upstream::{HttpProtocol, Upstream};

/// Time that the gateway waits after a gRPC caller's deadline. In this time the service can report
/// that the deadline has passed.
const GRPC_GRACE: Duration = Duration::from_secs(1);

/// Responds to one request. If `framing_error` is `Some`, the request's head is malformed. Over
/// HTTP/1.1, the framing guard then gives hyper a replacement for the malformed request, and
/// `request` is this replacement.
pub(crate) async fn handle(
    connection: Arc<Connection>,
    request: Request<Incoming>,
    framing_error: Option<FramingError>,
) -> Response<GatewayBody> {
    let is_connect = request.method() == Method::CONNECT;
    let request = request.map(|body| CallerBody::new(body, is_connect));
    let snapshot = connection.snapshot();
    let request_id: Arc<str> = token_id().unwrap_or_default().into();
    let mut record = AuditRecord::open(
        connection.worker().audit().clone(),
        Arc::clone(connection.facts()),
        request_id,
        Arc::clone(connection.worker().shared().metrics.unrouted()),
    );
    let admitted = admission::check(&connection, &snapshot, framing_error);
    // `admission::check` may have verified the identity again, so the proof is read after it.
    let proof = connection.proof();
    if let Some(proof) = &proof {
        record.caller(Arc::clone(&proof.identity));
    }
    let format = ResponseFormat {
        is_grpc: headers::is_grpc(request.headers()),
        is_head: request.method() == Method::HEAD,
    };
    let mut no_response = RecordNoResponse {
        record: &mut record,
        connection: &connection,
        has_response: false,
    };
    let served = match admitted {
        Ok(()) => {
            let context = RequestContext {
                connection: &connection,
                proof: proof.as_ref(),
                snapshot: &snapshot,
            };
            serve(context, request, no_response.record).await
        }
        Err(refusal) => {
            record_refused_target(&request, no_response.record);
            Err(refusal)
        }
    };
    no_response.has_response = true;
    drop(no_response);
    let refusal = match served {
        Ok(Served::Local(response)) => return local_response(&connection, record, response),
        Ok(Served::Forwarded(forwarded)) if forwarded.is_false_upgrade() => Refusal::new(
            ReasonCode::UpstreamProtocol,
            "the service did not switch protocols",
        ),
        Ok(Served::Forwarded(mut forwarded)) if !forwarded.has_switched() => {
            forwarded.in_flight.set_upgrade(None);
            match forwarded.read_first_frame().await {
                Ok(()) => {
                    let assertion_header = &snapshot.signer.settings().header;
                    return forwarded.into_response(&connection, assertion_header, record);
                }
                Err(refusal) => {
                    forwarded.abandon();
                    refusal
                }
            }
        }
        Ok(Served::Forwarded(forwarded)) => match forwarded.switch().await {
            Ok(switched) => return switched.into_response(&connection, record),
            Err(refusal) => refusal,
        },
        Err(refusal) => refusal,
    };
    record.refused(refusal.denial.reason, &refusal.denial.recorded());
    if let Some(limit) = refusal.denial.limit {
        let metrics = &connection.worker().shared().metrics;
        metrics.limit_reached(limit.as_str());
    }
    let response = problem::respond(
        &refusal,
        &snapshot.signer.settings().issuer,
        record.request_id(),
        format,
    );
    local_response(&connection, record, response)
}

/// Records the target of a request that is refused at admission. Does nothing over HTTP/1.1, where
/// `request` may be the framing guard's replacement.
fn record_refused_target(request: &Request<CallerBody>, record: &mut AuditRecord) {
    if request.version() != Version::HTTP_2 {
        return;
    }
    let uri = request.uri();
    let host = request.headers().get(HOST).map(HeaderValue::as_bytes);
    let host = String::from_utf8_lossy(host.unwrap_or_default());
    let authority = uri
        .authority()
        .map_or(&*host, |authority| authority.as_str());
    record.request(request.method().as_str(), authority, uri.path());
}

/// Completes the audit record of a response that the gateway made itself.
fn local_response(
    connection: &Arc<Connection>,
    mut record: AuditRecord,
    response: Response<GatewayBody>,
) -> Response<GatewayBody> {
    record.answered(response.status().as_u16());
    match H2Stream::current() {
        // Over HTTP/2, a body is complete only when the caller has taken it. `stream` completes the
        // record at that time.
        Some(stream) if !response.body().is_end_stream() => {
            stream.attach_audit(ResponseAudit::local(record, Arc::clone(connection)));
        }
        _ => record.complete(),
    }
    response
}

/// Runs the stages that decide about a request, and forwards it.
async fn serve(
    context: RequestContext<'_>,
    mut request: Request<CallerBody>,
    record: &mut AuditRecord,
) -> Result<Served, Refusal> {
    let snapshot = context.snapshot;
    record.request(
        request.method().as_str(),
        request.uri().authority().map_or("", |a| a.as_str()),
        request.uri().path(),
    );
    // `strip_request` below removes hop-by-hop fields and credentials, so they are read first.
    let mut upgrade = upgrade::take(&mut request)?;
    let (mut parts, incoming) = request.into_parts();
    let assertion_header = &snapshot.signer.settings().header;
    let hints = RequestHints::read(&parts);
    let authority = target::authority(&parts)?;
    let earlier_assertion = snapshot
        .routes
        .continues_transactions()
        .then(|| transaction::presented(&parts.headers, assertion_header))
        .flatten();
    let api_key_header = snapshot.api_keys.header();
    let presented = Presented::take(&mut parts.headers, api_key_header);
    let set_aside = headers::strip_request(
        &mut parts.headers,
        assertion_header,
        api_key_header,
        snapshot.routes.keeps_headers(),
    )?;
    let target = Target::check(authority, parts.uri.path_and_query())?;
    record.request(
        parts.method.as_str(),
        &target.host,
        target.path_and_query.path(),
    );
    target::check_host(
        &snapshot.server_names,
        context.connection.server_name(),
        &target.host,
    )?;
    if let Some(response) = serve_locally(context, &parts.method, &target, record) {
        // The gateway's own paths refuse extended CONNECT, because a caller that sends extended
        // CONNECT reads every 2xx response as an open tunnel.
        if upgrade.as_ref().is_some_and(|asked| asked.stream.is_some()) {
            return Err(Refusal::new(
                ReasonCode::MalformedRequest,
                "the gateway itself carries no tunnels",
            ));
        }
        return response.map(Served::Local);
    }
    let route = route::select(&snapshot.routes, &parts.method, &target)?;
    record.route(route.meter.counters());
    let permit = authorize::authorize(context, &target, &presented, route, record).await?;
    if let Some(upgrade) = &mut upgrade {
        upgrade.restrict(route)?;
    }
    let rules = &route.upstream.config().header_rules;
    rules.apply(&mut parts.headers, &set_aside);
    request_headers::add_token(&mut parts.headers, route, &permit, &presented);
    let declared_length = body::declared_length(&mut parts.headers, snapshot.limits.body_bytes)?;
    let transaction = earlier_assertion
        .filter(|_| route.continue_transaction)
        .and_then(|assertion| transaction::continued(snapshot, &permit, &assertion));
    if let Some(transaction) = &transaction {
        record.transaction(transaction);
    }
    let permitted = Permitted {
        context,
        forwarding: ForwardContext::new(context.connection, snapshot, route, &permit),
        target,
        presented,
        hints,
        upgrade,
        transaction,
        declared_length,
    };
    forward_permitted(permitted, parts, incoming, record).await
}

/// Responds to requests for the gateway's own paths. These paths exist on every host, and no route
/// can replace them.
fn serve_locally(
    context: RequestContext<'_>,
    method: &Method,
    target: &Target,
    record: &mut AuditRecord,
) -> Option<Result<Response<GatewayBody>, Refusal>> {
    if whoami::is_requested(&target.decoded_path) {
        return Some(whoami::respond(context, method, record));
    }
    protected_resource::is_requested(&target.decoded_path)
        .then(|| protected_resource::respond(context.snapshot, method, target, record))
}

/// A permitted request, with the values that are needed to forward it.
struct Permitted<'a> {
    context: RequestContext<'a>,
    forwarding: ForwardContext<'a>,
    target: Target,
    presented: Presented,
    hints: RequestHints,
    upgrade: Option<UpgradeRequest>,
    transaction: Option<String>,
    declared_length: Option<u64>,
}

/// Builds the request for the service, and sends it.
async fn forward_permitted(
    permitted: Permitted<'_>,
    mut parts: request::Parts,
    incoming: CallerBody,
    record: &mut AuditRecord,
) -> Result<Served, Refusal> {
    let (context, forwarding) = (permitted.context, permitted.forwarding);
    let (route, permit) = (forwarding.route, forwarding.permit);
    let (target, hints, mut upgrade) = (permitted.target, permitted.hints, permitted.upgrade);
    let (upstream, config) = (&route.upstream, route.upstream.config());
    let asked = &target.authority;
    request_headers::add(&mut parts, context, route, permit, asked, record);
    let (authority, host) = route::forwarded_authority(route, &target.authority)?;
    let path_and_query = route::forwarded_path(route, &target.path_and_query)?;
    let request = PermittedRequest {
        method: parts.method.clone(),
        host: target.host,
        decoded_path: target.decoded_path,
        path_forms: target.path_forms,
        principal: permit.principal().cloned(),
        credentials: UsedCredentials::keep(permitted.presented, route),
        upgrade: Mutex::new(upgrade.as_ref().map(|upgrade| upgrade.protocols.clone())),
    };
    let mut in_flight = register(&forwarding, request)?;
    // A gRPC caller's own deadline replaces `first_byte_timeout` and the limit for pauses only if
    // the upstream uses HTTP/2. Otherwise any caller could switch these limits off with a gRPC
    // content type.
    let keeps_own_deadline = hints.grpc && config.protocol == HttpProtocol::Http2;
    // A body that the gateway buffers (`bind_body`) may not stall. The service receives nothing
    // before this body is complete, so the caller has no reason to pause.
    let may_stall = keeps_own_deadline && route.bind_body.is_none();
    let incoming = body::await_declared_end(context, incoming, permitted.declared_length).await?;
    let body = body::streamed(context, route, incoming, may_stall);
    let (length, caller) = (permitted.declared_length, forwarding.share_key);
    let (body, body_hash) = body::bound(context, route.bind_body, body, length, caller).await?;
    // `admit` counts the request under the upstream's concurrency limit. It is called only after
    // `body::bound` has buffered the body, so that a slow caller does not use up the limit.
    in_flight.hold_upstream(forward::admit(&forwarding).await?);
    let transport = choose_transport(&forwarding, &mut upgrade, &parts.method, record).await?;
    let destination = Destination {
        upstream,
        protocol: transport.protocol,
        authority,
        host,
        path_and_query: path_and_query.clone(),
    };
    let mut request = PreparedRequest { parts, body };
    let expectation = write_request(&mut request, destination, &hints, &mut upgrade)?;
    let deadline = deadline(config.total_timeout, hints.deadline);
    in_flight.set_deadline(deadline);
    let mut plan = ForwardPlan {
        method: request.parts.method.as_str().to_owned(),
        authority,
        target: &path_and_query,
        body_hash,
        transaction: permitted.transaction,
        first_byte_timeout: (!keeps_own_deadline).then_some(config.first_byte_timeout),
        deadline,
        upgrade: upgrade.as_ref().and_then(UpgradeRequest::upgrade),
        expectation,
        dedicated: transport.dedicated,
    };
    let resource = Resource {
        authority: &target.authority,
        path: target.path_and_query.path(),
    };
    let sent = {
        let mut sending = pin!(retry::send(&forwarding, &mut plan, request, record));
        match in_flight.credentials_expiry() {
            None => sending.await?,
            Some(expiry) => {
                let sent = unless_expired(expiry, sending.as_mut()).await;
                let sent = sent.map_err(Refusal::from).flatten();
                sent.map_err(|refusal| with_reauth_challenge(refusal, permit, &resource, route))?
            }
        }
    };
    in_flight.set_ends_for_another(ends_for_another(upstream, &sent));
    Ok(Served::Forwarded(ForwardedResponse {
        upstream: sent,
        in_flight,
        upgrade,
        tells_certificate: config.certificate_fields.any(),
        stall_timeout: (config.stall_timeout).unwrap_or(context.snapshot.limits.body_timeout),
    }))
}

/// Returns the signal that ends the response if another caller needs the response's upstream
/// connection. Returns `None` if the gateway never takes this connection for another caller.
fn ends_for_another(upstream: &Upstream, sent: &UpstreamResponse) -> Option<EndsForAnother> {
    let preemption = sent.lease.preemption()?;
    let denial = forward::preemption_denial(upstream.name());
    Some(EndsForAnother { preemption, denial })
}

/// Adds a request to the requests in progress. If the request asks for an upgrade, also counts the
/// request in the tunnel limit of the caller.
fn register(
    forwarding: &ForwardContext<'_>,
    request: PermittedRequest,
) -> Result<InFlightRequest, Refusal> {
    let asks_for_tunnel = request.asks_for_tunnel();
    let connection = forwarding.connection;
    let mut in_flight = connection.register(forwarding.snapshot, request)?;
    if asks_for_tunnel {
        in_flight.hold_tunnel(upgrade::admit(forwarding)?);
    }
    Ok(in_flight)
}

/// Writes the parts of the forwarded request that depend on the protocol of the service. Returns an
/// `Expectation` if the gateway asks the service for a 100 (Continue).
fn write_request(
    request: &mut PreparedRequest,
    destination: Destination<'_>,
    hints: &RequestHints,
    upgrade: &mut Option<UpgradeRequest>,
) -> Result<Option<Arc<Expectation>>, Refusal> {
    let PreparedRequest { parts, body } = request;
    let (upstream, protocol) = (destination.upstream, destination.protocol);
    destination.write(parts, body)?;
    hints.apply(parts, protocol, body.trailers());
    upgrade::apply(upgrade, parts, upstream, protocol)?;
    Ok(hints.expectation(parts, protocol, body))
}

/// Returns the time by which the response must be complete. It is `total` from now, or
/// [`GRPC_GRACE`] after the gRPC caller's own deadline, whichever is earlier. Returns `None` if
/// there is no limit. A gRPC caller cancels its request at its deadline. The gateway enforces the
/// deadline as well, because a caller may disappear without a reset of the stream.
fn deadline(total: Option<Duration>, grpc: Option<Duration>) -> Option<Instant> {
    let grpc = grpc.map(|timeout| timeout.saturating_add(GRPC_GRACE));
    let timeout = match (total, grpc) {
        (Some(total), Some(grpc)) => total.min(grpc),
        (one, other) => one.or(other)?,
    };
    Instant::now().checked_add(timeout)
}
