//! The counters of one route.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::histogram::DurationHistogram;
use super::labels::{PerReason, RequestLabels, RouteLabels};
use crate::identity::text::push_json;
use crate::reason::ReasonCode;

/// The counters of one route.
pub struct RouteMetrics {
    pub(super) names: RouteNames,
    allowed: Counter,
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

    /// Returns the name of the route as JSON, or `null` if there is no route.
    pub(in crate::telemetry) fn route_json(&self) -> &str {
        &self.names.route
    }

    /// Returns the name of the route's upstream as JSON, or `null` if there is no route.
    pub(in crate::telemetry) fn upstream_json(&self) -> &str {
        &self.names.upstream
    }

    /// Counts an allowed request that the upstream has responded to.
    pub fn allowed(&self, elapsed: Duration) {
        self.allowed.inc();
        self.duration.observe(elapsed);
    }

    /// Counts a refused request.
    pub fn refused(&self, reason: ReasonCode, elapsed: Duration) {
        self.refused.count(reason);
        self.duration.observe(elapsed);
    }

    /// Counts an allowed request that the upstream has not responded to.
    pub fn failed(&self, reason: ReasonCode, elapsed: Duration) {
        self.failed.count(reason);
        self.duration.observe(elapsed);
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
