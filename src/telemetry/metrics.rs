//! `Metrics`: what the gateway counts, in the text form of OpenMetrics.
//!
//! Handles are resolved once and kept: per route in [`RouteMetrics`], per
//! upstream in [`UpstreamMetrics`]. Counting a request is then a few additions
//! to atomic integers, without lock, allocation or formatting. Label values come
//! from the configuration and from [`ReasonCode`] only, never from a peer, so
//! that nobody outside can make the tables grow.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

use super::cuts::{CutLog, Cuts};
use super::histogram::DurationHistogram;
use crate::crypto;
use crate::identity::text::push_json;
use crate::reason::ReasonCode;

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that is counted.
pub struct Metrics {
    registry: Registry,
    connections_open: Gauge,
    connections_resting: Gauge,
    connections: Counter,
    connections_cut: PerReason<CutLabels>,
    cuts: CutLog,
    panics: Counter,
    handshakes_ok: Counter,
    handshakes_refused: PerReason<HandshakeLabels>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, DurationHistogram>,
    upstreams: UpstreamFamilies,
    assertions: Counter,
    reloads: Family<ReloadLabels, Counter>,
    lists: Family<ListLabels, Gauge>,
    list_fetches: Family<ReloadLabels, Counter>,
    unrouted: Arc<RouteMetrics>,
}

/// The counters of one route.
pub struct RouteMetrics {
    names: RouteNames,
    allowed: Counter,
    aborted: Counter,
    refused: PerReason<RequestLabels>,
    failed: PerReason<RequestLabels>,
    duration: DurationHistogram,
}

/// Names of a route and of where it leads, as JSON strings; `null` where there
/// is no route.
struct RouteNames {
    route: Box<str>,
    upstream: Box<str>,
}

impl RouteNames {
    fn none() -> Self {
        Self {
            route: "null".into(),
            upstream: "null".into(),
        }
    }

    fn of(route: &str, upstream: &str) -> Self {
        let json = |name: &str| {
            let mut json = String::new();
            push_json(&mut json, name);
            json.into_boxed_str()
        };
        Self {
            route: json(route),
            upstream: json(upstream),
        }
    }
}

/// The counters of one upstream.
pub struct UpstreamMetrics {
    errors: PerReason<UpstreamLabels>,
    retries: Counter,
}

/// What is counted of upstreams.
struct UpstreamFamilies {
    errors: Family<UpstreamLabels, Counter>,
    retries: Family<UpstreamNameLabels, Counter>,
    endpoints: Family<EndpointLabels, Gauge>,
}

impl UpstreamFamilies {
    fn new(registry: &mut Registry) -> Self {
        Self {
            errors: registered(
                registry,
                "upstream_errors",
                "Failures of upstreams by upstream and reason",
            ),
            retries: registered(
                registry,
                "upstream_retries",
                "Requests that were sent to an upstream again",
            ),
            endpoints: registered(
                registry,
                "upstream_endpoint_healthy",
                "What health checks say of an endpoint: 1 for well, 0 for not",
            ),
        }
    }
}

