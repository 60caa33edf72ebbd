//! Routes: select a rule and an upstream by host, path and method.
//!
//! The most specific route is selected. An exact host precedes a wildcard host, and a wildcard host
//! precedes any host. An exact path precedes a path pattern, and a longer pattern precedes a
//! shorter one. The method is compared last. The order of routes in the file has no meaning. If two
//! routes are equally specific, the configuration is rejected. If no route with the selected host
//! and path allows the method, the gateway does not try less specific routes.
//!
//! - `path_encoding`: the unusual forms of paths that a route accepts
//! - `rewrite`: the change that a route may make to a path
//! - `upgrade`: the protocols to which a connection may switch

mod path_encoding;
mod rewrite;
mod upgrade;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, OnceLock};

use http::{HeaderValue, Method};

pub use self::path_encoding::{PathEncoding, PathEncodings};
pub use self::rewrite::{PathRewrite, RewriteError};
pub use self::upgrade::{UpgradeProtocol, UpgradeProtocolError, carries_requests};
use crate::assertion::{AssertionDetail, Recipient};
use crate::authn::Authenticators;
use crate::identity::Method as Credential;
use crate::identity::pattern::{HostPattern, PathPattern, Segment};
use crate::policy::Rule;
use crate::policy::throttle::RouteLimit;
use crate::telemetry::metrics::{Metrics, RouteMetrics};
use crate::upstream::Upstream;

/// The path at which the gateway tells callers their identity. The path exists on every host, and
/// no route is selected for it.
pub const WHOAMI_PATH: &str = "/.well-known/countersign/whoami";

/// Determines for which requests an assertion is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// The assertion is valid for one request only.
    Request,
    /// The assertion is valid for all requests of the caller until it expires.
    Caller,
}

/// A route: the requests that it matches, their rule, and their upstream.
#[derive(Debug)]
pub struct Route {
    /// The route's name in the configuration.
    pub name: String,
    /// The host patterns of the route. Empty for any host.
    pub hosts: Vec<HostPattern>,
    /// The path patterns of the route. There is at least one.
    pub paths: Vec<PathPattern>,
    /// The methods that the route allows. If empty, all registered methods except TRACE.
    pub methods: Vec<Method>,
    /// The rule that decides which callers may use the route.
    pub rule: Rule,
    /// The authenticators of the route, which check tokens and API keys. Empty if the connection's
    /// certificate is sufficient, or if the route requires no authentication.
    pub authenticators: Authenticators,
    /// The metadata that tells clients which tokens the route accepts (RFC 9728). `None` if it
    /// accepts no tokens.
    pub resource: Option<ProtectedResource>,
    /// The rate limits of the route.
    pub limits: Vec<RouteLimit>,
    /// Whether the caller's accepted token is forwarded to the service.
    pub forward_token: bool,
    /// The upstream that receives the requests.
    pub upstream: Arc<Upstream>,
    /// The `aud` claim of assertions for the service.
    pub audience: String,
    /// Determines for which requests an assertion is valid.
    pub binding: Binding,
    /// How much assertions say about the caller's certificate.
    pub detail: AssertionDetail,
    /// The unusual forms of paths that the route accepts.
    pub path_encoding: PathEncodings,
    /// The change of the path before a request is forwarded. `None` if there is no change.
    pub rewrite: Option<PathRewrite>,
    /// `Some` if assertions are bound to the body. The number is the maximum size of the body in
    /// bytes.
    pub bind_body: Option<u64>,
    /// Whether new assertions keep the `txn` claim of an assertion that the caller presents.
    pub continue_transaction: bool,
    /// The protocols to which a request of this route may switch its connection (`Upgrade`). Empty
    /// for most routes.
    pub upgrade: Vec<UpgradeProtocol>,
    /// The request counters of the route, for the metrics.
    pub meter: RouteMeter,
}

impl Route {
    /// Returns the audience of this route's assertions, and how much detail they contain.
    #[must_use]
    pub fn recipient(&self) -> Recipient<'_> {
        Recipient {
            audience: &self.audience,
            detail: self.detail,
        }
    }

    /// Whether the route admits the same requests as `other`, apart from host and path: it is the
    /// same route, or has an equal rule, equal authenticators, equal methods and equal `bind_body`.
    /// API keys can be valid on one of two routes only, and each route counts its own rate limits.
    /// Other routes that have either never admit alike.
    #[must_use]
    pub fn admits_alike(&self, other: &Self) -> bool {
        let methods = |route: &Self| -> HashSet<Method> { route.methods.iter().cloned().collect() };
        self.name == other.name
            || (self.rule == other.rule
                && !self
                    .rule
                    .authentication
                    .methods()
                    .contains(Credential::ApiKey)
                && self.authenticators.rules() == other.authenticators.rules()
                && methods(self) == methods(other)
                && self.bind_body == other.bind_body
                && self.limits.is_empty()
                && other.limits.is_empty())
    }

    /// Returns those protocols in an `Upgrade` field that the route allows.
    pub fn allowed_upgrades<'a>(
        &'a self,
        protocols: &'a HeaderValue,
    ) -> impl Iterator<Item = &'a str> {
        let names = protocols.to_str().unwrap_or_default().split(',');
        let is_allowed = |name: &&str| self.upgrade.iter().any(|allowed| allowed.is(name));
        names.map(str::trim).filter(is_allowed)
    }
}

