//! The counters of one upstream, and of its endpoints.

use std::fmt;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::labels::{
    EndpointLabels, PerReason, UpstreamCodeLabels, UpstreamLabels, UpstreamNameLabels,
};
use super::registration::registered;
use crate::reason::ReasonCode;

/// The counters of one upstream.
pub struct UpstreamMetrics {
    pub(super) errors: PerReason<UpstreamLabels>,
    pub(super) retries: Counter,
    pub(super) ended: Family<UpstreamCodeLabels, Counter>,
    pub(super) name: Arc<str>,
}

impl UpstreamMetrics {
    /// Counts a connection that the service has ended with an error. `code` is the name of the
    /// HTTP/2 error code (RFC 9113 section 7).
    pub fn connection_ended(&self, code: &'static str) {
        let labels = UpstreamCodeLabels {
            upstream: Arc::clone(&self.name),
            code,
        };
        self.ended.get_or_create_owned(&labels).inc();
    }

    /// Counts a request to which the upstream sent no response, with the reason.
    pub fn failed(&self, reason: ReasonCode) {
        self.errors.count(reason);
    }

    /// Counts a request that was sent to the upstream again.
    pub fn retried(&self) {
        self.retries.inc();
    }
}

impl fmt::Debug for UpstreamMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("UpstreamMetrics")
    }
}

/// The metric families that all upstreams share.
pub(super) struct UpstreamFamilies {
    pub(super) errors: Family<UpstreamLabels, Counter>,
    pub(super) retries: Family<UpstreamNameLabels, Counter>,
    pub(super) endpoints: Family<EndpointLabels, Gauge>,
    pub(super) ended: Family<UpstreamCodeLabels, Counter>,
}

impl UpstreamFamilies {
    pub(super) fn new(registry: &mut Registry) -> Self {
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
            ended: registered(
                registry,
                "upstream_connections_ended",
                "Connections in h2 that a service has ended with an error, by its code",
            ),
            endpoints: registered(
                registry,
                "upstream_endpoint_healthy",
                "What health checks say of an endpoint: 1 for well, 0 for not",
            ),
        }
    }
}

/// The gauge of one endpoint's health. Dropping it removes the metric.
#[derive(Debug)]
pub struct EndpointMetrics {
    pub(super) family: Family<EndpointLabels, Gauge>,
    pub(super) labels: EndpointLabels,
}

impl EndpointMetrics {
    /// Sets the gauge: 1 if the endpoint is healthy (`well`), otherwise 0.
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
