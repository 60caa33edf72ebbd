//! Writes an audit line for every change that an operator requests: the operator, the change
//! and its result.

use axum::Router;
use axum::extract::Request;
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::Response;
use tokio::net::UnixStream;

use crate::telemetry::audit::AuditSink;
use crate::telemetry::operator::{OperatorFacts, OperatorRecord};

/// The operator who sent a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Actor(pub(super) OperatorFacts);

impl Actor {
    /// Creates the actor from the credentials of the process that is connected to the private
    /// socket.
    pub(super) fn at(stream: &UnixStream) -> Self {
        Self(OperatorFacts {
            operator: Some(match stream.peer_cred() {
                Ok(user) => format!("uid {}", user.uid()),
                Err(_) => "the private socket".to_owned(),
            }),
            ..OperatorFacts::default()
        })
    }
}

/// Describes what a request has changed. Handlers store this value in the extensions of the
/// response.
#[derive(Debug, Clone)]
struct Done(String);

/// Adds the description of a change to a response.
pub(super) fn done(mut response: Response, what: impl Into<String>) -> Response {
    response.extensions_mut().insert(Done(what.into()));
    response
}

/// Adds a layer that writes an audit line for every request except GET and HEAD, which change
/// nothing.
pub(super) fn recorded(router: Router, audit: AuditSink) -> Router {
    router.layer(middleware::from_fn(move |request: Request, next: Next| {
        let audit = audit.clone();
        async move { record(&audit, request, next).await }
    }))
}

async fn record(audit: &AuditSink, request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let actor: Actor = request.extensions().get().cloned().unwrap_or_default();
    let action = format!("{} {}", request.method(), request.uri().path());
    let mut record = OperatorRecord::allowed(audit, actor.0, &action);
    let mut response = next.run(request).await;
    let done: Option<Done> = response.extensions_mut().remove();
    let what = done.map(|done| done.0).unwrap_or_default();
    record.answered(response.status().as_u16(), &what);
    response
}
