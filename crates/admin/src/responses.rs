//! Responses in plain text, HTML and JSON.

use axum::Json;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

pub(super) const NO_STORE: &str = "no-store";
pub(super) const HTML: &str = "text/html; charset=utf-8";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";
pub(super) const JSON: &str = "application/json";

/// Creates a response whose body has one of the supported media types.
pub(super) fn respond(
    status: StatusCode,
    media_type: &'static str,
    caching: &'static str,
    body: String,
) -> Response {
    (status, [(CACHE_CONTROL, caching)], typed(media_type), body).into_response()
}

/// Returns the header fields that describe a body of this media type.
pub(super) const fn typed(media_type: &'static str) -> [(HeaderName, &'static str); 2] {
    [
        (CONTENT_TYPE, media_type),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ]
}

/// Creates a response with a JSON body.
pub(super) fn respond_json(status: StatusCode, document: &impl Serialize) -> Response {
    let caching = [(CACHE_CONTROL, NO_STORE)];
    (status, caching, Json(document)).into_response()
}

pub(super) async fn not_found() -> Response {
    respond(
        StatusCode::NOT_FOUND,
        TEXT,
        NO_STORE,
        "there is nothing here".to_owned(),
    )
}
