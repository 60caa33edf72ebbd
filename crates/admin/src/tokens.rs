//! Removes tokens from the cache, so that a revoked token is not accepted any more.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::actions::done;
use super::operations::Operations;
use super::responses::respond_json;

/// A request to remove tokens from the cache.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Purge {
    /// The hash of one token, as audit lines show it. If absent, all tokens are removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

pub(super) async fn purge(
    State(operations): State<Arc<Operations>>,
    purge: Result<Json<Purge>, JsonRejection>,
) -> Response {
    let Json(purge) = match purge {
        Ok(purge) => purge,
        Err(error) => {
            let error = error.body_text();
            return respond_json(StatusCode::BAD_REQUEST, &json!({ "error": error }));
        }
    };
    let snapshot = operations.snapshot();
    let remembered = || -> usize {
        let issuers = snapshot.token_issuers.iter();
        issuers.map(|issuer| issuer.cache().len()).sum()
    };
    let before = remembered();
    match &purge.hash {
        None => snapshot.forget_tokens(),
        Some(hash) => {
            for issuer in &snapshot.token_issuers {
                issuer.cache().purge_token(hash);
            }
        }
    }
    let forgotten = before.saturating_sub(remembered());
    let issuers = snapshot.token_issuers.len();
    let response = respond_json(
        StatusCode::OK,
        &json!({ "forgotten": forgotten, "issuers": issuers }),
    );
    done(response, format!("{forgotten} judgements are forgotten"))
}
