//! The response to a refused request: problem details (RFC 9457), or a gRPC status for gRPC
//! callers.

use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Response};
use serde::Serialize;

use super::body::GatewayBody;
use crate::policy::share::CallerLimit;
use crate::reason::ReasonCode;
use crate::wire::refusal::{REASON, REQUEST_ID, Refusal};

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'static str>,
}

/// The properties of a request that determine the form of the response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResponseFormat {
    /// The caller uses gRPC.
    pub(crate) is_grpc: bool,
    /// The method is HEAD, so the response must not have a body.
    pub(crate) is_head: bool,
}

/// Makes the response to a refused request.
pub(crate) fn respond(
    refusal: &Refusal,
    issuer: &str,
    request_id: &str,
    format: ResponseFormat,
) -> Response<GatewayBody> {
    let mut response = if format.is_grpc {
        grpc_status(refusal, request_id)
    } else {
        problem(refusal, issuer, request_id)
    };
    let headers = response.headers_mut();
    headers.insert(
        REASON,
        HeaderValue::from_static(refusal.denial.reason.as_str()),
    );
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(seconds) = retry_after(refusal.denial.reason) {
        headers.insert(RETRY_AFTER, seconds);
    }
    // The response to HEAD has the Content-Length of the response to GET (RFC 9110 section 8.6).
    if format.is_head
        && let GatewayBody::Full(body) = response.body_mut()
        && let Some(body) = body.take()
    {
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    let headers = response.headers_mut();
    if !refusal.allow.is_empty() {
        let methods: Vec<&str> = refusal.allow.iter().map(Method::as_str).collect();
        if let Ok(value) = HeaderValue::from_str(&methods.join(", ")) {
            headers.insert(ALLOW, value);
        }
    }
    for (name, value) in &refusal.fields {
        headers.append(name, value.clone());
    }
    response
}

/// Returns the `Retry-After` value: the seconds after which the same request may succeed.
const fn retry_after(reason: ReasonCode) -> Option<HeaderValue> {
    match reason {
        ReasonCode::Overloaded | ReasonCode::CallerLimit | ReasonCode::ShuttingDown => {
            Some(HeaderValue::from_static("1"))
        }
        // 5 seconds are about the time for which an endpoint stays ejected after several failures
        // in a row.
        ReasonCode::UpstreamUnavailable => Some(HeaderValue::from_static("5")),
        _ => None,
    }
}

fn problem(refusal: &Refusal, issuer: &str, request_id: &str) -> Response<GatewayBody> {
    let reason = refusal.denial.reason;
    let status = refusal.status();
    let body = serde_json::to_vec(&Problem {
        r#type: format!("{issuer}/reasons/{reason}"),
        title: reason.title(),
        status: status.as_u16(),
        code: reason.as_str(),
        detail: &refusal.denial.detail,
        request_id,
        limit: refusal.denial.limit.map(CallerLimit::as_str),
    })
    .unwrap_or_default();
    let mut response = Response::new(GatewayBody::Full(Some(Bytes::from(body))));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    response
}

/// Makes a trailers-only gRPC response with `google.rpc.ErrorInfo`.
fn grpc_status(refusal: &Refusal, request_id: &str) -> Response<GatewayBody> {
    let reason = refusal.denial.reason;
    let mut response = Response::new(GatewayBody::Full(None));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(
        "grpc-status",
        HeaderValue::from(u16::from(reason.grpc_status())),
    );
    if let Ok(value) = HeaderValue::from_str(&percent_encoded(&refusal.denial.detail)) {
        headers.insert("grpc-message", value);
    }
    let details = grpc_details(refusal, request_id);
    if let Ok(value) = HeaderValue::from_str(Base64::encode_string(&details).trim_end_matches('='))
    {
        headers.insert("grpc-status-details-bin", value);
    }
    response
}

/// Percent-encodes `%` and all bytes that are not printable ASCII (gRPC over HTTP/2,
/// "Percent-Encoded").
fn percent_encoded(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (0x20..=0x7e).contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Encodes a `google.rpc.Status` message with one `google.rpc.ErrorInfo` detail.
fn grpc_details(refusal: &Refusal, request_id: &str) -> Vec<u8> {
    let reason = refusal.denial.reason;
    let mut info = Vec::new();
    field(&mut info, 1, reason.as_str().as_bytes());
    field(&mut info, 2, b"countersign");
    let members = [
        ("request_id", Some(request_id)),
        ("limit", refusal.denial.limit.map(CallerLimit::as_str)),
    ];
    for (name, value) in members {
        let Some(value) = value else { continue };
        let mut entry = Vec::new();
        field(&mut entry, 1, name.as_bytes());
        field(&mut entry, 2, value.as_bytes());
        field(&mut info, 3, &entry);
    }
    let mut any = Vec::new();
    field(&mut any, 1, b"type.googleapis.com/google.rpc.ErrorInfo");
    field(&mut any, 2, &info);
    let mut status = vec![0x08, reason.grpc_status()];
    field(&mut status, 2, refusal.denial.detail.as_bytes());
    field(&mut status, 3, &any);
    status
}

/// Appends a length-delimited protobuf field to `message`. The field number must be below 16.
fn field(message: &mut Vec<u8>, number: u8, content: &[u8]) {
    message.push(number << 3 | 2);
    let mut length = content.len();
    while length >= 0x80 {
        message.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
        length >>= 7;
    }
    message.push(u8::try_from(length).unwrap_or_default());
    message.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Denial;

    #[test]
    fn grpc_details_are_protobuf() {
        let refusal = Refusal::new(ReasonCode::CallerNotAllowed, "no");
        let details = grpc_details(&refusal, "id");
        assert_eq!(details.get(..6), Some(&[0x08, 7, 0x12, 2, b'n', b'o'][..]));
        assert!(String::from_utf8_lossy(&details).contains("caller-not-allowed"));
    }

    #[tokio::test]
    async fn the_operators_note_is_not_for_the_caller() {
        let refusal = Refusal::from(Denial {
            note: Some("stolen".into()),
            ..Denial::new(ReasonCode::IdentityDenied, "dns:a is on the deny list")
        });
        assert_eq!(
            refusal.denial.recorded(),
            "dns:a is on the deny list: stolen"
        );
        for is_grpc in [false, true] {
            let format = ResponseFormat {
                is_grpc,
                is_head: false,
            };
            let response = respond(&refusal, "https://gateway.test", "id", format);
            let (head, body) = response.into_parts();
            let body = http_body_util::BodyExt::collect(body).await.unwrap();
            let body = String::from_utf8(body.to_bytes().to_vec()).unwrap();
            let details = head.headers.get("grpc-status-details-bin").map(|value| {
                let unpadded = value.to_str().unwrap();
                base64ct::Base64Unpadded::decode_vec(unpadded).unwrap()
            });
            let details = String::from_utf8_lossy(&details.unwrap_or_default()).into_owned();
            let said = format!("{:?} {body} {details}", head.headers);
            assert!(said.contains("deny") && !said.contains("stolen"), "{said}");
        }
    }

    #[test]
    fn grpc_messages_are_percent_encoded() {
        assert_eq!(percent_encoded("50% é\n"), "50%25 %C3%A9%0A");
    }
}
