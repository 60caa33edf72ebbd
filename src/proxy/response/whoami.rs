//! `GET /.well-known/countersign/whoami`: a verified caller learns how the
//! gateway sees it.
//!
//! Answered after every check of the request itself and before any route, by
//! the gateway alone: no route can take the path, and no service ever sees it.
//! It tells callers about themselves only, and changes nothing.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Method, Response};
use serde::Serialize;

use super::body::GatewayBody;
use crate::authn::Outcome;
use crate::authn::certificate::{CertificateAuthenticator, ConnectionProof};
use crate::clock;
use crate::identity::PeerIdentity;
use crate::proxy::connection::Connection;
use crate::proxy::wire::refusal::Refusal;
use crate::reason::ReasonCode;
use crate::route::WHOAMI_PATH;
use crate::telemetry::record::AuditRecord;

/// The route's name in the audit log.
const ROUTE: &str = "whoami";

#[derive(Serialize)]
struct Report<'a> {
    caller: String,
    trust_domain: &'a str,
    certificate: Certificate<'a>,
    /// How revocation was established when the caller was last verified.
    revocation: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    crl_this_update: Option<String>,
    server_name: Option<&'a str>,
    request_id: &'a str,
}

#[derive(Serialize)]
struct Certificate<'a> {
    #[serde(rename = "x5t#S256")]
    thumbprint: String,
    serial: String,
    issuer: &'a str,
    not_before: String,
    not_after: String,
    /// The earliest end of the path: connections end then.
    path_not_after: String,
}

/// Whether a checked and decoded path is this one.
pub(crate) fn is_asked_for(decoded: &str) -> bool {
    decoded == WHOAMI_PATH
}

/// The answer, for callers with a certificate that still holds.
pub(crate) fn answer(
    connection: &Connection,
    proof: Option<&ConnectionProof>,
    method: &Method,
    record: &mut AuditRecord,
) -> Result<Response<GatewayBody>, Refusal> {
    record.answered_here(ROUTE);
    if *method != Method::GET && *method != Method::HEAD {
        return Err(Refusal {
            allow: vec![Method::GET, Method::HEAD],
            ..Refusal::new(
                ReasonCode::MethodNotAllowed,
                format!("{method} is not allowed here"),
            )
        });
    }
    let peer = match (CertificateAuthenticator::judge(proof), proof) {
        (Outcome::Rejected(denial), _) => return Err(denial.into()),
        (Outcome::Authenticated(_), Some(proof)) => &proof.identity,
        _ => {
            return Err(Refusal::new(
                ReasonCode::NoCertificate,
                "the connection has no client certificate to tell about",
            ));
        }
    };
    record.allowed(None);
    let body = report(peer, connection.server_name(), record.request_id());
    Ok(respond(body, *method == Method::HEAD, record.request_id()))
}

fn report(peer: &PeerIdentity, server_name: Option<&str>, request_id: &str) -> Bytes {
    let leaf = peer.leaf();
    let report = Report {
        caller: peer.caller().to_string(),
        trust_domain: peer.trust_domain().as_str(),
        certificate: Certificate {
            thumbprint: Base64UrlUnpadded::encode_string(&leaf.thumbprint),
            serial: leaf.serial_hex(),
            issuer: &leaf.issuer,
            not_before: clock::rfc3339(leaf.not_before),
            not_after: clock::rfc3339(leaf.not_after),
            path_not_after: clock::rfc3339(peer.path_not_after()),
        },
        revocation: peer.revocation().as_str(),
        crl_this_update: peer.crl_this_update().map(clock::rfc3339),
        server_name,
        request_id,
    };
    serde_json::to_vec(&report).unwrap_or_default().into()
}

pub(super) fn respond(body: Bytes, head: bool, request_id: &str) -> Response<GatewayBody> {
    let length = body.len();
    let mut response = Response::new(GatewayBody::Full((!head).then_some(body)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // The length is that of the body GET would have had (RFC 9110 section 8.6).
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(HeaderName::from_static("x-request-id"), value);
    }
    response
}
