//! What the gateway writes into the head of a forwarded request, beside the
//! assertion.

use http::header::VIA;
use http::{HeaderName, HeaderValue, Version, request};

use crate::assertion::signer::token_octets;
use crate::identity::Principal;
use crate::policy::Permit;
use crate::proxy::connection::Connection;
use crate::proxy::wire::forwarded_headers;
use crate::proxy::wire::trace_context;
use crate::telemetry::record::AuditRecord;
use crate::upstream::UpstreamConfig;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Marks a request on its way to a service. `parts` still has the version in which
/// it was received, `authority` is the one that the caller asked for.
pub(crate) fn mark(
    parts: &mut request::Parts,
    connection: &Connection,
    permit: &Permit,
    upstream: &UpstreamConfig,
    authority: &str,
    record: &mut AuditRecord,
) {
    let headers = &mut parts.headers;
    if let Ok(value) = HeaderValue::from_str(record.request_id()) {
        headers.insert(REQUEST_ID, value);
    }
    // RFC 9110 section 7.6.3: the protocol it was received in, and a pseudonym.
    headers.append(
        VIA,
        HeaderValue::from_static(match parts.version {
            Version::HTTP_2 => "2.0 countersign",
            Version::HTTP_10 => "1.0 countersign",
            _ => "1.1 countersign",
        }),
    );
    let told = connection.forwarded_headers();
    let peer = connection.facts().peer;
    forwarded_headers::say_address(headers, upstream.forwarded, (told, peer), authority);
    // Only a certificate that the route has looked at: whoever else came over this
    // connection is nobody's business.
    if upstream.certificate_fields.any()
        && permit.principal().and_then(Principal::peer).is_some()
        && let (Some(proof), Some(chain)) = (connection.proof(), connection.chain())
    {
        let shown = (chain, proof.identity.leaf());
        forwarded_headers::say_certificate(headers, upstream.certificate_fields, told, shown);
    }
    let trace = trace_context::follow(headers, upstream.trace, || {
        token_octets(record.request_id())
    });
    record.trace(trace);
}
