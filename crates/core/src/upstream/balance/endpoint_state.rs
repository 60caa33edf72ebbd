//! `EndpointState`: the health and load of one endpoint, and how long it is ejected.
//!
//! All workers share the state, so every field that changes is an atomic. If an update is lost, the
//! only effect is a worse choice of an endpoint for one request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::hash::{mix, step};
use super::outlier::{EjectionScope, UnansweredRequests};
use crate::clock;
use crate::identity::CallerName;
use crate::upstream::config::UpstreamConfig;
use crate::upstream::config::target::{Endpoint, Target};
use crate::upstream::connection::addresses::Addresses;
use crate::upstream::limits::connection_limit::ConnectionLimit;

/// How long an endpoint is ejected after its first failure. Each further failure doubles the
/// time.
const FIRST_EJECTION: Duration = Duration::from_millis(500);
/// Maximum time of one ejection, after any number of failures.
const MAX_EJECTION: Duration = Duration::from_secs(60);
/// If no request fails for this time, the last failure no longer shows that the endpoint is down.
/// The time is longer than any ejection, so that requests can try the endpoint again before.
const FAILURE_LIFETIME: Duration = Duration::from_secs(120);
/// If an endpoint was found to speak h2 without extended CONNECT, the gateway opens no tunnel over
/// h2 to it for this time. Each attempt would cost a connection.
const NO_TUNNELS_TIME: Duration = Duration::from_secs(30);

/// The health and load of one endpoint, shared by all workers.
#[derive(Debug)]
pub(super) struct EndpointState {
    pub(super) target: Arc<Target>,
    pub(super) addresses: Arc<Addresses>,
    pub(super) limit: Arc<ConnectionLimit>,
    /// Whether health checks have found the endpoint unhealthy.
    unhealthy: AtomicBool,
    pub(super) hash: u64,
    pub(super) in_progress: AtomicUsize,
    /// Whether the endpoint has failed since its last response. If false, `failures`, `unanswered`
    /// and `ejected_until` have no meaning.
    has_failed: AtomicBool,
    failures: AtomicU32,
    unanswered: UnansweredRequests,
    /// The end of the endpoint's ejection for all callers, in milliseconds after `since`.
    pub(super) ejected_until: AtomicU64,
    /// The time until which no tunnel over h2 is opened to the endpoint, in milliseconds after
    /// `since`.
    no_tunnels_until: AtomicU64,
    pub(super) since: Instant,
    /// Since when the endpoint is down, in seconds since the Unix epoch. Zero if it is up, or if
    /// nothing is known.
    down_since: AtomicU64,
    /// The time until which the last failure of a request shows that the endpoint is down, in
    /// milliseconds after `since`.
    failure_counts_until: AtomicU64,
}

impl EndpointState {
    pub(super) fn new(endpoint: &Endpoint, config: &UpstreamConfig) -> Self {
        Self {
            hash: mix(endpoint.host.bytes().fold(u64::from(endpoint.port), step)),
            target: Arc::new(Target {
                endpoint: endpoint.clone(),
                protocol: config.protocol,
                tls: config.tls.as_ref().map(|tls| *tls.digest()),
            }),
            addresses: Arc::new(Addresses::new(endpoint, config.dns_refresh)),
            limit: Arc::new(ConnectionLimit::new(config.max_connections)),
            unhealthy: AtomicBool::new(false),
            in_progress: AtomicUsize::new(0),
            has_failed: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            unanswered: UnansweredRequests::default(),
            ejected_until: AtomicU64::new(0),
            no_tunnels_until: AtomicU64::new(0),
            since: Instant::now(),
            down_since: AtomicU64::new(0),
            failure_counts_until: AtomicU64::new(0),
        }
    }

    pub(super) fn is_unhealthy(&self) -> bool {
        self.unhealthy.load(Ordering::Relaxed)
    }