/// The metadata about a route's tokens that clients can fetch (RFC 9728).
#[derive(Debug, Clone)]
pub struct ProtectedResource {
    /// The configured identifier of the resource. `None` if the URL of the request is used as the
    /// identifier.
    pub identifier: Option<String>,
    /// The `iss` claim of the tokens that the route accepts.
    pub issuer: String,
    /// The scopes that the route requires.
    pub scopes: Vec<String>,
    /// Whether tokens must be bound to the client's certificate.
    pub bound: bool,
}

/// The counters of a route's requests. The gateway sets them before it puts the route's snapshot
/// into service.
#[derive(Debug, Default)]
pub struct RouteMeter(OnceLock<Arc<RouteMetrics>>);

impl RouteMeter {
    /// Returns the counters. Returns `None` if they were not set yet.
    #[must_use]
    pub fn counters(&self) -> Option<&Arc<RouteMetrics>> {
        self.0.get()
    }
}

/// The error for two routes that match the same requests and are equally specific.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "routes {first} and {second} match {what} equally well; make one of them more specific or give them different methods"
)]
pub struct RouteTie {
    /// Name of the route that is earlier in the configuration file.
    pub first: String,
    /// Name of the route that is later in the configuration file.
    pub second: String,
    /// The host and the path patterns for which the routes `first` and `second` are equally
    /// specific.
    pub what: String,
}

/// The result of selecting a route by host, path and method.
#[derive(Debug)]
pub enum Selected<'a> {
    /// The route that matches.
    Route(&'a Arc<Route>),
    /// At least one route matches the host and path, but none of these routes allows the method.
    /// The list contains the methods that these routes name.
    MethodNotAllowed(Vec<Method>),
    /// No route matches.
    Nothing,
}

/// All routes, indexed by host and path segments. The cost of a look-up therefore does not grow
/// with the number of routes.
#[derive(Default)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    exact_hosts: HashMap<Box<str>, PathTree>,
    wildcard_hosts: HashMap<Box<str>, PathTree>,
    any_host: PathTree,
    by_audience: HashMap<Box<str>, Vec<Arc<Route>>>,
    continues_transactions: bool,
    keeps_headers: bool,
}

/// The routes of one host, as a tree with one level for each path segment.
#[derive(Default)]
struct PathTree {
    /// The subtrees for literal pattern segments, by segment.
    literal: HashMap<Box<str>, Self>,
    /// The subtree for the pattern segment `*`, which matches any single segment.
    any: Option<Box<Self>>,
    /// Routes whose pattern ends at this node.
    here: Vec<Arc<Route>>,
    /// Routes whose pattern ends at this node with `/**`.
    below: Vec<Arc<Route>>,
}

/// The precedence of a path pattern. If several patterns match a path, the pattern with the
/// greatest rank is selected. An exact path has a greater rank than any pattern. Among patterns,
/// the number of segments is compared first, then the number of literal segments. Finally, a
/// pattern without `/**` has the greater rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// The pattern has only literal segments and no `/**`.
    exact: bool,
    segments: usize,
    literals: usize,
    /// The pattern does not end with `/**`.
    closed: bool,
}

impl Rank {
    fn of(pattern: &PathPattern) -> Self {
        let literals = pattern
            .segments()
            .iter()
            .filter(|segment| matches!(segment, Segment::Literal(_)))
            .count();
        Self {
            exact: pattern.is_exact(),
            segments: pattern.segments().len(),
            literals,
            closed: !pattern.and_below(),
        }
    }
}

