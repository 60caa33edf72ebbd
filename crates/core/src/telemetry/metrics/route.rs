//! The counters of one route.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::histogram::DurationHistogram;
use super::labels::{PerReason, RequestLabels, RouteLabels};
use crate::identity::text::push_json;
use crate::reason::ReasonCode;

/// The classes of statuses, as the label `status_class` has them.
const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Returns the index of a status in [`STATUS_CLASSES`].
fn class_index(status: u16) -> usize {
    usize::from(status / 100)
        .saturating_sub(1)
        .min(STATUS_CLASSES.len() - 1)
}

/// Returns the class of a status.
fn class_of(status: u16) -> &'static str {
    STATUS_CLASSES
        .get(class_index(status))
        .copied()
        .unwrap_or("")
}

/// The counters of one route.
pub struct RouteMetrics {
    pub(super) names: RouteNames,
    requests: Family<RequestLabels, Counter>,
    route: Arc<str>,
    allowed: [OnceLock<Counter>; STATUS_CLASSES.len()],
    aborted: Counter,
    refused: PerReason<RequestLabels>,
    failed: PerReason<RequestLabels>,
    duration: DurationHistogram,
}

/// The names of a route and of its upstream as JSON strings. `null` if there is no route.
pub(super) struct RouteNames {
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

    pub(super) fn of(route: &str, upstream: &str) -> Self {
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

impl RouteMetrics {
    pub(super) fn new(
        requests: &Family<RequestLabels, Counter>,
        durations: &Family<RouteLabels, DurationHistogram>,
        route: &str,
    ) -> Self {
        let route: Arc<str> = route.into();
        let per_reason = |decision| {
            let route = Arc::clone(&route);
            PerReason::new(requests, move |reason| RequestLabels {
                route: Arc::clone(&route),
                decision,
                reason: reason.as_str(),
                status_class: class_of(reason.status()),
            })
        };
        let without_reason = |decision, status_class| {
            requests.get_or_create_owned(&RequestLabels {
                route: Arc::clone(&route),
                decision,
                reason: "",
                status_class,
            })
        };
        let allowed: [OnceLock<Counter>; STATUS_CLASSES.len()] = Default::default();
        if let Some(usual) = allowed.get(class_index(200)) {
            usual.get_or_init(|| without_reason("allowed", class_of(200)));
        }
        Self {
            names: RouteNames::none(),
            requests: requests.clone(),
            route: Arc::clone(&route),
            allowed,
            aborted: without_reason("aborted", ""),
            refused: per_reason("refused"),
            failed: per_reason("allowed"),
            duration: durations.get_or_create_owned(&RouteLabels { route }),
        }
    }

    /// Returns the name of the route as JSON, or `null` if there is no route.
    pub(in crate::telemetry) fn route_json(&self) -> &str {
        &self.names.route
    }

    /// Returns the name of the route's upstream as JSON, or `null` if there is no route.
    pub(in crate::telemetry) fn upstream_json(&self) -> &str {
        &self.names.upstream
    }

    /// Counts an allowed request that the upstream has responded to with this status.
    pub fn allowed(&self, status: u16, elapsed: Duration) {
        if let Some(counter) = self.allowed.get(class_index(status)) {
            counter
                .get_or_init(|| self.counter("allowed", "", status))
                .inc();
        }
        self.duration.observe(elapsed);
    }

    /// Counts a refused request, and the status of the gateway's response.
    pub fn refused(&self, reason: ReasonCode, status: u16, elapsed: Duration) {
        self.count(&self.refused, "refused", reason, status);
        self.duration.observe(elapsed);
    }

    /// Counts an allowed request that the upstream has not responded to, and the status of the
    /// gateway's response.
    pub fn failed(&self, reason: ReasonCode, status: u16, elapsed: Duration) {
        self.count(&self.failed, "allowed", reason, status);
        self.duration.observe(elapsed);
    }

    fn count(
        &self,
        usual: &PerReason<RequestLabels>,
        decision: &'static str,
        reason: ReasonCode,
        status: u16,
    ) {
        if class_index(status) == class_index(reason.status()) {
            usual.count(reason);
        } else {
            // The response to a gRPC request has status 200, which is not the usual status of the
            // reason.
            self.counter(decision, reason.as_str(), status).inc();
        }
    }

    fn counter(&self, decision: &'static str, reason: &'static str, status: u16) -> Counter {
        self.requests.get_or_create_owned(&RequestLabels {
            route: Arc::clone(&self.route),
            decision,
            reason,
            status_class: class_of(status),
        })
    }

    /// Counts a request that its caller aborted before the response.
    pub fn aborted(&self) {
        self.aborted.inc();
    }
}

impl fmt::Debug for RouteMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RouteMetrics")
    }
}