impl Metrics {
    /// All counters at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("countersign");
        let build = Info::new(BuildLabels {
            version: env!("CARGO_PKG_VERSION"),
            crypto_provider: crypto::PROVIDER,
        });
        registry.register("build", "The running program", build);
        macro_rules! counted {
            ($name:literal, $help:literal) => {
                registered(&mut registry, $name, $help)
            };
        }
        let connections_open = counted!(
            "connections_open",
            "Connections of callers that are open now"
        );
        let connections = counted!("connections", "Connections of callers that were accepted");
        let connections_resting = registered(
            &mut registry,
            "connections_resting",
            "HTTP/1.1 connections on which nothing goes on, which hold no buffers",
        );
        let connections_cut: Family<CutLabels, Counter> = counted!(
            "connections_cut",
            "Connections that were cut off because what admitted them no longer held"
        );
        let panics = counted!("panics", "Connections that ended by a fault of the gateway");
        let handshakes: Family<HandshakeLabels, Counter> =
            counted!("handshakes", "TLS handshakes by result and reason");
        let requests = counted!("requests", "Requests by route, decision and reason");
        let durations = Family::<RouteLabels, DurationHistogram>::default();
        registry.register_with_unit(
            "request_duration",
            "Time from a request's head to the answer's head",
            Unit::Seconds,
            durations.clone(),
        );
        let upstreams = UpstreamFamilies::new(&mut registry);
        let assertions = counted!("assertions_signed", "Assertions that were signed");
        let reloads = counted!("reloads", "Reloads of the configuration by result");
        let (lists, list_fetches) = list_metrics(&mut registry);
        Self {
            lists,
            list_fetches,
            reloads,
            connections_open,
            connections_resting,
            connections,
            connections_cut: PerReason::new(&connections_cut, CutLabels::of),
            cuts: CutLog::new(),
            panics,
            handshakes_ok: handshakes.get_or_create_owned(&HandshakeLabels {
                result: "ok",
                reason: "",
            }),
            handshakes_refused: PerReason::new(&handshakes, |reason| HandshakeLabels {
                result: "refused",
                reason: reason.as_str(),
            }),
            unrouted: Arc::new(RouteMetrics::new(&requests, &durations, "")),
            requests,
            durations,
            upstreams,
            assertions,
            registry,
        }
    }

    /// A connection was accepted.
    pub fn connection_opened(&self) {
        self.connections_open.inc();
        self.connections.inc();
    }

    /// A connection is gone.
    pub fn connection_closed(&self) {
        self.connections_open.dec();
    }

    /// A connection was ended because what it had been admitted by no longer held.
    pub fn connection_cut(&self, reason: ReasonCode) {
        self.connections_cut.count(reason);
        self.cuts.note(reason);
    }

    /// What was cut off since the start, and since when the present state serves.
    #[must_use]
    pub fn cuts(&self) -> Cuts {
        self.cuts.read()
    }

    /// A connection waits without buffers until the value is dropped.
    pub fn connection_rests(&self) -> impl Drop + use<> {
        struct Resting(Gauge);
        impl Drop for Resting {
            fn drop(&mut self) {
                self.0.dec();
            }
        }
        self.connections_resting.inc();
        Resting(self.connections_resting.clone())
    }

    /// A connection ended by a fault of ours.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// A TLS handshake succeeded.
    pub fn handshake_succeeded(&self) {
        self.handshakes_ok.inc();
    }

    /// A TLS handshake was refused.
    pub fn handshake_refused(&self, reason: ReasonCode) {
        self.handshakes_refused.count(reason);
    }

    /// An assertion was signed.
    pub fn assertion_signed(&self) {
        self.assertions.inc();
    }

    /// The configuration was reloaded, or was not because something is wrong.
    pub fn reloaded(&self, successfully: bool) {
        let result = if successfully { "ok" } else { "refused" };
        if successfully {
            self.cuts.came_into_service();
        }
        self.reloads
            .get_or_create_owned(&ReloadLabels { result })
            .inc();
    }

    /// How many connections are open now.
    #[must_use]
    pub fn open_connections(&self) -> i64 {
        self.connections_open.get()
    }

    /// How many of a trust domain's revocation lists are so fresh.
    pub fn revocation_lists(&self, trust_domain: &str, freshness: &'static str, count: i64) {
        let labels = ListLabels {
            trust_domain: trust_domain.into(),
            freshness,
        };
        self.lists.get_or_create_owned(&labels).set(count);
    }

    /// A revocation list was fetched, or not.
    pub fn revocation_list_fetched(&self, ok: bool) {
        let result = if ok { "ok" } else { "failed" };
        self.list_fetches
            .get_or_create_owned(&ReloadLabels { result })
            .inc();
    }

    /// How many reloads there were: successful ones, and refused ones.
    #[must_use]
    pub fn reloads(&self) -> (u64, u64) {
        let count = |result| {
            let labels = ReloadLabels { result };
            self.reloads.get_or_create_owned(&labels).get()
        };
        (count("ok"), count("refused"))
    }

    /// The counters of a route; to be resolved when the route is built, and kept.
    #[must_use]
    pub fn route(&self, name: &str, upstream: &str) -> Arc<RouteMetrics> {
        let mut counters = RouteMetrics::new(&self.requests, &self.durations, name);
        counters.names = RouteNames::of(name, upstream);
        Arc::new(counters)
    }

    /// The counters of requests that found no route. Their label is empty,
    /// which no route's name is.
    #[must_use]
    pub const fn unrouted(&self) -> &Arc<RouteMetrics> {
        &self.unrouted
    }

    /// The counters of an upstream; to be resolved when it is built, and kept.
    #[must_use]
    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        let upstream: Arc<str> = name.into();
        Arc::new(UpstreamMetrics {
            retries: self
                .upstreams
                .retries
                .get_or_create_owned(&UpstreamNameLabels {
                    upstream: Arc::clone(&upstream),
                }),
            errors: PerReason::new(&self.upstreams.errors, move |reason| UpstreamLabels {
                upstream: Arc::clone(&upstream),
                reason: reason.as_str(),
            }),
        })
    }

    /// What health checks say of an endpoint, until it is dropped.
    #[must_use]
    pub fn endpoint(&self, upstream: &str, endpoint: &str) -> EndpointMetrics {
        let labels = EndpointLabels {
            upstream: upstream.into(),
            endpoint: endpoint.into(),
        };
        EndpointMetrics {
            family: self.upstreams.endpoints.clone(),
            labels,
        }
    }

    /// Everything in the text form of OpenMetrics.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut output = String::with_capacity(4096);
        // Writing to a text cannot fail.
        let _ = text::encode(&mut output, &self.registry);
        output
    }
}