impl RouteTable {
    /// Builds the table.
    ///
    /// # Errors
    /// Returns an error with all pairs of routes that are equally specific for the same requests.
    pub fn build(routes: Vec<Route>) -> Result<Self, Vec<RouteTie>> {
        let ties = find_ties(&routes);
        if !ties.is_empty() {
            return Err(ties);
        }
        let mut table = Self::default();
        for route in routes {
            let route = Arc::new(route);
            for path in &route.paths {
                if route.hosts.is_empty() {
                    table.any_host.insert(path, &route);
                }
                for host in &route.hosts {
                    let tree = match host {
                        HostPattern::Exact(name) => {
                            table.exact_hosts.entry(name.clone()).or_default()
                        }
                        HostPattern::Wildcard(suffix) => {
                            table.wildcard_hosts.entry(suffix.clone()).or_default()
                        }
                    };
                    tree.insert(path, &route);
                }
            }
            table.continues_transactions |= route.continue_transaction;
            table.keeps_headers |= route.upstream.config().header_rules.keeps_any();
            table
                .by_audience
                .entry(route.audience.as_str().into())
                .or_default()
                .push(Arc::clone(&route));
            table.routes.push(route);
        }
        Ok(table)
    }

    /// Returns all routes, in the order of the configuration file.
    #[must_use]
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Returns whether at least one route has an upstream that may receive forgeable header fields.
    /// By default, the gateway removes these fields.
    #[must_use]
    pub const fn keeps_headers(&self) -> bool {
        self.keeps_headers
    }

    /// Returns whether at least one route has `continue_transaction` set.
    #[must_use]
    pub const fn continues_transactions(&self) -> bool {
        self.continues_transactions
    }

    /// Returns the upstreams of all routes whose assertions have the audience `audience`.
    pub fn upstreams_of(&self, audience: &str) -> impl Iterator<Item = &Arc<Upstream>> {
        let routes = self.by_audience.get(audience).into_iter().flatten();
        routes.map(|route| &route.upstream)
    }

    /// Registers the counters of every route.
    pub fn meter(&self, metrics: &Metrics) {
        for route in &self.routes {
            route
                .meter
                .0
                .get_or_init(|| metrics.route(&route.name, route.upstream.name()));
        }
    }

    /// Selects a route. `host` must be normalized (lower case, no port). `path` must be decoded and
    /// begin with a slash.
    #[must_use]
    pub fn select(&self, host: &str, path: &str, method: &Method) -> Selected<'_> {
        match self.at(host, path) {
            [] => Selected::Nothing,
            routes => by_method(routes, method),
        }
    }

    /// Returns the routes with the most specific matching host and path pattern. Does not compare
    /// the method. Returns an empty slice if no route matches.
    #[must_use]
    pub fn at(&self, host: &str, path: &str) -> &[Arc<Route>] {
        let wildcard = host
            .split_once('.')
            .and_then(|(_, suffix)| self.wildcard_hosts.get(suffix));
        let trees = [self.exact_hosts.get(host), wildcard, Some(&self.any_host)];
        let found = trees.into_iter().flatten().find_map(|tree| tree.find(path));
        found.unwrap_or_default()
    }
}

fn by_method<'a>(routes: &'a [Arc<Route>], method: &Method) -> Selected<'a> {
    let allowing = routes.iter().find(|route| route.methods.contains(method));
    let any = routes
        .iter()
        .find(|route| route.methods.is_empty() && is_ordinary(method));
    match allowing.or(any) {
        Some(route) => Selected::Route(route),
        None => {
            let mut allowed: Vec<Method> = Vec::new();
            for method in routes.iter().flat_map(|route| &route.methods) {
                if !allowed.contains(method) {
                    allowed.push(method.clone());
                }
            }
            Selected::MethodNotAllowed(allowed)
        }
    }
}

/// Returns whether a method is in IANA's registry of HTTP methods (RFC 9110 section 16.1.1), and is
/// not TRACE. A route that names no methods allows these methods.
///
/// All other methods are allowed only on routes that name them. The effect of an unregistered
/// method on a service is unknown. TRACE would make a service send back the request, including the
/// assertion.
#[must_use]
pub fn is_ordinary(method: &Method) -> bool {
    const REGISTERED: &[&str] = &[
        "ACL",
        "BASELINE-CONTROL",
        "BIND",
        "CHECKIN",
        "CHECKOUT",
        "COPY",
        "DELETE",
        "GET",
        "HEAD",
        "LABEL",
        "LINK",
        "LOCK",
        "MERGE",
        "MKACTIVITY",
        "MKCALENDAR",
        "MKCOL",
        "MKREDIRECTREF",
        "MKWORKSPACE",
        "MOVE",
        "OPTIONS",
        "ORDERPATCH",
        "PATCH",
        "POST",
        "PROPFIND",
        "PROPPATCH",
        "PUT",
        "QUERY",
        "REBIND",
        "REPORT",
        "SEARCH",
        "UNBIND",
        "UNCHECKOUT",
        "UNLINK",
        "UNLOCK",
        "UPDATE",
        "UPDATEREDIRECTREF",
        "VERSION-CONTROL",
    ];
    *method == Method::GET || *method == Method::POST || REGISTERED.contains(&method.as_str())
}

