//! `Metrics`: the gateway's counters, in the text format of OpenMetrics.
//!
//! The gateway looks up the counters of a route or upstream once, and then keeps them in
//! [`RouteMetrics`] or [`UpstreamMetrics`]. Counting a request therefore needs only a few atomic
//! additions, and no lock, allocation or formatting. Label values come from the configuration and
//! from fixed sets such as [`ReasonCode`]. They never come from a peer, so that no peer can make
//! the tables grow.
//!
//! - `route`: the counters of one route
//! - `upstream`: the counters of one upstream, and of its endpoints
//! - `state`: metrics of the gateway's state, which are set when they are read
//! - `labels`: the labels, and counters that are created on their first use
//! - `registration`: registers a metric
//! - `cut_log`: counts connections that were closed after a change of trust
//! - `histogram`: a histogram of durations without locks

mod cut_log;
mod histogram;
mod labels;
mod registration;
mod route;
mod state;
#[cfg(test)]
mod tests;
mod upstream;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use self::cut_log::CutLog;
pub use self::cut_log::Cuts;
use self::histogram::DurationHistogram;
pub use self::labels::CertificateLabels;
use self::labels::{
    BuildLabels, CutLabels, EndpointLabels, HandshakeLabels, LimitLabels, ListLabels, PerReason,
    ReloadLabels, RequestLabels, RouteLabels, UpstreamLabels, UpstreamNameLabels,
};
use self::registration::registered;
pub use self::route::RouteMetrics;
use self::route::RouteNames;
pub use self::state::{AuditCounts, StateMetrics};
use self::upstream::UpstreamFamilies;
pub use self::upstream::{EndpointMetrics, UpstreamMetrics};
use crate::crypto;
use crate::reason::ReasonCode;

/// The media type of the text that [`Metrics::encode`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of the gateway.
pub struct Metrics {
    registry: Registry,
    connections_open: Gauge,
    connections_resting: Gauge,
    connections: Counter,
    connections_cut: PerReason<CutLabels>,
    cuts: CutLog,
    panics: Counter,
    limits_reached: Family<LimitLabels, Counter>,
    handshakes_ok: Counter,
    handshakes_refused: PerReason<HandshakeLabels>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, DurationHistogram>,
    upstreams: UpstreamFamilies,
    assertions: Counter,
    reloads: Family<ReloadLabels, Counter>,
    material_loads: Family<ReloadLabels, Counter>,
    lists: Family<ListLabels, Gauge>,
    list_fetches: Family<ReloadLabels, Counter>,
    certificates: Family<CertificateLabels, Gauge>,
    chains: ChainMetrics,
    state: StateMetrics,
    unrouted: Arc<RouteMetrics>,
}

