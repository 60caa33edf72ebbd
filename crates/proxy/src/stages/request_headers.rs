//! Adds the gateway's header fields to a forwarded request. The assertion is added in `forward`.

use http::header::{AUTHORIZATION, VIA};
use http::{HeaderMap, HeaderValue, Version, request};

use super::RequestContext;
use crate::assertion::signer::token_octets;
use crate::authn::{Field, Presented};
use crate::identity::Principal;
use crate::policy::Permit;
use crate::route::Route;
use crate::telemetry::record::AuditRecord;
use crate::wire::refusal::REQUEST_ID;
use crate::wire::trace_context;

/// If the route forwards access tokens, adds the caller's token to `headers`. All credentials were
/// removed from `headers` before.
pub(crate) fn add_token(
    headers: &mut HeaderMap,
    route: &Route,
    permit: &Permit,
    presented: &Presented,
) {
    if !route.forward_token || route.authenticators.is_empty() {
        return;
    }
    let token = permit.principal().and_then(Principal::token);
    if let (Some(_), Field::One(token)) = (token, &presented.authorization) {
        headers.insert(AUTHORIZATION, token.clone());
    }
}

/// Adds the fields that describe the request and its caller. `parts.version` is still the HTTP
/// version of the caller's request. `authority` is the authority in the caller's request.
pub(crate) fn add(
    parts: &mut request::Parts,
    context: RequestContext<'_>,
    route: &Route,
    permit: &Permit,
    authority: &str,
    record: &mut AuditRecord,
) {
    let connection = context.connection;
    let upstream = route.upstream.config();
    let headers = &mut parts.headers;
    if let Ok(value) = HeaderValue::from_str(record.request_id()) {
        headers.insert(REQUEST_ID, value);
    }
    // RFC 9110 section 7.6.3: a `Via` entry has the version of the received request and a pseudonym
    // of the proxy.
    headers.append(
        VIA,
        HeaderValue::from_static(match parts.version {
            Version::HTTP_2 => "2.0 countersign",
            Version::HTTP_10 => "1.0 countersign",
            _ => "1.1 countersign",
        }),
    );
    let cache = connection.forwarded_headers();
    let peer = connection.facts().peer;
    cache.add_address(headers, upstream.forwarded, peer, authority);
    // The certificate fields are added only if the certificate authenticated this request.
    // Otherwise the service must not learn which certificate the connection has.
    if upstream.certificate_fields.any()
        && permit.principal().and_then(Principal::peer).is_some()
        && let (Some(proof), Some(chain)) = (connection.proof(), connection.chain())
    {
        let leaf = proof.identity.leaf();
        cache.add_certificate(headers, upstream.certificate_fields, chain, leaf);
    }
    let trace = trace_context::propagate(headers, upstream.trace, || {
        token_octets(record.request_id())
    });
    record.trace(trace);
}