fn list_metrics(
    registry: &mut Registry,
) -> (Family<ListLabels, Gauge>, Family<ReloadLabels, Counter>) {
    let lists = registered(
        registry,
        "revocation_lists",
        "Revocation lists by trust domain and freshness",
    );
    let fetches = registered(
        registry,
        "revocation_list_fetches",
        "Fetches of revocation lists by URL, by result",
    );
    (lists, fetches)
}

fn registered<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Metrics")
    }
}

impl RouteMetrics {
    fn new(
        requests: &Family<RequestLabels, Counter>,
        durations: &Family<RouteLabels, DurationHistogram>,
        route: &str,
    ) -> Self {
        let route: Arc<str> = route.into();
        let labels = |decision: &'static str| {
            let route = Arc::clone(&route);
            move |reason: &'static str| RequestLabels {
                route: Arc::clone(&route),
                decision,
                reason,
            }
        };
        let per_reason = |decision| {
            let labels = labels(decision);
            PerReason::new(requests, move |reason| labels(reason.as_str()))
        };
        Self {
            names: RouteNames::none(),
            allowed: requests.get_or_create_owned(&labels("allowed")("")),
            aborted: requests.get_or_create_owned(&labels("aborted")("")),
            refused: per_reason("refused"),
            failed: per_reason("allowed"),
            duration: durations.get_or_create_owned(&RouteLabels { route }),
        }
    }

    /// The route's name as JSON; `null` where there is no route.
    pub(super) fn route_json(&self) -> &str {
        &self.names.route
    }

    /// The name of the route's upstream as JSON, likewise.
    pub(super) fn upstream_json(&self) -> &str {
        &self.names.upstream
    }

    /// A request was allowed and answered by its upstream.
    pub fn allowed(&self, elapsed: Duration) {
        self.allowed.inc();
        self.duration.observe(elapsed);
    }

    /// A request was refused.
    pub fn refused(&self, reason: ReasonCode, elapsed: Duration) {
        self.refused.count(reason);
        self.duration.observe(elapsed);
    }

    /// A request was allowed and could not be answered.
    pub fn failed(&self, reason: ReasonCode, elapsed: Duration) {
        self.failed.count(reason);
        self.duration.observe(elapsed);
    }

    /// A request was gone before there was an answer.
    pub fn aborted(&self) {
        self.aborted.inc();
    }
}

impl fmt::Debug for RouteMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RouteMetrics")
    }
}

impl UpstreamMetrics {
    /// The upstream failed for this reason.
    pub fn failed(&self, reason: ReasonCode) {
        self.errors.count(reason);
    }

    /// A request was sent to the upstream again.
    pub fn retried(&self) {
        self.retries.inc();
    }
}

/// What health checks say of one endpoint. Nothing is said of it any more once this
/// is dropped.
#[derive(Debug)]
pub struct EndpointMetrics {
    family: Family<EndpointLabels, Gauge>,
    labels: EndpointLabels,
}

impl EndpointMetrics {
    /// It is well, or not.
    pub fn set(&self, well: bool) {
        let gauge = self.family.get_or_create_owned(&self.labels);
        gauge.set(i64::from(well));
    }
}

impl Drop for EndpointMetrics {
    fn drop(&mut self) {
        self.family.remove(&self.labels);
    }
}

impl fmt::Debug for UpstreamMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("UpstreamMetrics")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CutLabels {
    reason: &'static str,
}

