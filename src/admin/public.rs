//! The answers: keys and metadata, health, metrics, and what reasons mean.
//!
//! One router for both listeners. GET and HEAD only; nothing of a request but
//! its path and `If-None-Match` is looked at, and nothing of it is shown again.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;

use super::readiness::{Problem, ProblemCode, Readiness, Stage};
use super::reasons;
use super::revocation::Revocation;
use crate::assertion::published::{
    Document, Documents, JWKS_PATH, METADATA_PATH, OPENID_METADATA_PATH, Published,
};
use crate::clock;
use crate::reason::ReasonCode;
use crate::snapshot::{PublicSettings, Snapshot};
use crate::telemetry::handshake_sources::HandshakeSources;
use crate::telemetry::metrics::{self, Metrics};
use crate::trust::Freshness;

/// How long consumers may keep the documents. Keys are published at least three
/// times as long before they sign.
const MAX_AGE: &str = "max-age=300";
const NO_STORE: &str = "no-store";
const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// Pages have one inline style sheet and nothing else.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                           form-action 'none'; frame-ancestors 'none'";

/// What the answers are made from.
#[derive(Debug)]
pub struct ControlState {
    snapshot: Arc<ArcSwap<Snapshot>>,
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
    handshake_sources: Arc<HandshakeSources>,
    published: Published,
}

impl ControlState {
    /// State for both listeners.
    #[must_use]
    pub fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        readiness: Arc<Readiness>,
        metrics: Arc<Metrics>,
        handshake_sources: Arc<HandshakeSources>,
    ) -> Self {
        Self {
            snapshot,
            readiness,
            metrics,
            handshake_sources,
            published: Published::new(),
        }
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub(super) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    pub(super) fn handshake_sources(&self) -> &HandshakeSources {
        &self.handshake_sources
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What an operator should look at, although requests are served.
    pub(super) fn problems(&self, snapshot: &Snapshot) -> Vec<Problem> {
        let now = i64::try_from(clock::unix_now()).unwrap_or(i64::MAX);
        let mut problems = self.readiness.problems();
        let alarms = snapshot.bundles.iter().flat_map(|bundle| bundle.alarms());
        problems.extend(alarms.map(|alarm| Problem::new(ProblemCode::Trust, alarm)));
        let lists = snapshot
            .bundles
            .iter()
            .flat_map(|bundle| bundle.freshness(now));
        problems.extend(lists.filter_map(|list| {
            let code = match list.freshness {
                Freshness::Fresh | Freshness::Due => ProblemCode::CrlHalfLife,
                Freshness::NotYet | Freshness::Grace | Freshness::Stale => ProblemCode::CrlStale,
            };
            Some(Problem::new(code, &list.alarm()?))
        }));
        let store = snapshot.limiter.shared().and_then(|store| store.problem());
        problems.extend(store.map(|detail| Problem::new(ProblemCode::StoreUnreachable, &detail)));
        let issuers = snapshot.token_issuers.iter();
        problems.extend(
            issuers
                .filter_map(|issuer| issuer.problem())
                .map(|detail| Problem::new(ProblemCode::TokenIssuerUnavailable, &detail)),
        );
        problems
    }

    fn documents(&self) -> Arc<Documents> {
        let snapshot = self.snapshot.load();
        let signer = &snapshot.signer;
        self.published
            .documents(signer.settings(), signer.keys(), clock::unix_now())
    }
}

/// Which answers a listener offers; the pages about reasons are always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offered {
    /// Key set and metadata.
    pub keys: bool,
    /// `/healthz` and `/readyz`.
    pub health: bool,
    /// `/metrics`.
    pub metrics: bool,
    /// What exactly is wrong, in `/readyz`, and `/revocation`; both may name files
    /// and authorities.
    pub details: bool,
}

impl Offered {
    /// Everything there is.
    pub const ALL: Self = Self {
        keys: true,
        health: true,
        metrics: true,
        details: true,
    };
}

impl From<&PublicSettings> for Offered {
    fn from(settings: &PublicSettings) -> Self {
        Self {
            keys: settings.keys,
            health: settings.health,
            metrics: settings.metrics,
            details: false,
        }
    }
}

