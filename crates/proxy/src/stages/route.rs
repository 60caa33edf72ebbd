//! Selects the route of a request, and makes the authority and path that the service receives.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode};

use super::target::Target;
use crate::reason::ReasonCode;
use crate::route::{Route, RouteTable, Selected};
use crate::wire::path_readings;
use crate::wire::refusal::Refusal;

/// Selects the route of a request.
pub fn select<'r>(
    routes: &'r RouteTable,
    method: &Method,
    target: &Target,
) -> Result<&'r Arc<Route>, Refusal> {
    let (host, path) = (&target.host, &target.decoded_path);
    let selected = path_readings::select(routes, host, path, target.path_forms, method)?;
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
    let Some(rewrite) = &route.rewrite else {
        return Ok(requested.clone());
    };
    let path = rewrite.apply(requested).ok_or_else(|| {
        Refusal::new(ReasonCode::MalformedRequest, "the path cannot be rewritten")
    })?;
    if path.as_str().starts_with("//") {
        return Err(Refusal::new(
            ReasonCode::MalformedRequest,
            "the rewritten path begins with '//', which services can take for a host",
        ));
    }
    Ok(path)
}
