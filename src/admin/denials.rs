//! The deny list for operators: add, list, remove.
//!
//! An answer is given when the change is on disk and counts.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::actions::done;
use super::operations::{Operations, reply};
use crate::clock;
use crate::trust::{DenyEntry, DenyList, DenyListError, DenyTarget};

/// What to add.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denial {
    /// What is refused.
    pub target: DenyTarget,
    /// Why, in the operator's words.
    #[serde(default)]
    pub reason: String,
    /// When it ends, in seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

#[derive(Serialize)]
struct Listed {
    deny_list: Vec<Arc<DenyEntry>>,
}

pub(super) async fn list(State(operations): State<Arc<Operations>>) -> Response {
    match list_of(&operations) {
        Ok(list) => {
            let deny_list = list.list(now());
            reply(StatusCode::OK, &Listed { deny_list })
        }
        Err(response) => *response,
    }
}

pub(super) async fn add(
    State(operations): State<Arc<Operations>>,
    denial: Result<Json<Denial>, JsonRejection>,
) -> Response {
    let Json(denial) = match denial {
        Ok(denial) => denial,
        Err(error) => return fault(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    let list = match list_of(&operations) {
        Ok(list) => list,
        Err(response) => return *response,
    };
    let added =
        on_disk(move || list.add(denial.target, &denial.reason, denial.expires_at, now())).await;
    match added {
        Ok(entry) => {
            let target = serde_json::to_string(&entry.target).unwrap_or_default();
            let what = format!("{}: {target}: {}", entry.id, entry.reason);
            done(reply(StatusCode::CREATED, &entry), what)
        }
        Err(error) => refused(&error),
    }
}

pub(super) async fn remove(
    State(operations): State<Arc<Operations>>,
    Path(id): Path<String>,
) -> Response {
    let list = match list_of(&operations) {
        Ok(list) => list,
        Err(response) => return *response,
    };
    let named = id.clone();
    match on_disk(move || list.remove(&id)).await {
        Ok(true) => {
            let answer = reply(StatusCode::OK, &json!({ "removed": true, "id": named }));
            done(answer, named)
        }
        Ok(false) => fault(
            StatusCode::NOT_FOUND,
            "there is no such entry; countersign deny list shows their ids",
        ),
        Err(error) => refused(&error),
    }
}

fn list_of(operations: &Operations) -> Result<Arc<DenyList>, Box<Response>> {
    operations.deny_list().ok_or_else(|| {
        Box::new(fault(
            StatusCode::CONFLICT,
            "the configuration has no deny list: add [deny_list] with file = \"deny.json\" and reload",
        ))
    })
}

/// Syncing to disk takes its time.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DenyListError> + Send + 'static,
) -> Result<T, DenyListError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(DenyListError::Entry(error.to_string())),
    }
}

fn refused(error: &DenyListError) -> Response {
    let status = if error.is_usage() {
        StatusCode::UNPROCESSABLE_ENTITY
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    fault(status, &error.to_string())
}

fn fault(status: StatusCode, error: &str) -> Response {
    reply(status, &json!({ "error": error }))
}

fn now() -> i64 {
    i64::try_from(clock::unix_now()).unwrap_or(i64::MAX)
}
