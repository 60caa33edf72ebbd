//! `ControlState`: the state that the responses of all listeners report.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::readiness::{Problem, ProblemCode, Readiness};
use crate::assertion::published::{Documents, Published};
use crate::clock;
use crate::snapshot::Snapshot;
use crate::telemetry::handshake_sources::HandshakeSources;
use crate::telemetry::metrics::Metrics;
use crate::tls::LifeLeft;
use crate::trust::Freshness;

/// The state that responses report.
#[derive(Debug)]
pub struct ControlState {
    snapshot: Arc<ArcSwap<Snapshot>>,
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
    handshake_sources: Arc<HandshakeSources>,
    published: Published,
}

impl ControlState {
    /// Creates the state for all listeners.
    #[must_use]
    pub fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        readiness: Arc<Readiness>,
        metrics: Arc<Metrics>,
        handshake_sources: Arc<HandshakeSources>,
    ) -> Self {
        Self {
            snapshot,
            readiness,
            metrics,
            handshake_sources,
            published: Published::new(),
        }
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub(super) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    pub(super) fn handshake_sources(&self) -> &HandshakeSources {
        &self.handshake_sources
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Returns the problems that an operator should know about, although the gateway serves
    /// requests.
    pub(super) fn problems(&self, snapshot: &Snapshot) -> Vec<Problem> {
        let now = clock::certificate_now();
        let mut problems = self.readiness.problems();
        let alarms = snapshot.bundles.iter().flat_map(|bundle| bundle.alarms());
        problems.extend(alarms.map(|alarm| Problem::new(ProblemCode::Trust, alarm)));
        let lists = snapshot
            .bundles
            .iter()
            .flat_map(|bundle| bundle.freshness(now));
        problems.extend(lists.filter_map(|list| {
            let code = match list.freshness {
                Freshness::Fresh | Freshness::Due => ProblemCode::CrlHalfLife,
                Freshness::NotYet | Freshness::Grace | Freshness::Stale => ProblemCode::CrlStale,
            };
            Some(Problem::new(code, &list.alarm()?))
        }));
        let own = snapshot.own_certificates.iter();
        problems.extend(own.filter_map(|certificate| {
            let (code, since) = match certificate.left(now) {
                LifeLeft::Enough => return None,
                LifeLeft::Expiring => (ProblemCode::CertificateExpiring, certificate.renewal_due()),
                LifeLeft::Expired => (ProblemCode::CertificateExpired, certificate.not_after),
            };
            let problem = Problem::new(code, &certificate.alarm(now)?);
            Some(problem.since(since).command(&certificate.command()))
        }));
        let store = snapshot.limiter.shared().and_then(|store| store.problem());
        problems.extend(store.map(|detail| Problem::new(ProblemCode::StoreUnreachable, &detail)));
        let issuers = snapshot.token_issuers.iter();
        problems.extend(
            issuers
                .filter_map(|issuer| issuer.problem())
                .map(|detail| Problem::new(ProblemCode::TokenIssuerUnavailable, &detail)),
        );
        problems
    }

    pub(super) fn documents(&self) -> Arc<Documents> {
        let snapshot = self.snapshot.load();
        let signer = &snapshot.signer;
        self.published
            .documents(signer.settings(), signer.keys(), clock::unix_now())
    }
}
