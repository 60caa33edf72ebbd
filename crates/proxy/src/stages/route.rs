//! Selects the route of a request, and makes the authority and path that the service receives.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode};

use super::target::Target;
use crate::reason::ReasonCode;
use crate::route::{PathEncodings, Route, RouteTable, Selected};
use crate::wire::path::without_parameters;
use crate::wire::refusal::Refusal;

/// Selects the route of a request.
pub fn select<'r>(
    routes: &'r RouteTable,
    method: &Method,
    target: &Target,
) -> Result<&'r Arc<Route>, Refusal> {
    let find = |path: &str| routes.select(&target.host, path, method);
    let selected = find(&target.decoded_path);
    if let Some(bare) = without_parameters(&target.decoded_path) {
        // Some servers remove path parameters (`;name=value`) before they match a path, and other
        // servers do not. The path with parameters and the path without them must therefore select
        // the same route.
        let same = match (&selected, &find(&bare)) {
            (Selected::Route(a), Selected::Route(b)) => Arc::ptr_eq(a, b),
            (Selected::Nothing, Selected::Nothing) => true,
            _ => false,
        };
        if !same {
            return Err(Refusal::new(
                ReasonCode::MalformedRequest,
                "the path's parameters after ';' make it ambiguous which route it means",
            ));
        }
    }
    // The form of the path has no influence on which route is selected: a request never falls
    // through to another route that would allow it.
    target.require(match &selected {
        Selected::Route(route) => route.path_encoding,
        _ => PathEncodings::STRICT,
    })?;
    match selected {
        Selected::Route(route) => Ok(route),
        Selected::Nothing => Err(Refusal::new(
            ReasonCode::NoRoute,
            format!(
                "no route matches {} {}",
                target.host,
                target.path_and_query.path()
            ),
        )),
        Selected::MethodNotAllowed(allow) => Err(Refusal {
            // An empty list means that the matching routes accept all ordinary methods. The
            // method is then TRACE or unregistered, so the status is 501.
            status: allow.is_empty().then_some(StatusCode::NOT_IMPLEMENTED),
            allow,
            ..Refusal::new(
                ReasonCode::MethodNotAllowed,
                format!("{method} is not allowed here"),
            )
        }),
    }
}

/// Returns the authority that the service receives and that assertions contain. If the upstream has
/// a configured `host`, this is the authority. Otherwise it is `requested`, the authority in the
/// caller's request.
pub fn forwarded_authority<'a>(
    route: &'a Route,
    requested: &'a str,
) -> Result<(&'a str, HeaderValue), Refusal> {
    let authority = match &route.upstream.config().host {
        Some(host) => host,
        None => requested,
    };
    let value = HeaderValue::from_str(authority)
        .map_err(|_| Refusal::new(ReasonCode::MalformedRequest, "the host is malformed"))?;
    Ok((authority, value))
}

/// Returns the path and query that the service receives and that assertions contain. Policy decides
/// about `requested`, never about the rewritten path.
pub fn forwarded_path(route: &Route, requested: &PathAndQuery) -> Result<PathAndQuery, Refusal> {
    match &route.rewrite {
        None => Ok(requested.clone()),
        Some(rewrite) => rewrite.apply(requested).ok_or_else(|| {
            Refusal::new(ReasonCode::MalformedRequest, "the path cannot be rewritten")
        }),
    }
}