/// The router. Other methods than GET and HEAD get 405 with `Allow`.
pub fn router(state: Arc<ControlState>, offered: Offered) -> Router {
    let mut router = Router::new()
        .route("/reasons", get(all_reasons))
        .route("/reasons/{code}", get(one_reason));
    if offered.keys {
        router = router
            .route(JWKS_PATH, get(jwks))
            .route(METADATA_PATH, get(metadata))
            .route(OPENID_METADATA_PATH, get(metadata));
    }
    if offered.health {
        router = router
            .route("/healthz", get(alive))
            .route("/readyz", get(move |state| ready(state, offered.details)));
    }
    if offered.details {
        router = router.route("/revocation", get(revocation));
    }
    if offered.metrics {
        router = router.route("/metrics", get(counters));
    }
    router.fallback(nothing_here).with_state(state)
}

async fn jwks(State(state): State<Arc<ControlState>>, headers: HeaderMap) -> Response {
    document(&state.documents().jwks, &headers)
}

async fn metadata(State(state): State<Arc<ControlState>>, headers: HeaderMap) -> Response {
    document(&state.documents().metadata, &headers)
}

async fn alive() -> Response {
    answer(StatusCode::OK, TEXT, NO_STORE, "ok".to_owned())
}

#[derive(Serialize)]
struct ReadyReport {
    status: Stage,
    generation: u64,
    problems: Vec<Problem>,
}

async fn ready(State(state): State<Arc<ControlState>>, details: bool) -> Response {
    let snapshot = state.snapshot.load();
    let stage = state.readiness.stage();
    let report = ReadyReport {
        status: stage,
        generation: snapshot.generation,
        problems: match details {
            true => state.problems(&snapshot),
            false => Vec::new(),
        },
    };
    let status = match stage {
        Stage::Ready => StatusCode::OK,
        Stage::Starting | Stage::Draining => StatusCode::SERVICE_UNAVAILABLE,
    };
    match serde_json::to_string(&report) {
        Ok(text) => answer(status, JSON, NO_STORE, text),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn counters(State(state): State<Arc<ControlState>>) -> Response {
    let chains = state.snapshot.load().path_cache.counts();
    let metrics = &state.metrics;
    metrics.chains(chains.kept, chains.known, chains.verified);
    answer(
        StatusCode::OK,
        metrics::CONTENT_TYPE,
        NO_STORE,
        state.metrics.encode(),
    )
}

async fn revocation(State(state): State<Arc<ControlState>>) -> Response {
    match serde_json::to_string(&Revocation::of(&state)) {
        Ok(text) => answer(StatusCode::OK, JSON, NO_STORE, text),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn all_reasons() -> Response {
    page(StatusCode::OK, reasons::index())
}

async fn one_reason(Path(code): Path<String>) -> Response {
    match ReasonCode::parse(&code) {
        Some(code) => page(StatusCode::OK, reasons::one(code)),
        None => nothing_here().await,
    }
}

async fn nothing_here() -> Response {
    answer(
        StatusCode::NOT_FOUND,
        TEXT,
        NO_STORE,
        "there is nothing here".to_owned(),
    )
}

/// A document, or "not modified" where the consumer has it (RFC 9110 section
/// 13.1.2).
fn document(document: &Document, headers: &HeaderMap) -> Response {
    let tags = [
        (ETAG, document.etag.clone()),
        (CACHE_CONTROL, MAX_AGE.to_owned()),
    ];
    if has_current(headers, &document.etag) {
        return (StatusCode::NOT_MODIFIED, tags).into_response();
    }
    (tags, typed(JSON), document.body.clone()).into_response()
}

/// `If-None-Match` compares weakly: a prefix `W/` does not count.
fn has_current(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

fn page(status: StatusCode, html: String) -> Response {
    let policy = [(CONTENT_SECURITY_POLICY, PAGE_POLICY)];
    (policy, answer(status, HTML, MAX_AGE, html)).into_response()
}

pub(super) fn answer(
    status: StatusCode,
    media_type: &'static str,
    caching: &'static str,
    body: String,
) -> Response {
    (status, [(CACHE_CONTROL, caching)], typed(media_type), body).into_response()
}

const fn typed(media_type: &'static str) -> [(HeaderName, &'static str); 2] {
    [
        (CONTENT_TYPE, media_type),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ]
}