impl Metrics {
    /// Creates all metrics. All counters start at zero.
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
        let limits_reached = counted!(
            "limit_reached",
            "How often a bound made a connection or request yield, wait or be refused"
        );
        let handshakes: Family<HandshakeLabels, Counter> =
            counted!("handshakes", "TLS handshakes by result and reason");
        let requests = counted!("requests", "Requests by route, decision, reason and status");
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
        let material_loads = counted!(
            "material_loads",
            "Certificates, keys, roots and revocation lists that were read again, by result"
        );
        let (lists, list_fetches) = list_metrics(&mut registry);
        Self {
            certificates: certificate_metric(&mut registry),
            chains: ChainMetrics::new(&mut registry),
            state: StateMetrics::new(&mut registry),
            lists,
            list_fetches,
            reloads,
            material_loads,
            connections_open,
            connections_resting,
            connections,
            connections_cut: PerReason::new(&connections_cut, CutLabels::of),
            cuts: CutLog::new(),
            panics,
            limits_reached,
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

    /// Counts an accepted connection.
    pub fn connection_opened(&self) {
        self.connections_open.inc();
        self.connections.inc();
    }

    /// Counts a closed connection.
    pub fn connection_closed(&self) {
        self.connections_open.dec();
    }

    /// Counts a connection that is closed because its identity or permission is no longer valid.
    pub fn connection_cut(&self, reason: ReasonCode) {
        self.connections_cut.count(reason);
        self.cuts.note(reason);
    }

    /// Returns how many connections were closed after a change of trust, and when the current
    /// snapshot came into service.
    #[must_use]
    pub fn cuts(&self) -> Cuts {
        self.cuts.read()
    }

    /// Counts an idle connection that has released its buffers. The connection is counted until the
    /// returned value is dropped.
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

    /// Counts a connection that was closed because of a panic.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// Counts that a limit was reached. As a result, a connection or request was evicted or
    /// refused, or had to wait. `limit` is the key of the limit in the configuration, such as
    /// `limits.connections`.
    pub fn limit_reached(&self, limit: &'static str) {
        self.limits_reached
            .get_or_create_owned(&LimitLabels { limit })
            .inc();
    }

    /// Counts a successful TLS handshake.
    pub fn handshake_succeeded(&self) {
        self.handshakes_ok.inc();
    }

    /// Counts a refused TLS handshake.
    pub fn handshake_refused(&self, reason: ReasonCode) {
        self.handshakes_refused.count(reason);
    }

    /// Counts a signed assertion.
    pub fn assertion_signed(&self) {
        self.assertions.inc();
    }

    /// Counts a load of the configuration. `successfully` tells whether it was accepted.
    pub fn reloaded(&self, successfully: bool) {
        let result = if successfully { "ok" } else { "refused" };
        self.reloads
            .get_or_create_owned(&ReloadLabels { result })
            .inc();
    }

    /// Records that a snapshot came into service.
    pub fn came_into_service(&self) {
        self.cuts.came_into_service();
    }

    /// Counts a load of one unit of trust material (certificates, keys, CRLs, secrets).
    /// `successfully` tells whether the unit was accepted.
    pub fn material_loaded(&self, successfully: bool) {
        let result = if successfully { "ok" } else { "refused" };
        self.material_loads
            .get_or_create_owned(&ReloadLabels { result })
            .inc();
    }

    /// Returns the number of open connections.
    #[must_use]
    pub fn open_connections(&self) -> i64 {
        self.connections_open.get()
    }

    /// Sets how many CRLs of a trust domain have the state `freshness`.
    pub fn revocation_lists(&self, trust_domain: &str, freshness: &'static str, count: i64) {
        let labels = ListLabels {
            trust_domain: trust_domain.into(),
            freshness,
        };
        self.lists.get_or_create_owned(&labels).set(count);
    }

    /// Sets when a certificate that the gateway presents expires, in seconds since the Unix epoch.
    pub fn own_certificate(&self, labels: &CertificateLabels, not_after: i64) {
        self.certificates.get_or_create_owned(labels).set(not_after);
    }

    /// Removes the metric of a certificate that the gateway no longer presents.
    pub fn forget_certificate(&self, labels: &CertificateLabels) {
        self.certificates.remove(labels);
    }

    /// Counts a fetch of a CRL. `ok` tells whether the fetch succeeded.
    pub fn revocation_list_fetched(&self, ok: bool) {
        let result = if ok { "ok" } else { "failed" };
        self.list_fetches
            .get_or_create_owned(&ReloadLabels { result })
            .inc();
    }

    /// Returns the number of successful loads and the number of refused loads of the configuration.
    #[must_use]
    pub fn reloads(&self) -> (u64, u64) {
        let count = |result| {
            let labels = ReloadLabels { result };
            self.reloads.get_or_create_owned(&labels).get()
        };
        (count("ok"), count("refused"))
    }

    /// Returns the counters of a route. Must be called once, when the route is built, and the
    /// result must be kept.
    #[must_use]
    pub fn route(&self, name: &str, upstream: &str) -> Arc<RouteMetrics> {
        let mut counters = RouteMetrics::new(&self.requests, &self.durations, name);
        counters.names = RouteNames::of(name, upstream);
        Arc::new(counters)
    }

    /// Returns the counters of requests for which no route was selected. Their route label is
    /// empty, and no route has an empty name.
    #[must_use]
    pub const fn unrouted(&self) -> &Arc<RouteMetrics> {
        &self.unrouted
    }

    /// Returns the counters of an upstream. Must be called once, when the upstream is built, and
    /// the result must be kept.
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
            ended: self.upstreams.ended.clone(),
            name: Arc::clone(&upstream),
            errors: PerReason::new(&self.upstreams.errors, move |reason| UpstreamLabels {
                upstream: Arc::clone(&upstream),
                reason: reason.as_str(),
            }),
        })
    }

    /// Returns the gauge of an endpoint's health. The metric exists until the returned value is
    /// dropped.
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

    /// Sets the metrics of the path cache. `kept` is the number of cached certificate paths.
    /// `known` and `verified` count since the start of the process. `known` is how often a path was
    /// found in the cache, and `verified` is how often a path had to be verified.
    pub fn chains(&self, kept: usize, known: u64, verified: u64) {
        let chains = &self.chains;
        chains.kept.set(i64::try_from(kept).unwrap_or(i64::MAX));
        chains.known.inner().store(known, Ordering::Relaxed);
        chains.verified.inner().store(verified, Ordering::Relaxed);
    }

    /// Returns the metrics of the gateway's state. They must be set before [`Self::encode`].
    #[must_use]
    pub const fn state(&self) -> &StateMetrics {
        &self.state
    }

    /// Encodes all metrics in the text format of OpenMetrics.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut output = String::with_capacity(4096);
        // Writing to a string cannot fail.
        let _ = text::encode(&mut output, &self.registry);
        output
    }
}

/// The metrics of the certificate path cache. Their values come from counters of the cache.
struct ChainMetrics {
    kept: Gauge,
    known: Counter,
    verified: Counter,
}

impl ChainMetrics {
    fn new(registry: &mut Registry) -> Self {
        Self {
            kept: registered(
                registry,
                "chains_kept",
                "Verified chains that are remembered",
            ),
            known: registered(
                registry,
                "chains_known",
                "Chains of handshakes and live connections that were known and still held",
            ),
            verified: registered(
                registry,
                "chains_verified",
                "Chains of handshakes and live connections that had to be verified",
            ),
        }
    }
}

fn certificate_metric(registry: &mut Registry) -> Family<CertificateLabels, Gauge> {
    let certificates = Family::default();
    registry.register_with_unit(
        "certificate_not_after_timestamp",
        "When the certificates that the gateway presents expire",
        Unit::Seconds,
        certificates.clone(),
    );
    certificates
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
