//! Routes: select a rule and an upstream by host, path and method.
//!
//! The most specific route wins: exact host before wildcard host before any host, exact path
//! before the longest pattern, then the method. The order in the file means nothing; two routes
//! that tie are a configuration error. Once a host and path have selected routes, a refusal is
//! final.
//!
//! - `rewrite`: the one change that a route may make to a path
//! - `upgrade`: protocols that a connection may change to

mod rewrite;
mod upgrade;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use http::{HeaderValue, Method};

pub use self::rewrite::{PathRewrite, RewriteError};
pub use self::upgrade::{UpgradeProtocol, UpgradeProtocolError, carries_requests};
use crate::authn::Authenticators;
use crate::identity::pattern::{HostPattern, PathPattern, Segment};
use crate::policy::Rule;
use crate::policy::throttle::RouteLimit;
use crate::telemetry::metrics::{Metrics, RouteMetrics};
use crate::upstream::Upstream;

/// The path at which the gateway itself tells callers their identity, on every host. No route
/// is selected for it.
pub const WHOAMI_PATH: &str = "/.well-known/countersign/whoami";

/// The scope of an assertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// The assertion is valid for one request.
    Request,
    /// The assertion is valid for requests of the caller for a while.
    Caller,
}

/// A route: the requests it matches, their rule, and their upstream.
#[derive(Debug)]
pub struct Route {
    /// The route's name in the configuration.
    pub name: String,
    /// The hosts of the route's requests; empty for any host.
    pub hosts: Vec<HostPattern>,
    /// The paths of the route's requests; at least one.
    pub paths: Vec<PathPattern>,
    /// Methods that the route allows; empty for any that is registered, except TRACE.
    pub methods: Vec<Method>,
    /// The requirements for callers.
    pub rule: Rule,
    /// How callers prove their identity, if that takes more than the connection's
    /// certificate.
    pub authenticators: Authenticators,
    /// The metadata about the route's tokens for clients, if the route accepts tokens.
    pub resource: Option<ProtectedResource>,
    /// The rate limits of the route.
    pub limits: Vec<RouteLimit>,
    /// Whether an accepted token is passed on to the service.
    pub forward_token: bool,
    /// The upstream that requests go to.
    pub upstream: Arc<Upstream>,
    /// The audience of the assertion.
    pub audience: String,
    /// The scope of the assertion.
    pub binding: Binding,
    /// The change of the path before the request is forwarded.
    pub rewrite: Option<PathRewrite>,
    /// If set, whole bodies of at most this size are read, and assertions are bound to them.
    pub bind_body: Option<u64>,
    /// Whether the transaction of an assertion that the caller presents is continued.
    pub continue_transaction: bool,
    /// The protocols that a connection may change to; most routes have none.
    pub upgrade: Vec<UpgradeProtocol>,
    /// The route's counters, once it is in service.
    pub meter: RouteMeter,
}

impl Route {
    /// Returns the protocols in an `Upgrade` field that a connection may change to.
    pub fn allowed_upgrades<'a>(
        &'a self,
        protocols: &'a HeaderValue,
    ) -> impl Iterator<Item = &'a str> {
        let names = protocols.to_str().unwrap_or_default().split(',');
        let is_allowed = |name: &&str| self.upgrade.iter().any(|allowed| allowed.is(name));
        names.map(str::trim).filter(is_allowed)
    }
}

/// The metadata about a route's tokens that clients get (RFC 9728).
#[derive(Debug, Clone)]
pub struct ProtectedResource {
    /// The resource's identifier. None if it is the URL of the request.
    pub identifier: Option<String>,
    /// The `iss` of the issuer whose tokens the route accepts.
    pub issuer: String,
    /// The scopes that the route requires.
    pub scopes: Vec<String>,
    /// Whether tokens have to be bound to the client's certificate.
    pub bound: bool,
}

/// The counters of a route, set when its snapshot is put into service.
#[derive(Debug, Default)]
pub struct RouteMeter(OnceLock<Arc<RouteMetrics>>);

impl RouteMeter {
    /// Returns the counters, if the route is in service.
    #[must_use]
    pub fn counters(&self) -> Option<&Arc<RouteMetrics>> {
        self.0.get()
    }
}

/// Two routes that match the same requests equally well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "routes {first} and {second} match {what} equally well; make one of them more specific or give them different methods"
)]
pub struct RouteTie {
    /// Name of the earlier route.
    pub first: String,
    /// Name of the later route.
    pub second: String,
    /// Host and path patterns that tie.
    pub what: String,
}

/// The result of the selection by host and path.
#[derive(Debug)]
pub enum Selected<'a> {
    /// A route that matches.
    Route(&'a Arc<Route>),
    /// Routes match the host and path, but not the method; these methods are allowed.
    MethodNotAllowed(Vec<Method>),
    /// No route matches.
    Nothing,
}

/// All routes, indexed by host and path segments so that the cost of a look-up
/// does not grow with their number.
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

/// Routes by path: one node for each segment of the pattern.
#[derive(Default)]
struct PathTree {
    literal: HashMap<Box<str>, Self>,
    any: Option<Box<Self>>,
    here: Vec<Arc<Route>>,
    below: Vec<Arc<Route>>,
}

/// The precedence of a matching path pattern; a greater rank wins. An exact path ranks before
/// patterns. Among patterns, more segments win, then more literal segments, then patterns
/// without `/**`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    exact: bool,
    segments: usize,
    literals: usize,
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
    /// Lists every pair of routes that tie.
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

    /// Returns all routes in the order of the file.
    #[must_use]
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Whether any upstream keeps fields that are removed by default.
    #[must_use]
    pub const fn keeps_headers(&self) -> bool {
        self.keeps_headers
    }

    /// Whether any route continues transactions.
    #[must_use]
    pub const fn continues_transactions(&self) -> bool {
        self.continues_transactions
    }

    /// Returns the upstreams of the routes whose assertions have this audience.
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

    /// Selects a route by normalized host (lower case, no port), decoded path with its leading
    /// slash, and method.
    #[must_use]
    pub fn select(&self, host: &str, path: &str, method: &Method) -> Selected<'_> {
        match self.at(host, path) {
            [] => Selected::Nothing,
            routes => by_method(routes, method),
        }
    }

    /// Returns the routes of the most specific pattern that matches, for any method.
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

/// Whether a method is in IANA's registry of HTTP methods (RFC 9110 section 16.1.1), and is not
/// TRACE. A route that names no methods allows these. Other methods have to be named, because
/// it is not known what a service does with an unknown one, and TRACE makes a service send back
/// the request, including the assertion.
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

    /// Returns the routes of the most specific pattern that matches.
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

    /// Searches below this node. `rest` is the path after the slash behind this node; none at
    /// the end.
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

/// Returns the host and path for which two routes tie.
fn tie(first: &Route, second: &Route) -> Option<String> {
    let methods_meet = match (first.methods.is_empty(), second.methods.is_empty()) {
        (true, true) => true,
        (false, false) => first.methods.iter().any(|m| second.methods.contains(m)),
        // Named methods are more specific than "any".
        _ => false,
    };
    let host = if first.hosts.is_empty() && second.hosts.is_empty() {
        "any host".to_owned()
    } else {
        // Only hosts of the same kind tie: an exact host wins over a wildcard, and a wildcard
        // over any host.
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
            // Methods distinguish routes only if their patterns are equal, because the pattern
            // is selected before the method.
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
