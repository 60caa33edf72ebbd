//! Responses with a JSON document that the gateway makes itself.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Response};

use crate::reason::ReasonCode;
use crate::response::body::GatewayBody;
use crate::wire::refusal::{REQUEST_ID, Refusal};

/// Refuses every method except GET and HEAD.
pub(super) fn require_get(method: &Method) -> Result<(), Refusal> {
    if *method == Method::GET || *method == Method::HEAD {
        return Ok(());
    }
    Err(Refusal {
        allow: vec![Method::GET, Method::HEAD],
        ..Refusal::new(
            ReasonCode::MethodNotAllowed,
            format!("{method} is not allowed here"),
        )
    })
}

/// Responds to GET or HEAD with a JSON document.
pub(super) fn respond(document: Bytes, method: &Method, request_id: &str) -> Response<GatewayBody> {
    let length = document.len();
    let body = (*method != Method::HEAD).then_some(document);
    let mut response = Response::new(GatewayBody::Full(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // The response to HEAD has the Content-Length of the response to GET (RFC 9110 section 8.6).
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, value);
    }
    response
}
