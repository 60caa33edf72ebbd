//! `/status`: a summary of the state of the process.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::operations::Operations;
use super::readiness::{Problem, Stage};
use super::responses::respond_json;
use super::revocation::{Cuts, Domain};
use crate::clock;
use crate::crypto;
use crate::descriptors::DescriptorPlan;
use crate::snapshot::Snapshot;
use crate::telemetry::audit_health::AuditHealth;
use crate::telemetry::handshake_sources::HandshakeSources;

#[derive(Serialize)]
struct Status<'a> {
    version: &'static str,
    crypto_provider: &'static str,
    pid: u32,
    started_at: String,
    uptime_seconds: u64,
    generation: u64,
    readiness: Stage,
    problems: Vec<Problem>,
    /// The counts of audit lines. `None` if audit lines are not counted.
    audit: Option<Audit>,
    /// The endpoints of all upstreams.
    endpoints: Vec<EndpointStatus>,
    addresses: &'a serde_json::Value,
    connections: i64,
    connections_limit: usize,
    /// The address from which most handshakes of the last minute came. `None` if no address has
    /// more than half of the handshakes, or if the address needs no attention.
    busiest_address: Option<Busiest>,
    descriptors: DescriptorPlan,
    routes: usize,
    upstreams: usize,
    reloads: Reloads,
    #[serde(flatten)]
    cuts: Cuts,
    trust_domains: Vec<Domain>,
    /// Number of entries of the deny list. `None` if no deny list is configured.
    denied: Option<usize>,
}

/// How many audit lines were written and lost since the start, and when a line was last written.
#[derive(Serialize)]
struct Audit {
    sink: &'static str,
    written: u64,
    lost: u64,
    last_write: Option<String>,
}

impl Audit {
    fn of(health: &AuditHealth) -> Self {
        let counts = health.counts();
        let last_write = i64::try_from(counts.last_write).unwrap_or(i64::MAX);
        Self {
            sink: counts.sink,
            written: counts.written,
            lost: counts.lost,
            last_write: (last_write > 0).then(|| clock::rfc3339(last_write)),
        }
    }
}

/// One endpoint of an upstream.
#[derive(Serialize)]
struct EndpointStatus {
    upstream: String,
    endpoint: String,
    up: bool,
    /// Since when the endpoint is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    down_since: Option<String>,
}

impl EndpointStatus {
    fn all(snapshot: &Snapshot) -> Vec<Self> {
        let upstreams = snapshot.upstreams.iter();
        let endpoints = upstreams.flat_map(|upstream| {
            upstream.endpoints().map(|(endpoint, down)| Self {
                upstream: upstream.name().to_owned(),
                endpoint: endpoint.to_string(),
                up: down.is_none(),
                down_since: down
                    .map(|since| clock::rfc3339(i64::try_from(since).unwrap_or(i64::MAX))),
            })
        });
        endpoints.collect()
    }
}

/// The address from which most handshakes come, if several callers made these handshakes. Such an
/// address probably belongs to a load balancer that does not forward its clients' addresses.
#[derive(Serialize)]
struct Busiest {
    address: IpAddr,
    handshakes: u64,
    of: u64,
    remedy: &'static str,
}

/// Advice for the operator, if the busiest address belongs to a load balancer or is shared by many
/// callers.
const BALANCER_REMEDY: &str = "if it is a load balancer, let it send the PROXY protocol and list \
                               it in [listener] proxy_protocol; if many callers share the \
                               address, list it in [limits.address] trusted_networks";

impl Busiest {
    fn of(sources: &HandshakeSources, snapshot: &Snapshot) -> Option<Self> {
        let busiest = sources.busiest()?;
        // If the configuration already says that many peers share the address, no advice is needed.
        snapshot.counted_address(busiest.address)?;
        Some(Self {
            address: busiest.address,
            handshakes: busiest.handshakes,
            of: busiest.of,
            remedy: BALANCER_REMEDY,
        })
    }
}

#[derive(Serialize)]
struct Reloads {
    ok: u64,
    refused: u64,
}

pub(super) async fn status(State(operations): State<Arc<Operations>>) -> Response {
    let state = operations.state();
    let snapshot = state.snapshot();
    let now = clock::certificate_now();
    let (ok, refused) = state.metrics().reloads();
    let started_at = i64::try_from(operations.started_at).unwrap_or(i64::MAX);
    respond_json(
        StatusCode::OK,
        &Status {
            version: env!("CARGO_PKG_VERSION"),
            crypto_provider: crypto::PROVIDER,
            pid: std::process::id(),
            started_at: clock::rfc3339(started_at),
            uptime_seconds: operations.started.elapsed().as_secs(),
            generation: snapshot.generation,
            readiness: state.stage(&snapshot),
            problems: state.problems(&snapshot),
            audit: state.audit().map(Audit::of),
            endpoints: EndpointStatus::all(&snapshot),
            addresses: &operations.addresses,
            connections: state.metrics().open_connections(),
            connections_limit: operations
                .descriptors
                .connections_of(snapshot.limits.connections),
            busiest_address: Busiest::of(state.handshake_sources(), &snapshot),
            descriptors: operations.descriptors,
            routes: snapshot.routes.routes().len(),
            upstreams: snapshot.upstreams.len(),
            reloads: Reloads { ok, refused },
            cuts: Cuts::of(state),
            trust_domains: snapshot
                .bundles
                .iter()
                .map(|bundle| Domain::of(bundle, now))
                .collect(),
            denied: snapshot.deny_list.as_ref().map(|list| list.count(now)),
        },
    )
}
