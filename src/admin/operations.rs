//! What operators can ask for, through the private socket or with a certificate:
//! status, reload, drain, the deny list, and what is remembered of tokens.
//!
//! This is the only place of the control plane that changes anything, and it
//! does so by asking others. Who may connect is the business of the socket and of
//! `operators`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer as _, X509Name};

use super::actions::{done, recorded};
use super::denials::DenyWrites;
use super::public::{ControlState, Offered, answer, router};
use super::readiness::{Problem, Stage};
use super::reload::ReloadRequests;
use super::revocation::{Cuts, Revocation};
use super::{denials, tokens};
use crate::clock;
use crate::crypto;
use crate::descriptors::DescriptorPlan;
use crate::identity::leaf::rfc4514;
use crate::identity::text::printable;
use crate::snapshot::Snapshot;
use crate::telemetry::audit::AuditSink;
use crate::telemetry::handshake_sources::HandshakeSources;
use crate::trust::{DenyList, RevocationPosture, TrustBundle};

/// What the operators' answers are made from.
#[derive(Debug)]
pub struct Operations {
    state: Arc<ControlState>,
    reloads: ReloadRequests,
    drain: watch::Sender<bool>,
    /// Addresses and paths, as they are shown.
    addresses: serde_json::Value,
    descriptors: DescriptorPlan,
    started: Instant,
    started_at: u64,
    pub(super) deny_writes: DenyWrites,
}

impl Operations {
    /// `drain` becomes true when the process should end.
    #[must_use]
    pub fn new(
        state: Arc<ControlState>,
        reloads: ReloadRequests,
        drain: watch::Sender<bool>,
        addresses: serde_json::Value,
        descriptors: DescriptorPlan,
    ) -> Self {
        Self {
            state,
            reloads,
            drain,
            addresses,
            descriptors,
            started: Instant::now(),
            started_at: clock::unix_now(),
            deny_writes: DenyWrites::default(),
        }
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.state.snapshot()
    }

    pub(super) fn deny_list(&self) -> Option<Arc<DenyList>> {
        self.state.snapshot().deny_list.clone()
    }
}

/// The router of the private socket; what is done there is written to `audit`.
pub fn socket_router(operations: Arc<Operations>, audit: AuditSink) -> Router {
    let router = routes()
        .route("/revocation", get(revocation))
        .fallback(nothing_here)
        .with_state(operations);
    recorded(router, audit)
}

/// The router of the operators' TLS listener: what the socket offers, and everything
/// there is to read.
pub fn admin_router(operations: Arc<Operations>, audit: AuditSink) -> Router {
    let reading = router(Arc::clone(&operations.state), Offered::ALL);
    recorded(routes().with_state(operations).merge(reading), audit)
}

fn routes() -> Router<Arc<Operations>> {
    Router::new()
        .route("/status", get(status))
        .route("/reload", post(reload))
        .route("/drain", post(drain))
        .route("/tokens/purge", post(tokens::purge))
        .route("/deny", get(denials::list).post(denials::add))
        .route("/deny/{id}", delete(denials::remove))
}

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
    addresses: &'a serde_json::Value,
    connections: i64,
    connections_limit: usize,
    /// The address that most handshakes of the last minute come from, if there is one.
    busiest_address: Option<Busiest>,
    descriptors: DescriptorPlan,
    routes: usize,
    upstreams: usize,
    reloads: Reloads,
    #[serde(flatten)]
    cuts: Cuts,
    trust_domains: Vec<Domain>,
    /// Entries of the deny list; null where there is none.
    denied: Option<usize>,
}

/// Most handshakes come from one address, although several callers' are among them: a
/// balancer that does not say for whom it connects.
#[derive(Serialize)]
struct Busiest {
    address: IpAddr,
    handshakes: u64,
    of: u64,
    remedy: &'static str,
}

/// What to do about a balancer that does not say for whom it connects.
const BALANCER_REMEDY: &str = "if it is a load balancer, let it send the PROXY protocol and list \
                               it in [listener] proxy_protocol; if many callers share the \
                               address, list it in [limits.address] trusted_networks";

