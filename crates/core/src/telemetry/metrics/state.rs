//! The metrics of the gateway's state. They are set when the metrics are read.

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::labels::{
    EndpointLabels, IssuerLabels, ProblemLabels, SinkLabels, SinkResultLabels, SourceLabels,
};
use super::registration::registered;

/// The metrics of the gateway's state.
pub struct StateMetrics {
    problems: GaugeSet<ProblemLabels>,
    endpoints: GaugeSet<EndpointLabels>,
    crl_next_updates: GaugeSet<IssuerLabels>,
    deny_list_entries: GaugeSet<SourceLabels>,
    audit_lines: Family<SinkResultLabels, Counter>,
    audit_last_write: Family<SinkLabels, Gauge>,
}

/// How many audit lines were written and lost since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditCounts {
    /// The kind of the log: `file` or `stdout`.
    pub sink: &'static str,
    /// Number of written lines.
    pub written: u64,
    /// Number of lines that were lost, because the log could not be written for so long that the
    /// memory for waiting lines was full.
    pub lost: u64,
    /// The time of the last successful write, in seconds since the Unix epoch. Zero if there was
    /// none.
    pub last_write: u64,
}

/// A family of gauges that has exactly the labels of its last update.
struct GaugeSet<L> {
    family: Family<L, Gauge>,
    known: Mutex<HashSet<L>>,
}

impl fmt::Debug for StateMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("StateMetrics")
    }
}

impl<L: Clone + Eq + Hash> GaugeSet<L> {
    fn set(&self, values: impl IntoIterator<Item = (L, i64)>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = HashSet::new();
        for (labels, value) in values {
            self.family.get_or_create_owned(&labels).set(value);
            now.insert(labels);
        }
        for gone in known.difference(&now) {
            self.family.remove(gone);
        }
        *known = now;
    }
}

impl<L> GaugeSet<L>
where
    L: Clone + Eq + Hash + EncodeLabelSet + fmt::Debug + Send + Sync + 'static,
{
    fn registered(registry: &mut Registry, name: &str, help: &str) -> Self {
        Self {
            family: registered(registry, name, help),
            known: Mutex::default(),
        }
    }
}

impl StateMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        Self {
            problems: GaugeSet::registered(
                registry,
                "problem",
                "Problems that the gateway has now, by code",
            ),
            endpoints: GaugeSet::registered(
                registry,
                "upstream_endpoint_up",
                "Whether an endpoint accepts connections and responds: 1, or 0 if it is down",
            ),
            crl_next_updates: GaugeSet::registered(
                registry,
                "crl_next_update_timestamp_seconds",
                "When the revocation list of an issuer has to be replaced",
            ),
            deny_list_entries: GaugeSet::registered(
                registry,
                "deny_list_entries",
                "Entries of the deny list that are in force, by the file that has them",
            ),
            audit_lines: registered(
                registry,
                "audit_lines",
                "Lines of the audit log that were written or lost",
            ),
            audit_last_write: registered(
                registry,
                "audit_last_write_timestamp_seconds",
                "When a line of the audit log was written last",
            ),
        }
    }

    /// Sets the number of problems of each code.
    pub fn problems(&self, counts: impl IntoIterator<Item = (&'static str, i64)>) {
        let labelled = |(code, count)| (ProblemLabels { code }, count);
        self.problems.set(counts.into_iter().map(labelled));
    }

    /// Sets which endpoints are up. The items are the upstream, the endpoint, and whether it is up.
    pub fn endpoints<'a>(&self, states: impl IntoIterator<Item = (&'a str, &'a str, bool)>) {
        let labelled = |(upstream, endpoint, up): (&str, &str, bool)| {
            let labels = EndpointLabels {
                upstream: upstream.into(),
                endpoint: endpoint.into(),
            };
            (labels, i64::from(up))
        };
        self.endpoints.set(states.into_iter().map(labelled));
    }

    /// Sets when revocation lists have to be replaced. The items are the trust domain, the issuer
    /// and the time in seconds since the Unix epoch. If an issuer has several lists, the earliest
    /// time must be last.
    pub fn crl_next_updates<'a>(&self, lists: impl IntoIterator<Item = (&'a str, &'a str, i64)>) {
        let labelled = |(trust_domain, issuer, time): (&str, &str, i64)| {
            let labels = IssuerLabels {
                trust_domain: trust_domain.into(),
                issuer: issuer.into(),
            };
            (labels, time)
        };
        self.crl_next_updates.set(lists.into_iter().map(labelled));
    }

    /// Sets the number of entries of the deny list for each file.
    pub fn deny_list_entries<'a>(&self, counts: impl IntoIterator<Item = (&'a str, i64)>) {
        let labelled = |(source, count): (&str, i64)| {
            let source = source.into();
            (SourceLabels { source }, count)
        };
        self.deny_list_entries.set(counts.into_iter().map(labelled));
    }

    /// Sets the numbers of audit lines.
    pub fn audit(&self, counts: &AuditCounts) {
        let sink = counts.sink;
        for (result, count) in [("written", counts.written), ("lost", counts.lost)] {
            let labels = SinkResultLabels { sink, result };
            let counter = self.audit_lines.get_or_create_owned(&labels);
            counter.inner().store(count, Ordering::Relaxed);
        }
        let last_write = i64::try_from(counts.last_write).unwrap_or(i64::MAX);
        self.audit_last_write
            .get_or_create_owned(&SinkLabels { sink })
            .set(last_write);
    }
}
