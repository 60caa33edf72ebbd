//! The labels of metrics, and counters that are created on their first use.

use std::sync::{Arc, OnceLock};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::reason::ReasonCode;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CutLabels {
    pub(super) reason: &'static str,
}

impl CutLabels {
    pub(super) const fn of(reason: ReasonCode) -> Self {
        Self {
            reason: reason.as_str(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LimitLabels {
    pub(super) limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BuildLabels {
    pub(super) version: &'static str,
    pub(super) crypto_provider: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReloadLabels {
    pub(super) result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ListLabels {
    pub(super) trust_domain: Arc<str>,
    pub(super) freshness: &'static str,
}

/// The labels of a certificate that the gateway presents.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
pub struct CertificateLabels {
    /// The use of the certificate: `listener`, `server-name`, `upstream` or `token-issuer`.
    pub r#use: &'static str,
    /// The name of the configuration section that names the certificate. Empty for the listener.
    pub name: String,
    /// The serial number of the certificate, in hexadecimal.
    pub serial: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ProblemLabels {
    pub(super) code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct IssuerLabels {
    pub(super) trust_domain: Arc<str>,
    pub(super) issuer: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct SourceLabels {
    pub(super) source: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct SinkLabels {
    pub(super) sink: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct SinkResultLabels {
    pub(super) sink: &'static str,
    pub(super) result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct HandshakeLabels {
    pub(super) result: &'static str,
    pub(super) reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    pub(super) route: Arc<str>,
    pub(super) decision: &'static str,
    pub(super) reason: &'static str,
    /// The class of the status, such as `2xx`. Empty if no response was sent.
    pub(super) status_class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RouteLabels {
    pub(super) route: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct UpstreamNameLabels {
    pub(super) upstream: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct EndpointLabels {
    pub(super) upstream: Arc<str>,
    pub(super) endpoint: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct UpstreamLabels {
    pub(super) upstream: Arc<str>,
    pub(super) reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct UpstreamCodeLabels {
    pub(super) upstream: Arc<str>,
    pub(super) code: &'static str,
}

/// One counter for each reason code. A counter is created on its first use, because there are many
/// routes and most reasons never occur.
pub(super) struct PerReason<L> {
    family: Family<L, Counter>,
    labels: Box<dyn Fn(ReasonCode) -> L + Send + Sync>,
    counters: Box<[OnceLock<Counter>]>,
}

impl<L: Clone + Eq + std::hash::Hash> PerReason<L> {
    pub(super) fn new(
        family: &Family<L, Counter>,
        labels: impl Fn(ReasonCode) -> L + Send + Sync + 'static,
    ) -> Self {
        Self {
            family: family.clone(),
            labels: Box::new(labels),
            counters: ReasonCode::ALL.iter().map(|_| OnceLock::new()).collect(),
        }
    }

    pub(super) fn count(&self, reason: ReasonCode) {
        // The index is valid, because `ALL` lists the codes in the order of their discriminants.
        if let Some(counter) = self.counters.get(reason as usize) {
            counter
                .get_or_init(|| self.family.get_or_create_owned(&(self.labels)(reason)))
                .inc();
        }
    }
}
