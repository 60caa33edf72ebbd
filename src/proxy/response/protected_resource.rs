//! `GET /.well-known/oauth-protected-resource/…`: what tokens a resource takes
//! (RFC 9728), for clients that were refused for lack of one.
//!
//! The well-known path stands between the host and the path of the resource. It
//! is answered by the gateway alone, on every host and to everybody who gets as
//! far as a request: there is nothing in it that a refusal does not tell.

use http::{Method, Response};

use super::body::GatewayBody;
use super::whoami::respond;
use crate::authn::challenge::{METADATA_PATH, resource_metadata};
use crate::proxy::stages::authorize::Target;
use crate::proxy::wire::refusal::Refusal;
use crate::reason::ReasonCode;
use crate::route::ProtectedResource;
use crate::snapshot::Snapshot;
use crate::telemetry::record::AuditRecord;

/// The route's name in the audit log.
const ROUTE: &str = "resource-metadata";

/// Whether a checked and decoded path is one of these.
pub(crate) fn is_asked_for(decoded: &str) -> bool {
    described(decoded).is_some()
}

/// The path of the resource whose metadata is asked for.
fn described(path: &str) -> Option<&str> {
    match path.strip_prefix(METADATA_PATH)? {
        "" => Some("/"),
        path if path.starts_with('/') => Some(path),
        _ => None,
    }
}

/// The answer.
pub(crate) fn answer(
    snapshot: &Snapshot,
    method: &Method,
    target: &Target,
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
    let written = described(target.path_and_query.path()).unwrap_or("/");
    let url = format!(
        "https://{}{}",
        target.authority,
        if written == "/" { "" } else { written }
    );
    let by_path = described(&target.decoded)
        .map(|path| snapshot.routes.at(&target.host, path))
        .unwrap_or_default()
        .iter()
        .filter_map(|route| route.resource.as_ref())
        .find(|resource| resource.identifier.is_none());
    // An identifier of its own is found under its own path, whichever route that is.
    let by_identifier = || {
        let mut resources = snapshot
            .routes
            .routes()
            .iter()
            .filter_map(|route| route.resource.as_ref());
        resources.find(|resource| resource.identifier.as_deref() == Some(url.as_str()))
    };
    let Some(resource) = by_identifier().or(by_path) else {
        return Err(Refusal::new(
            ReasonCode::NoRoute,
            format!("nothing at {url} takes tokens"),
        ));
    };
    record.allowed(None);
    let body = document(resource, &url);
    Ok(respond(
        body.to_string().into(),
        *method == Method::HEAD,
        record.request_id(),
    ))
}

fn document(resource: &ProtectedResource, url: &str) -> serde_json::Value {
    let issuers = std::slice::from_ref(&resource.issuer);
    resource_metadata(url, issuers, &resource.scopes, resource.bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_lies_behind_the_well_known_one() {
        assert_eq!(described(METADATA_PATH), Some("/"));
        let of = |path: &str| described(&format!("{METADATA_PATH}{path}")).map(str::to_owned);
        assert_eq!(of("/orders/7").as_deref(), Some("/orders/7"));
        assert_eq!(of("/").as_deref(), Some("/"));
        assert_eq!(of("x"), None);
        assert_eq!(described("/orders"), None);
    }
}
