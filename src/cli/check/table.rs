//! The routes, as `countersign check` shows them.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::identity::Method;
use crate::policy::rule::Authentication;
use crate::route::{Binding, Route};
use crate::snapshot::Snapshot;

const HEADER: [&str; 9] = [
    "ROUTE",
    "HOSTS",
    "PATHS",
    "METHODS",
    "CALLERS",
    "CREDENTIALS",
    "LIMITS",
    "REWRITE",
    "UPSTREAM",
];

/// Appends the table of all routes.
pub(super) fn push_routes(text: &mut String, snapshot: &Snapshot) {
    let routes = snapshot.routes.routes().iter();
    let rows: Vec<[String; HEADER.len()]> = routes.map(|route| row(route, snapshot)).collect();
    let header = HEADER.map(str::to_owned);
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            let cells = std::iter::once(&header).chain(&rows);
            cells
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for row in std::iter::once(&header).chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push('\n');
        text.push_str(line.trim_end());
    }
}

fn row(route: &Route, snapshot: &Snapshot) -> [String; HEADER.len()] {
    let callers = match route.rule.authentication {
        Authentication::None => "anybody".to_owned(),
        _ if route.rule.except.is_empty() => joined(&route.rule.callers, ""),
        _ => format!(
            "{} except {}",
            joined(&route.rule.callers, ""),
            joined(&route.rule.except, "")
        ),
    };
    let upstream = match route.rule.authentication {
        Authentication::None => format!("{}, no assertion", route.upstream.name()),
        _ => format!(
            "{}, audience {}, per {}",
            route.upstream.name(),
            route.audience,
            binding(route.binding)
        ),
    };
    let limits: Vec<String> = limits(route)
        .map(|(per, limit)| format!("{limit} per {per}"))
        .collect();
    let rewrite = route.rewrite.as_ref();
    [
        route.name.clone(),
        joined(&route.hosts, "any"),
        joined(&route.paths, "any"),
        joined(&route.methods, "any"),
        callers,
        credentials(route, snapshot),
        match limits.is_empty() {
            true => "none".to_owned(),
            false => limits.join("; "),
        },
        rewrite.map_or_else(|| "none".to_owned(), ToString::to_string),
        upstream,
    ]
}

/// Describes the credentials that a route accepts: for tokens their issuer and scopes, for API keys
/// the names of the keys.
fn credentials(route: &Route, snapshot: &Snapshot) -> String {
    let authentication = route.rule.authentication;
    let separator = match authentication {
        Authentication::None => return "none".to_owned(),
        Authentication::Certificate | Authentication::All(_) => " and ",
        Authentication::Any(_) => " or ",
    };
    let described = authentication.methods().iter().map(|method| match method {
        Method::Certificate => "certificate".to_owned(),
        Method::ApiKey => match snapshot.api_keys.names_on(&route.name) {
            names if names.is_empty() => "API key (there is none)".to_owned(),
            names => format!("API key ({})", names.join(", ")),
        },
        Method::Token => match &route.resource {
            None => "token".to_owned(),
            Some(resource) if resource.scopes.is_empty() => {
                format!("token of {}", resource.issuer)
            }
            Some(resource) => format!(
                "token of {} with {}",
                resource.issuer,
                resource.scopes.join(" ")
            ),
        },
    });
    described.collect::<Vec<_>>().join(separator)
}

fn limits(route: &Route) -> impl Iterator<Item = (&'static str, String)> {
    let limits = route.limits.iter();
    limits.map(|limit| (limit.per.as_str(), limit.limit.to_string()))
}

fn joined<T: ToString>(items: &[T], none: &str) -> String {
    if items.is_empty() {
        return none.to_owned();
    }
    strings(items).join(" ")
}

fn strings<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

const fn binding(binding: Binding) -> &'static str {
    match binding {
        Binding::Request => "request",
        Binding::Caller => "caller",
    }
}

/// Returns all routes as JSON.
pub(super) fn routes(snapshot: &Snapshot) -> Vec<Value> {
    let routes = snapshot.routes.routes().iter();
    routes.map(|route| document(route, snapshot)).collect()
}

fn document(route: &Route, snapshot: &Snapshot) -> Value {
    let authenticated = route.rule.authentication != Authentication::None;
    let methods = route.rule.authentication.methods();
    let token = route
        .resource
        .as_ref()
        .filter(|_| methods.contains(Method::Token));
    let limits: Vec<Value> = limits(route)
        .map(|(per, limit)| json!({ "per": per, "limit": limit }))
        .collect();
    json!({
        "name": route.name,
        "hosts": strings(&route.hosts),
        "paths": strings(&route.paths),
        "methods": strings(&route.methods),
        "path_encoding": route.path_encoding.to_string(),
        "authenticate": route.rule.authentication.to_string(),
        "callers": strings(&route.rule.callers),
        "except": strings(&route.rule.except),
        "token": token.map(|token| json!({
            "issuer": token.issuer,
            "scopes": token.scopes,
            "bound": token.bound,
        })),
        "api_keys": methods
            .contains(Method::ApiKey)
            .then(|| snapshot.api_keys.names_on(&route.name)),
        "limits": limits,
        "rewrite": route.rewrite.as_ref().map(ToString::to_string),
        "upstream": route.upstream.name(),
        "audience": authenticated.then_some(&route.audience),
        "binding": authenticated.then_some(binding(route.binding)),
        "assertion": authenticated.then_some(route.detail.as_str()),
    })
}
