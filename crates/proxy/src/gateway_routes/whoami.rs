//! `GET /.well-known/countersign/whoami`: tells a caller which identity the gateway has verified.
//!
//! The gateway responds after it has checked the connection and the request's target, but before it
//! selects a route. Therefore no route can match this path, and no service receives the request.
//! The response contains only data about the caller, and the request changes nothing.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use bytes::Bytes;
use http::{Method, Response};
use serde::Serialize;

use super::json;
use crate::authn::Outcome;
use crate::authn::certificate::CertificateAuthenticator;
use crate::clock;
use crate::identity::PeerIdentity;
use crate::reason::ReasonCode;
use crate::response::body::GatewayBody;
use crate::route::WHOAMI_PATH;
use crate::stages::RequestContext;
use crate::telemetry::record::AuditRecord;
use crate::wire::refusal::Refusal;

/// The value of `route` in the audit lines of whoami requests.
const ROUTE: &str = "whoami";

#[derive(Serialize)]
struct Report<'a> {
    caller: String,
    trust_domain: &'a str,
    certificate: Certificate<'a>,
    /// The revocation status that the last verification of the caller's certificate found.
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
    /// The earliest `notAfter` in the certificate path. The gateway ends the connection at this
    /// time.
    path_not_after: String,
}

/// Returns whether a checked and decoded path is [`WHOAMI_PATH`].
pub(crate) fn is_requested(decoded: &str) -> bool {
    decoded == WHOAMI_PATH
}

/// Responds to a caller with a certificate that is still valid. Otherwise returns a refusal.
pub(crate) fn respond(
    context: RequestContext<'_>,
    method: &Method,
    record: &mut AuditRecord,
) -> Result<Response<GatewayBody>, Refusal> {
    record.answered_here(ROUTE);
    json::require_get(method)?;
    let peer = match (
        CertificateAuthenticator::judge(context.proof),
        context.proof,
    ) {
        (Outcome::Denied(denial), _) => return Err(denial.into()),
        (Outcome::Authenticated(_), Some(proof)) => &proof.identity,
        _ => {
            return Err(Refusal::new(
                ReasonCode::NoCertificate,
                "the connection has no client certificate to tell about",
            ));
        }
    };
    record.allowed(None);
    let body = report(peer, context.connection.server_name(), record.request_id());
    Ok(json::respond(body, method, record.request_id()))
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