impl CutLabels {
    const fn of(reason: ReasonCode) -> Self {
        Self {
            reason: reason.as_str(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
    crypto_provider: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListLabels {
    trust_domain: Arc<str>,
    freshness: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    result: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: Arc<str>,
    decision: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamNameLabels {
    upstream: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    upstream: Arc<str>,
    endpoint: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabels {
    upstream: Arc<str>,
    reason: &'static str,
}

/// One counter per reason, each made when it first counts: most of them never
/// do, and routes are many.
struct PerReason<L> {
    family: Family<L, Counter>,
    labels: Box<dyn Fn(ReasonCode) -> L + Send + Sync>,
    counters: Box<[OnceLock<Counter>]>,
}

impl<L: Clone + Eq + std::hash::Hash> PerReason<L> {
    fn new(
        family: &Family<L, Counter>,
        labels: impl Fn(ReasonCode) -> L + Send + Sync + 'static,
    ) -> Self {
        Self {
            family: family.clone(),
            labels: Box::new(labels),
            counters: ReasonCode::ALL.iter().map(|_| OnceLock::new()).collect(),
        }
    }

    fn count(&self, reason: ReasonCode) {
        // `ALL` lists the codes in the order of their discriminants.
        if let Some(counter) = self.counters.get(reason as usize) {
            counter
                .get_or_init(|| self.family.get_or_create_owned(&(self.labels)(reason)))
                .inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_numbered_as_they_are_listed() {
        for (index, code) in ReasonCode::ALL.iter().enumerate() {
            assert_eq!(*code as usize, index);
        }
    }

    #[test]
    fn counts_appear_under_their_labels() {
        let metrics = Metrics::new();
        metrics.connection_opened();
        metrics.connection_opened();
        metrics.connection_closed();
        metrics.panicked();
        metrics.handshake_succeeded();
        metrics.handshake_refused(ReasonCode::CertificateRevoked);
        metrics.assertion_signed();
        let route = metrics.route("orders", "u");
        route.allowed(Duration::from_micros(700));
        route.allowed(Duration::from_secs(100));
        route.refused(ReasonCode::CallerNotAllowed, Duration::from_millis(1));
        route.failed(ReasonCode::UpstreamTimeout, Duration::from_millis(2));
        route.aborted();
        metrics
            .unrouted()
            .refused(ReasonCode::NoRoute, Duration::ZERO);
        metrics
            .upstream("orders")
            .failed(ReasonCode::UpstreamTimeout);
        let text = metrics.encode();
        for line in [
            "countersign_connections_open 1",
            "countersign_connections_total 2",
            "countersign_panics_total 1",
            "countersign_handshakes_total{result=\"ok\",reason=\"\"} 1",
            "countersign_handshakes_total{result=\"refused\",reason=\"certificate-revoked\"} 1",
            "countersign_assertions_signed_total 1",
            "countersign_requests_total{route=\"orders\",decision=\"allowed\",reason=\"\"} 2",
            "countersign_requests_total{route=\"orders\",decision=\"refused\",reason=\"caller-not-allowed\"} 1",
            "countersign_requests_total{route=\"orders\",decision=\"allowed\",reason=\"upstream-timeout\"} 1",
            "countersign_requests_total{route=\"orders\",decision=\"aborted\",reason=\"\"} 1",
            "countersign_requests_total{route=\"\",decision=\"refused\",reason=\"no-route\"} 1",
            "countersign_upstream_errors_total{upstream=\"orders\",reason=\"upstream-timeout\"} 1",
            "countersign_request_duration_seconds_bucket{le=\"0.0005\",route=\"orders\"} 0",
            "countersign_request_duration_seconds_bucket{le=\"0.001\",route=\"orders\"} 2",
            "countersign_request_duration_seconds_bucket{le=\"60.0\",route=\"orders\"} 3",
            "countersign_request_duration_seconds_bucket{le=\"+Inf\",route=\"orders\"} 4",
            "countersign_request_duration_seconds_count{route=\"orders\"} 4",
            "# EOF",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        assert!(text.contains("countersign_build_info{version="));
        assert!(!text.contains("token-expired"));
    }

    #[test]
    fn a_route_resolved_twice_counts_in_one_place() {
        let metrics = Metrics::new();
        metrics.route("a", "u").allowed(Duration::ZERO);
        metrics.route("a", "u").allowed(Duration::ZERO);
        assert!(metrics.encode().contains(
            "countersign_requests_total{route=\"a\",decision=\"allowed\",reason=\"\"} 2"
        ));
    }
}
