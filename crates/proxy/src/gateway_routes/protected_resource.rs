//! `GET /.well-known/oauth-protected-resource/…`: tells clients which tokens a resource accepts
//! (RFC 9728). A client without a token gets a refusal, and then fetches this document.
//!
//! The well-known path is placed between the host and the path of the resource. The gateway
//! responds on every host, to every caller that passes the checks before route selection. The
//! document names the token issuer and the scopes, and says whether tokens are bound to a
//! certificate.

use http::{Method, Response};

use super::json;
use crate::authn::challenge::{METADATA_PATH, resource_metadata};
use crate::reason::ReasonCode;
use crate::response::body::GatewayBody;
use crate::route::{PathEncodings, ProtectedResource};
use crate::snapshot::Snapshot;
use crate::stages::target::Target;
use crate::telemetry::record::AuditRecord;
use crate::wire::refusal::Refusal;

/// The value of `route` in the audit lines of requests for the metadata of a resource.
const ROUTE: &str = "resource-metadata";

/// Returns whether a checked and decoded path is the path of a metadata document.
pub(crate) fn is_requested(decoded: &str) -> bool {
    resource_path(decoded).is_some()
}

/// Returns the path of the resource whose metadata is requested. Returns `None` if `path` is not
/// the path of a metadata document.
fn resource_path(path: &str) -> Option<&str> {
    match path.strip_prefix(METADATA_PATH)? {
        "" => Some("/"),
        path if path.starts_with('/') => Some(path),
        _ => None,
    }
}

/// Responds with the metadata of a protected resource.
pub(crate) fn respond(
    snapshot: &Snapshot,
    method: &Method,
    target: &Target,
    record: &mut AuditRecord,
) -> Result<Response<GatewayBody>, Refusal> {
    record.answered_here(ROUTE);
    json::require_get(method)?;
    let path = resource_path(target.path_and_query.path()).unwrap_or("/");
    let url = format!(
        "https://{}{}",
        target.authority,
        if path == "/" { "" } else { path }
    );
    let by_path = resource_path(&target.decoded_path)
        .map(|path| snapshot.routes.at(&target.host, path))
        .unwrap_or_default()
        .iter()
        .filter(|route| target.require(route.path_encoding).is_ok())
        .filter_map(|route| route.resource.as_ref())
        .find(|resource| resource.identifier.is_none());
    // If a resource has a configured identifier, clients ask for its metadata under the path of
    // that identifier. This path may differ from the paths of the resource's route.
    let by_identifier = || {
        let mut resources = snapshot
            .routes
            .routes()
            .iter()
            .filter_map(|route| route.resource.as_ref());
        resources.find(|resource| resource.identifier.as_deref() == Some(url.as_str()))
    };
    let Some(resource) = by_identifier().or(by_path) else {
        target.require(PathEncodings::STRICT)?;
        return Err(Refusal::new(
            ReasonCode::NoRoute,
            format!("nothing at {url} takes tokens"),
        ));
    };
    record.allowed(None);
    let body = document(resource, &url);
    Ok(json::respond(
        body.to_string().into(),
        method,
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
        assert_eq!(resource_path(METADATA_PATH), Some("/"));
        let of = |path: &str| resource_path(&format!("{METADATA_PATH}{path}")).map(str::to_owned);
        assert_eq!(of("/orders/7").as_deref(), Some("/orders/7"));
        assert_eq!(of("/").as_deref(), Some("/"));
        assert_eq!(of("x"), None);
        assert_eq!(resource_path("/orders"), None);
    }
}