impl Busiest {
    fn of(sources: &HandshakeSources, snapshot: &Snapshot) -> Option<Self> {
        let busiest = sources.busiest()?;
        // None: it is known to stand for many.
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

/// A trust domain and its lists.
#[derive(Serialize)]
pub(super) struct Domain {
    name: String,
    roots: Vec<String>,
    revocation: &'static str,
    lists: Vec<List>,
}

#[derive(Serialize)]
struct List {
    issuer: String,
    number: String,
    this_update: String,
    next_update: String,
    entries: usize,
    verified: bool,
    freshness: &'static str,
}

impl Domain {
    pub(super) fn of(bundle: &TrustBundle, now: i64) -> Self {
        let roots = bundle
            .anchor_subjects()
            .map(|der| match X509Name::from_der(der) {
                Ok((_, name)) => printable(&rfc4514(&name)),
                Err(_) => String::new(),
            });
        let lists = bundle.freshness(now).into_iter().map(|list| List {
            issuer: printable(&list.issuer),
            number: list.number,
            this_update: clock::rfc3339(list.this_update),
            next_update: clock::rfc3339(list.next_update),
            entries: list.entries,
            verified: list.verified,
            freshness: list.freshness.as_str(),
        });
        Self {
            name: bundle.name().to_string(),
            roots: roots.collect(),
            revocation: match bundle.posture() {
                RevocationPosture::Hard => "hard",
                RevocationPosture::Soft => "soft",
                RevocationPosture::Off => "off",
            },
            lists: lists.collect(),
        }
    }
}

async fn status(State(operations): State<Arc<Operations>>) -> Response {
    let state = &operations.state;
    let snapshot = state.snapshot();
    let now = i64::try_from(clock::unix_now()).unwrap_or(i64::MAX);
    let (ok, refused) = state.metrics().reloads();
    let started_at = i64::try_from(operations.started_at).unwrap_or(i64::MAX);
    reply(
        StatusCode::OK,
        &Status {
            version: env!("CARGO_PKG_VERSION"),
            crypto_provider: crypto::PROVIDER,
            pid: std::process::id(),
            started_at: clock::rfc3339(started_at),
            uptime_seconds: operations.started.elapsed().as_secs(),
            generation: snapshot.generation,
            readiness: state.readiness().stage(),
            problems: state.problems(&snapshot),
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
            denied: snapshot.deny_list.as_ref().map(|list| list.list(now).len()),
        },
    )
}

async fn revocation(State(operations): State<Arc<Operations>>) -> Response {
    reply(StatusCode::OK, &Revocation::of(&operations.state))
}

async fn reload(State(operations): State<Arc<Operations>>) -> Response {
    match operations.reloads.ask().await {
        Ok(Ok(generation)) => done(
            reply(
                StatusCode::OK,
                &json!({ "reloaded": true, "generation": generation }),
            ),
            format!("generation {generation} is in service"),
        ),
        Ok(Err(why)) => done(
            reply(
                StatusCode::UNPROCESSABLE_ENTITY,
                &json!({ "reloaded": false, "error": why }),
            ),
            why,
        ),
        Err(error) => reply(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({ "reloaded": false, "error": error.to_string() }),
        ),
    }
}

async fn drain(State(operations): State<Arc<Operations>>) -> Response {
    operations.drain.send_replace(true);
    let connections = operations.state.metrics().open_connections();
    done(
        reply(
            StatusCode::ACCEPTED,
            &json!({ "draining": true, "connections": connections }),
        ),
        format!("draining; {connections} connections are open"),
    )
}

async fn nothing_here() -> Response {
    answer(
        StatusCode::NOT_FOUND,
        "text/plain; charset=utf-8",
        "no-store",
        "there is nothing here".to_owned(),
    )
}

pub(super) fn reply(status: StatusCode, document: &impl Serialize) -> Response {
    let caching = [("cache-control", "no-store")];
    (status, caching, Json(document)).into_response()
}
