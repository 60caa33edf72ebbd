//! Documents that all listeners serve: keys and metadata, health, metrics, and explanations of
//! reason codes.
//!
//! Only GET and HEAD are allowed. The code reads only the path and `If-None-Match` of a request,
//! and sends no part of the request back.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;

use super::readiness::{Problem, Stage};
use super::reasons;
use super::responses::{HTML, JSON, NO_STORE, TEXT, not_found, respond, typed};
use super::revocation::Revocation;
use super::state::ControlState;
use crate::assertion::published::{Document, JWKS_PATH, METADATA_PATH, OPENID_METADATA_PATH};
use crate::reason::ReasonCode;
use crate::snapshot::PublicSettings;
use crate::telemetry::metrics;

/// How long clients may cache the documents. This is at most a third of the time for which a new
/// key is published before it signs.
const MAX_AGE: &str = "max-age=300";
/// The Content-Security-Policy of the pages. It allows the inline style sheet of a page, and no
/// other content.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                           form-action 'none'; frame-ancestors 'none'";

/// Which documents a listener serves. It always serves the pages about reason codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offered {
    /// Whether the listener serves the key set and the metadata.
    pub keys: bool,
    /// Whether the listener serves `/healthz` and `/readyz`.
    pub health: bool,
    /// Whether the listener serves `/metrics`.
    pub metrics: bool,
    /// Whether `/readyz` lists the problems, and whether `/revocation` exists. Both reveal current
    /// weaknesses, and the names of files, services and authorities.
    pub details: bool,
}

impl Offered {
    /// Serves all documents.
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

/// Creates the router. Requests with other methods than GET and HEAD get the status 405 with
/// `Allow`.
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
    router.fallback(not_found).with_state(state)
}

async fn jwks(State(state): State<Arc<ControlState>>, headers: HeaderMap) -> Response {
    document(&state.documents().jwks, &headers)
}

async fn metadata(State(state): State<Arc<ControlState>>, headers: HeaderMap) -> Response {
    document(&state.documents().metadata, &headers)
}

async fn alive() -> Response {
    respond(StatusCode::OK, TEXT, NO_STORE, "ok".to_owned())
}

#[derive(Serialize)]
struct ReadyReport {
    status: Stage,
    generation: u64,
    /// `None` on the public listener. An empty list would say that there is no problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    problems: Option<Vec<Problem>>,
}

async fn ready(State(state): State<Arc<ControlState>>, details: bool) -> Response {
    let snapshot = state.snapshot();
    let stage = state.stage(&snapshot);
    let report = ReadyReport {
        status: stage,
        generation: snapshot.generation,
        problems: details.then(|| state.problems(&snapshot)),
    };
    let status = match stage {
        Stage::Ready => StatusCode::OK,
        Stage::Starting | Stage::Draining | Stage::Unable => StatusCode::SERVICE_UNAVAILABLE,
    };
    match serde_json::to_string(&report) {
        Ok(text) => respond(status, JSON, NO_STORE, text),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn counters(State(state): State<Arc<ControlState>>) -> Response {
    state.refresh_metrics();
    let metrics = state.metrics();
    respond(
        StatusCode::OK,
        metrics::CONTENT_TYPE,
        NO_STORE,
        metrics.encode(),
    )
}

async fn revocation(State(state): State<Arc<ControlState>>) -> Response {
    match serde_json::to_string(&Revocation::of(&state)) {
        Ok(text) => respond(StatusCode::OK, JSON, NO_STORE, text),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn all_reasons() -> Response {
    page(StatusCode::OK, reasons::index())
}

async fn one_reason(Path(code): Path<String>) -> Response {
    match ReasonCode::parse(&code) {
        Some(code) => page(StatusCode::OK, reasons::one(code)),
        None => not_found().await,
    }
}

/// Responds with a document. If the client already has the current version, responds with 304 (RFC
/// 9110 section 13.1.2).
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

/// Whether the client has the current document. `If-None-Match` uses weak comparison, which ignores
/// a prefix `W/`.
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
    (policy, respond(status, HTML, MAX_AGE, html)).into_response()
}