    /// Records whether a health check has found the endpoint healthy.
    pub(super) fn set_healthy(&self, healthy: bool) {
        let down_since = self.down_since();
        let was_unhealthy = self.unhealthy.swap(!healthy, Ordering::Relaxed);
        if !healthy {
            self.mark_down(down_since);
        } else if was_unhealthy || !self.has_failed.load(Ordering::Relaxed) {
            // An endpoint can pass all its checks while its requests fail. Only a response ends
            // such failures.
            self.down_since.store(0, Ordering::Relaxed);
        }
    }

    /// Returns since when the endpoint is down for all callers, in seconds since the Unix epoch.
    /// Returns `None` if its last response is newer than its last failure, or if the failure is too
    /// old.
    pub(super) fn down_since(&self) -> Option<u64> {
        let since = self.down_since.load(Ordering::Relaxed);
        let is_down = self.is_unhealthy() || self.is_before(&self.failure_counts_until);
        (since != 0 && is_down).then_some(since)
    }

    /// Records that the endpoint is down. `earlier` is the time since which it was already down.
    fn mark_down(&self, earlier: Option<u64>) {
        if earlier.is_none() {
            self.down_since.store(clock::unix_now(), Ordering::Relaxed);
        }
    }

    pub(super) fn has_no_tunnels(&self) -> bool {
        self.is_before(&self.no_tunnels_until)
    }

    pub(super) fn is_ejected(&self, caller: Option<&CallerName>) -> bool {
        let is_for_it = || {
            let own = self.unanswered.of(caller);
            own.is_some_and(|own| self.is_before(&own.ejected_until))
        };
        self.has_failed.load(Ordering::Relaxed)
            && (self.is_before(&self.ejected_until) || is_for_it())
    }

    /// Ejects the endpoint and stores the end of the ejection in `until`. `before` is the number of
    /// earlier ejections. Each of them doubles the time of this ejection.
    fn eject(&self, until: &AtomicU64, before: u32) {
        let time = FIRST_EJECTION
            .saturating_mul(1 << before.min(16))
            .min(MAX_EJECTION);
        self.set(until, time);
    }

    pub(super) fn record_failure(&self) {
        let before = self.failures.fetch_add(1, Ordering::Relaxed);
        self.eject(&self.ejected_until, before);
        self.has_failed.store(true, Ordering::Relaxed);
        self.mark_down(self.down_since());
        self.set(&self.failure_counts_until, FAILURE_LIFETIME);
    }

    pub(super) fn record_timeout(&self, caller: Option<&CallerName>) {
        match self.unanswered.note(caller) {
            EjectionScope::AllCallers => self.record_failure(),
            EjectionScope::Caller(own, before) => self.eject(&own.ejected_until, before),
            // The endpoint is not ejected: one slow or broken request is not enough evidence that
            // it fails.
            EjectionScope::None => {}
        }
        self.has_failed.store(true, Ordering::Relaxed);
    }

    pub(super) fn record_response(&self) {
        // `has_failed` is loaded first, so that most responses need no store. Atomic loads are
        // cheap as long as no thread writes.
        if self.has_failed.load(Ordering::Relaxed) {
            self.has_failed.store(false, Ordering::Relaxed);
            self.failures.store(0, Ordering::Relaxed);
            self.ejected_until.store(0, Ordering::Relaxed);
            self.unanswered.clear();
            if !self.is_unhealthy() {
                self.down_since.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Records that the endpoint speaks h2 without extended CONNECT.
    pub(super) fn note_no_tunnels(&self) {
        self.set(&self.no_tunnels_until, NO_TUNNELS_TIME);
    }

    fn is_before(&self, until: &AtomicU64) -> bool {
        let until = until.load(Ordering::Relaxed);
        until != 0 && until > u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn set(&self, until: &AtomicU64, time: Duration) {
        let end = self.since.elapsed().saturating_add(time).as_millis();
        until.store(u64::try_from(end).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