impl PathTree {
    fn insert(&mut self, pattern: &PathPattern, route: &Arc<Route>) {
        let mut node = self;
        for segment in pattern.segments() {
            node = match segment {
                Segment::Literal(text) => node.literal.entry(text.clone()).or_default(),
                Segment::Any => node.any.get_or_insert_default(),
            };
        }
        if pattern.and_below() {
            node.below.push(Arc::clone(route));
        } else {
            node.here.push(Arc::clone(route));
        }
    }

    /// Returns the routes of the most specific path pattern that matches `path`.
    fn find(&self, path: &str) -> Option<&[Arc<Route>]> {
        let mut best: Option<(Rank, &[Arc<Route>])> = None;
        self.walk(
            path.strip_prefix('/'),
            Rank {
                exact: true,
                segments: 0,
                literals: 0,
                closed: true,
            },
            &mut best,
        );
        best.map(|(_, routes)| routes)
    }

    /// Searches this node and the nodes below it for matching patterns. `rest` is the rest of the
    /// path, after the slash that follows this node's segment. `None` means that the path ends at
    /// this node.
    fn walk<'a>(
        &'a self,
        rest: Option<&str>,
        rank: Rank,
        best: &mut Option<(Rank, &'a [Arc<Route>])>,
    ) {
        let offer =
            |routes: &'a [Arc<Route>], rank: Rank, best: &mut Option<(Rank, &'a [Arc<Route>])>| {
                if !routes.is_empty() && best.is_none_or(|(top, _)| rank > top) {
                    *best = Some((rank, routes));
                }
            };
        let Some(rest) = rest else {
            offer(&self.here, rank, best);
            return;
        };
        offer(
            &self.below,
            Rank {
                exact: false,
                closed: false,
                ..rank
            },
            best,
        );
        let (segment, after) = match rest.split_once('/') {
            Some((segment, after)) => (segment, Some(after)),
            None => (rest, None),
        };
        let deeper = Rank {
            segments: rank.segments + 1,
            ..rank
        };
        if let Some(node) = self.literal.get(segment) {
            let deeper = Rank {
                literals: rank.literals + 1,
                ..deeper
            };
            node.walk(after, deeper, best);
        }
        if let Some(node) = &self.any
            && !segment.is_empty()
        {
            let deeper = Rank {
                exact: false,
                ..deeper
            };
            node.walk(after, deeper, best);
        }
    }
}

fn find_ties(routes: &[Route]) -> Vec<RouteTie> {
    let mut ties = Vec::new();
    for (index, second) in routes.iter().enumerate() {
        for first in routes.iter().take(index) {
            if let Some(what) = tie(first, second) {
                ties.push(RouteTie {
                    first: first.name.clone(),
                    second: second.name.clone(),
                    what,
                });
            }
        }
    }
    ties
}

/// Returns the host and the path patterns for which `first` and `second` are equally specific.
/// Returns `None` if one of the two routes is always more specific, or if they never match the same
/// request.
fn tie(first: &Route, second: &Route) -> Option<String> {
    let methods_meet = match (first.methods.is_empty(), second.methods.is_empty()) {
        (true, true) => true,
        (false, false) => first.methods.iter().any(|m| second.methods.contains(m)),
        // A route that names methods is more specific than a route that names none, so the two do
        // not tie.
        _ => false,
    };
    let host = if first.hosts.is_empty() && second.hosts.is_empty() {
        "any host".to_owned()
    } else {
        // Two routes for the same host are equally specific only if both have the same host
        // pattern. Otherwise the route with the more exact pattern is selected.
        first
            .hosts
            .iter()
            .find(|host| second.hosts.contains(host))?
            .to_string()
    };
    first.paths.iter().find_map(|mine| {
        second
            .paths
            .iter()
            // The path pattern is selected before the method is compared. If the two path patterns
            // differ, the routes therefore tie even if their methods differ.
            .find(|theirs| {
                Rank::of(mine) == Rank::of(theirs)
                    && mine.overlaps(theirs)
                    && (methods_meet || mine != *theirs)
            })
            .map(|theirs| {
                if mine == theirs {
                    format!("{host}, {mine}")
                } else {
                    format!("{host}, {mine} and {theirs}")
                }
            })
    })
}

impl fmt::Debug for RouteTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RouteTable")
            .field("routes", &self.routes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
