//! The deny list for operators: add, list and remove entries.
//!
//! A new entry takes effect in memory first, and is then written to disk. The response is sent
//! after the write has succeeded or failed.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::actions::done;
use super::deny_writes::ChangeError;
use super::operations::Operations;
use super::responses::respond_json;
use crate::clock;
use crate::identity::CallerName;
use crate::snapshot::Snapshot;
use crate::trust::{DenyEntry, DenyList, DenyTarget};

/// A request to add an entry.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewDenyEntry {
    /// The identity or certificate to refuse.
    pub target: DenyTarget,
    /// The reason, as the operator wrote it.
    #[serde(default)]
    pub reason: String,
    /// When the entry expires, in seconds since the Unix epoch. `None` means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

/// An entry that was added.
#[derive(Serialize)]
struct Added<'a> {
    #[serde(flatten)]
    entry: &'a DenyEntry,
    /// Whether the gateway knows the caller that the entry names. Absent if the entry names no
    /// caller, or if the gateway cannot tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<bool>,
}

#[derive(Serialize)]
struct Listed {
    deny_list: Vec<Arc<DenyEntry>>,
}

pub(super) async fn list(State(operations): State<Arc<Operations>>) -> Response {
    match list_of(&operations) {
        Ok(list) => {
            let deny_list = list.list(now());
            respond_json(StatusCode::OK, &Listed { deny_list })
        }
        Err(response) => *response,
    }
}

pub(super) async fn add(
    State(operations): State<Arc<Operations>>,
    denial: Result<Json<NewDenyEntry>, JsonRejection>,
) -> Response {
    let Json(denial) = match denial {
        Ok(denial) => denial,
        Err(error) => return fault(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    let list = match list_of(&operations) {
        Ok(list) => list,
        Err(response) => return *response,
    };
    // The entry takes effect in memory first, so that a slow write to the disk does not delay the
    // denial.
    let entry = match list.put_in_force(denial.target, &denial.reason, denial.expires_at, now()) {
        Ok(entry) => entry,
        Err(error) => return refused(&ChangeError::List(error)),
    };
    let target = serde_json::to_string(&entry.target).unwrap_or_default();
    let what = format!("{}: {target}: {}", entry.id, entry.reason);
    let added = Arc::clone(&entry);
    let saving = move || list.save(&added, now());
    // The entry is in effect even if the write fails, so the audit log names it in both cases.
    match operations.deny_writes.on_disk(saving).await {
        Ok(()) => {
            let added = Added {
                entry: &entry,
                seen: is_known(&operations.snapshot(), &entry.target),
            };
            done(respond_json(StatusCode::CREATED, &added), what)
        }
        Err(error) => {
            let response = match error {
                ChangeError::Disk => fault(
                    StatusCode::SERVICE_UNAVAILABLE,
                    &format!(
                        "the file of the deny list does not answer; entry {} is in force all \
                         the same, and is written as soon as that can be done: countersign \
                         deny list shows it",
                        entry.id
                    ),
                ),
                error => refused(&error),
            };
            done(response, format!("{what} (in force, not on disk)"))
        }
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
    match operations
        .deny_writes
        .on_disk(move || list.remove(&id))
        .await
    {
        Ok(true) => {
            let response = respond_json(StatusCode::OK, &json!({ "removed": true, "id": named }));
            done(response, named)
        }
        Ok(false) => fault(
            StatusCode::NOT_FOUND,
            "there is no such entry; countersign deny list shows their ids",
        ),
        Err(error) => refused(&error),
    }
}

/// Returns whether the gateway knows the caller that an entry names: from a chain in the path
/// cache, or as a configured API key. The result warns operators who have misspelt a name. Returns
/// `None` if the gateway cannot tell.
fn is_known(snapshot: &Snapshot, target: &DenyTarget) -> Option<bool> {
    let name = target.caller()?;
    match &name {
        CallerName::ApiKey(key) => Some(snapshot.api_keys.names().any(|known| *known == **key)),
        // A change of the deny list removes all tokens from the caches. So the caches cannot show
        // whether the client is known.
        CallerName::Client(_) => None,
        _ => Some(snapshot.path_cache.has_caller(&name)),
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

fn refused(error: &ChangeError) -> Response {
    let status = match error {
        ChangeError::List(error) if error.is_usage() => StatusCode::UNPROCESSABLE_ENTITY,
        ChangeError::Disk => StatusCode::SERVICE_UNAVAILABLE,
        ChangeError::List(_) | ChangeError::Panicked(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    fault(status, &error.to_string())
}

fn fault(status: StatusCode, error: &str) -> Response {
    respond_json(status, &json!({ "error": error }))
}

fn now() -> i64 {
    clock::certificate_now()
}
