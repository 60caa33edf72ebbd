//! The requests that operators can make, through the private socket or with a client certificate.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{delete, get, post};

use super::actions::recorded;
use super::operations::{Operations, drain, reload};
use super::public::{Offered, router};
use super::responses::{not_found, respond_json};
use super::revocation::Revocation;
use super::status::status;
use super::{deny_entries, tokens};
use crate::telemetry::audit::AuditSink;

/// Creates the router of the private socket. Every action is recorded in `audit`.
pub fn socket_router(operations: Arc<Operations>, audit: AuditSink) -> Router {
    let router = routes()
        .route("/revocation", get(revocation))
        .fallback(not_found)
        .with_state(operations);
    recorded(router, audit)
}

/// Creates the router of the operators' TLS listener: all requests of the private socket, and all
/// documents.
pub fn admin_router(operations: Arc<Operations>, audit: AuditSink) -> Router {
    let reading = router(Arc::clone(operations.state()), Offered::ALL);
    recorded(routes().with_state(operations).merge(reading), audit)
}

fn routes() -> Router<Arc<Operations>> {
    Router::new()
        .route("/status", get(status))
        .route("/reload", post(reload))
        .route("/drain", post(drain))
        .route("/tokens/purge", post(tokens::purge))
        .route("/deny", get(deny_entries::list).post(deny_entries::add))
        .route("/deny/{id}", delete(deny_entries::remove))
}

async fn revocation(State(operations): State<Arc<Operations>>) -> Response {
    respond_json(StatusCode::OK, &Revocation::of(operations.state()))
}
