//! `Upstream`: selects the endpoint for each request, and limits the requests.
//!
//! - `endpoint_state`: the health and load of one endpoint, and how long it is ejected
//! - `outlier`: decides for which callers an endpoint is ejected
//! - `retry_budget`: limits how many requests may be sent again
//! - `hash`: hashes that are the same on every replica

mod endpoint_state;
mod hash;
mod outlier;
mod retry_budget;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use self::endpoint_state::EndpointState;
use self::hash::{FNV_OFFSET, mix, step};
use self::retry_budget::RetryBudget;
use super::config::target::{Endpoint, HttpProtocol, Target};
use super::config::{Balance, MAX_STREAMS, Sharing, UpstreamConfig};
use super::connection::addresses::Addresses;
use super::connection::error::h2_code_name;
use super::limits::concurrency_limit::{ConcurrencyLimit, InFlightGuard};
use super::limits::connection_limit::ConnectionLimit;
use crate::identity::{CallerName, ShareKey};
use crate::policy::share::{NoPlace, Place, PlaceLimits, Places, Share};
use crate::reason::ReasonCode;
use crate::telemetry::metrics::{Metrics, UpstreamMetrics};

/// Maximum number of endpoints that one request tries to connect to.
pub const MAX_ATTEMPTS: usize = 3;

/// A service behind the gateway, as one `[[upstream]]` of the configuration describes it.
#[derive(Debug)]
pub struct Upstream {
    config: UpstreamConfig,
    states: Vec<Arc<EndpointState>>,
    next: AtomicUsize,
    requests: Arc<Places>,
    pending: Arc<ConcurrencyLimit>,
    budget: RetryBudget,
    meter: OnceLock<Arc<UpstreamMetrics>>,
}

/// The properties of a request that affect which endpoint is selected.
#[derive(Debug, Clone, Copy, Default)]
pub struct Affinity<'a> {
    /// The hash of the caller's name for rendezvous hashing. `None` if the caller has no name, or
    /// if `balance` is not [`Balance::Caller`].
    key: Option<u64>,
    /// The name of the caller. Failures of this caller's requests can eject an endpoint for this
    /// caller alone. `None` if the caller has no name.
    caller: Option<&'a CallerName>,
    /// The key of the caller in whose share the connection is counted. `None` means one common
    /// count for all callers.
    pub(in crate::upstream) share: Option<ShareKey>,
}

/// The endpoints that one request must not use any more, for example because connecting to them
/// failed.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Tried {
    indices: [usize; MAX_ATTEMPTS],
    count: usize,
}

impl Tried {
    /// Creates a set that contains `index`, so that the request is not sent to this endpoint again.
    /// If there is only one endpoint, the set stays empty.
    pub(in crate::upstream) fn avoiding(index: Option<usize>, upstream: &Upstream) -> Self {
        let mut tried = Self::default();
        if let Some(index) = index
            && upstream.states.len() > 1
        {
            tried.note(index);
        }
        tried
    }

    pub(in crate::upstream) fn note(&mut self, index: usize) {
        if let Some(next) = self.indices.get_mut(self.count) {
            *next = index;
            self.count += 1;
        }
    }

    fn contains(&self, index: usize) -> bool {
        self.indices
            .iter()
            .take(self.count)
            .any(|tried| *tried == index)
    }
}

/// Counts a request as in progress at an endpoint until this value is dropped.
#[derive(Debug)]
pub struct InProgress {
    upstream: Arc<Upstream>,
    index: usize,
}

impl Drop for InProgress {
    fn drop(&mut self) {
        if let Some(state) = self.upstream.states.get(self.index) {
            state.in_progress.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Upstream {
    /// Creates an upstream with its endpoints.
    #[must_use]
    pub fn new(config: UpstreamConfig) -> Self {
        Self::following(config, None)
    }

    /// Creates an upstream that replaces `earlier` after a reload. Endpoints that are also in
    /// `earlier` keep their connections, failures and health.
    #[must_use]
    pub fn following(config: UpstreamConfig, earlier: Option<&Self>) -> Self {
        let same_checks = earlier.is_some_and(|earlier| {
            earlier.config.health_check == config.health_check
                && earlier.config.dns_refresh == config.dns_refresh
        });
        let kept = |fresh: &EndpointState| {
            earlier?.states.iter().find(|state| {
                same_checks
                    && state.target == fresh.target
                    && state.limit.max() == fresh.limit.max()
            })
        };
        let states = config
            .endpoints
            .iter()
            .map(|endpoint| {
                let fresh = EndpointState::new(endpoint, &config);
                kept(&fresh).map_or_else(|| Arc::new(fresh), Arc::clone)
            })
            .collect();
        Self {
            budget: RetryBudget::new(config.retry_budget),
            config,
            states,
            next: AtomicUsize::new(0),
            requests: earlier.map_or_else(Arc::default, |earlier| Arc::clone(&earlier.requests)),
            pending: earlier.map_or_else(Arc::default, |earlier| Arc::clone(&earlier.pending)),
            meter: OnceLock::new(),
        }
    }

    /// Records whether a health check has found an endpoint healthy.
    pub fn set_healthy(&self, index: usize, healthy: bool) {
        if let Some(state) = self.states.get(index) {
            state.set_healthy(healthy);
        }
    }

    /// Returns whether health checks have found an endpoint healthy. Returns true if no health
    /// checks are configured.
    #[must_use]
    pub fn is_healthy(&self, index: usize) -> bool {
        self.states
            .get(index)
            .is_none_or(|state| !state.is_unhealthy())
    }

    /// Returns the endpoints in the order of the configuration. The second value is the time since
    /// which the endpoint is down, in seconds since the Unix epoch, and `None` if it is not: the
    /// gateway cannot connect to it, it responds to no caller, or health checks fail.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Endpoint, Option<u64>)> {
        let states = self.states.iter();
        states.map(|state| (&state.target.endpoint, state.down_since()))
    }

    /// Returns the addresses of an endpoint, and the endpoint's host and port.
    pub(in crate::upstream) fn location(
        &self,
        index: usize,
    ) -> Option<(&Arc<Addresses>, &Endpoint)> {
        let state = self.states.get(index)?;
        Some((&state.addresses, &state.target.endpoint))
    }

    /// Returns the object that limits the connections to an endpoint.
    pub(in crate::upstream) fn connection_limit(
        &self,
        index: usize,
    ) -> Option<&Arc<ConnectionLimit>> {
        self.states.get(index).map(|state| &state.limit)
    }

    /// Returns the key of the caller in whose share the connection is counted. If all callers
    /// share connections, this key is [`ShareKey::EVERYBODY`].
    pub(in crate::upstream) fn share_key(&self, affinity: Affinity<'_>) -> ShareKey {
        match self.config.share {
            Sharing::Always if self.config.protocol == HttpProtocol::Http2 => ShareKey::EVERYBODY,
            _ => affinity.share.unwrap_or(ShareKey::EVERYBODY),
        }
    }

    /// Counts a request as waiting for a connection. Returns `None` if `max_pending` requests wait
    /// already.
    pub(in crate::upstream) fn begin_waiting(&self) -> Option<InFlightGuard> {
        self.pending.acquire(self.config.max_pending)
    }

    /// Returns the name of the upstream in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Returns the configuration of the upstream.
    #[must_use]
    pub const fn config(&self) -> &UpstreamConfig {
        &self.config
    }

    /// Registers the upstream's counters. Must be called before the upstream is put into service.
    pub fn meter(&self, metrics: &Metrics) {
        self.meter.get_or_init(|| metrics.upstream(self.name()));
    }

    /// Counts a request to which the upstream sent no response. `reason` says why.
    pub fn record_no_response(&self, reason: ReasonCode) {
        if let Some(meter) = self.meter.get() {
            meter.failed(reason);
        }
    }

    /// Records that a service has ended an h2 connection with GOAWAY and the error `code`. `cause`
    /// describes what was unusual about the caller's requests. `cause` is `None` if nothing was
    /// unusual.
    pub(in crate::upstream) fn record_goaway(
        &self,
        endpoint: usize,
        code: h2::Reason,
        cause: Option<&'static str>,
    ) {
        let code = h2_code_name(code);
        if let Some(meter) = self.meter.get() {
            meter.connection_ended(code);
        }
        let cause = cause.unwrap_or("unknown");
        tracing::warn!(
            upstream = self.name(),
            endpoint,
            code,
            cause,
            "the service ended a connection with GOAWAY"
        );
    }

    /// Admits a request of `caller`, unless too many requests are in progress at the upstream. The
    /// returned [`Place`] counts the request as in progress until it is dropped.
    ///
    /// # Errors
    /// Returns the reason why the request may not be sent now. If the reason is
    /// [`NoPlace::Caller`], the request can [wait](Self::admit_later).
    pub fn admit(&self, caller: ShareKey, share: Share) -> Result<Place, NoPlace> {
        self.budget.earn();
        self.requests.enter(caller, self.place_limits(share))
    }

    /// Waits until the caller may have one more request in progress, and then admits the request.
    /// The wait ends if another request of the caller ends, or if the caller's share grows.
    ///
    /// # Errors
    /// Returns an error if the wait takes longer than `connect_timeout`, or if `max_pending`
    /// requests of the caller already wait.
    pub async fn admit_later(&self, caller: ShareKey, share: Share) -> Result<Place, NoPlace> {
        let (timeout, max_pending) = (self.config.connect_timeout, self.config.max_pending);
        self.requests
            .enter_within(caller, self.place_limits(share), timeout, max_pending)
            .await
    }

    /// Returns the maximum number of requests in progress at the upstream, and the maximum for one
    /// caller. The connection limit is considered too, because callers compete for connections:
    /// over HTTP/1.1, each request needs its own connection.
    fn place_limits(&self, share: Share) -> PlaceLimits {
        let max = self.config.max_requests;
        let connections = self
            .config
            .max_connections
            .saturating_mul(self.config.endpoints.len().max(1));
        PlaceLimits {
            max,
            shared: match self.config.protocol {
                HttpProtocol::Http1 => max.min(connections),
                // The connection limit has no effect here, because a connection that all callers
                // share may carry more than `MAX_STREAMS` requests.
                HttpProtocol::Http2 if self.config.share == Sharing::Always => max,
                HttpProtocol::Http2 => max.min(connections.saturating_mul(MAX_STREAMS)),
            },
            share,
        }
    }

    /// Returns whether the retry budget allows one more retry. If so, counts the retry.
    #[must_use]
    pub fn may_retry(&self) -> bool {
        let may = self.budget.spend();
        if may && let Some(meter) = self.meter.get() {
            meter.retried();
        }
        may
    }

    /// Returns the properties of a request that affect which endpoint is selected. `share` is the
    /// key of the caller in whose share the connection is counted.
    #[must_use]
    pub fn affinity<'a>(&self, caller: Option<&'a CallerName>, share: ShareKey) -> Affinity<'a> {
        let together = caller.filter(|_| self.config.balance == Balance::Caller);
        Affinity {
            key: together.map(|caller| caller.to_string().bytes().fold(FNV_OFFSET, step)),
            caller,
            share: Some(share),
        }
    }

    /// Records that an endpoint responded within the timeout. This ends the endpoint's ejections.
    pub fn record_response(&self, index: usize) {
        if let Some(state) = self.states.get(index) {
            state.record_response();
        }
    }

    /// Records that an endpoint received a request, but sent no response or a late response.
    /// `affinity` contains the caller of the request.
    pub fn record_timeout(&self, index: usize, affinity: Affinity<'_>) {
        if let Some(state) = self.states.get(index) {
            state.record_timeout(affinity.caller);
        }
    }

    /// Records that connecting to an endpoint failed, or that the endpoint closed a connection
    /// before a request was sent. No caller can be the cause of such a failure.
    pub fn record_connect_failure(&self, index: usize) {
        if let Some(state) = self.states.get(index) {
            state.record_failure();
        }
    }

    /// Records that an endpoint speaks h2 without extended CONNECT.
    pub(in crate::upstream) fn note_no_tunnels(&self, index: usize) {
        if let Some(state) = self.states.get(index) {
            state.note_no_tunnels();
        }
    }

    /// Returns whether one of the healthy endpoints was recently found to speak h2 without extended
    /// CONNECT.
    pub(in crate::upstream) fn has_endpoint_without_tunnels(&self) -> bool {
        let mut healthy = self.states.iter().filter(|state| !state.is_unhealthy());
        healthy.any(|state| state.has_no_tunnels())
    }

    pub(in crate::upstream) fn target(&self, index: usize) -> Option<&Arc<Target>> {
        self.states.get(index).map(|state| &state.target)
    }

    /// Counts a request as in progress, if `balance` is `LeastRequests`. The other modes do not
    /// need the count.
    pub(in crate::upstream) fn begin(self: &Arc<Self>, index: usize) -> Option<InProgress> {
        if self.config.balance != Balance::LeastRequests {
            return None;
        }
        self.states
            .get(index)?
            .in_progress
            .fetch_add(1, Ordering::Relaxed);
        Some(InProgress {
            upstream: Arc::clone(self),
            index,
        })
    }

    /// Selects the next endpoint that the request has not tried yet. If all healthy endpoints are
    /// ejected, selects an ejected one, because it may still respond. Never selects an endpoint
    /// that health checks have found unhealthy.
    pub(in crate::upstream) fn pick(&self, affinity: Affinity<'_>, tried: &Tried) -> Option<usize> {
        self.pick_among(affinity, tried, |_| true)
    }

    /// Selects an endpoint like [`Self::pick`], for a tunnel over h2. Skips endpoints that were
    /// recently found to speak h2 without extended CONNECT.
    pub(in crate::upstream) fn pick_for_tunnel(
        &self,
        affinity: Affinity<'_>,
        tried: &Tried,
    ) -> Option<usize> {
        self.pick_among(affinity, tried, |state| !state.has_no_tunnels())
    }

    fn pick_among(
        &self,
        affinity: Affinity<'_>,
        tried: &Tried,
        is_suitable: impl Fn(&EndpointState) -> bool,
    ) -> Option<usize> {
        if tried.count >= MAX_ATTEMPTS {
            return None;
        }
        if let [only] = &*self.states {
            return (tried.count == 0 && !only.is_unhealthy() && is_suitable(only)).then_some(0);
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let untried = || {
            let count = self.states.len();
            let start = turn.checked_rem(count).unwrap_or(0);
            (start..count)
                .chain(0..start)
                .filter(|index| !tried.contains(*index))
                .filter_map(|index| self.states.get(index).map(|state| (index, &**state)))
                .filter(|(_, state)| !state.is_unhealthy() && is_suitable(state))
        };
        let usable = || untried().filter(|(_, state)| !state.is_ejected(affinity.caller));
        self.choose(affinity.key, usable())
            .or_else(|| self.choose(affinity.key, untried()))
    }

    fn choose<'a>(
        &self,
        affinity: Option<u64>,
        mut among: impl Iterator<Item = (usize, &'a EndpointState)>,
    ) -> Option<usize> {
        let chosen = match (self.config.balance, affinity) {
            (Balance::LeastRequests, _) => {
                among.min_by_key(|(_, state)| state.in_progress.load(Ordering::Relaxed))
            }
            (Balance::Caller, Some(caller)) => {
                among.max_by_key(|(_, state)| mix(state.hash ^ caller))
            }
            (Balance::RoundRobin | Balance::Caller, _) => among.next(),
        };
        chosen.map(|(index, _)| index)
    }
}

#[cfg(test)]
mod ejection_tests;

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(balance: Balance, count: u16) -> Arc<Upstream> {
        Arc::new(Upstream::new(UpstreamConfig {
            endpoints: (0..count)
                .map(|port| Endpoint {
                    host: "service".into(),
                    port,
                })
                .collect(),
            balance,
            ..UpstreamConfig::default()
        }))
    }

    #[test]
    fn in_turn_and_past_those_that_fail() {
        let upstream = upstream(Balance::RoundRobin, 3);
        let none = Tried::default();
        let picks: Vec<_> = (0..4)
            .filter_map(|_| upstream.pick(Affinity::default(), &none))
            .collect();
        assert_eq!(picks, [0, 1, 2, 0]);
        upstream.record_connect_failure(1);
        for _ in 0..6 {
            assert_ne!(upstream.pick(Affinity::default(), &none), Some(1));
        }
        upstream.record_response(1);
        assert!((0..3).any(|_| upstream.pick(Affinity::default(), &none) == Some(1)));
    }

    #[test]
    fn every_endpoint_is_tried_once_even_when_all_fail() {
        let upstream = upstream(Balance::RoundRobin, 2);
        upstream.record_connect_failure(0);
        upstream.record_connect_failure(1);
        let mut tried = Tried::default();
        let mut seen = Vec::new();
        while let Some(index) = upstream.pick(Affinity::default(), &tried) {
            tried.note(index);
            seen.push(index);
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1]);
    }

    #[test]
    fn the_least_busy_endpoint_is_next() {
        let upstream = upstream(Balance::LeastRequests, 3);
        let none = Tried::default();
        let _first = upstream.begin(0);
        let second = upstream.begin(1);
        for _ in 0..3 {
            assert_eq!(upstream.pick(Affinity::default(), &none), Some(2));
        }
        let _third = upstream.begin(2);
        drop(second);
        assert_eq!(upstream.pick(Affinity::default(), &none), Some(1));
    }

    #[test]
    fn callers_stay_where_they_are() {
        let ten = upstream(Balance::Caller, 10);
        let nine = upstream(Balance::Caller, 9);
        let none = Tried::default();
        let mut moved = 0;
        let mut used = std::collections::HashSet::new();
        for number in 0..1000 {
            let caller = CallerName::Uri(format!("spiffe://example.org/{number}").into());
            let affinity = ten.affinity(Some(&caller), ShareKey::EVERYBODY);
            let chosen = ten.pick(affinity, &none);
            assert_eq!(chosen, ten.pick(affinity, &none));
            used.insert(chosen);
            moved += usize::from(chosen != nine.pick(affinity, &none));
        }
        assert_eq!(used.len(), 10);
        assert!((50..200).contains(&moved), "{moved} of 1000 moved");
    }

    #[test]
    fn an_unhealthy_endpoint_is_not_tried_and_what_is_known_outlives_a_reload() {
        let upstream = upstream(Balance::RoundRobin, 2);
        let none = Tried::default();
        upstream.set_healthy(0, false);
        assert!((0..4).all(|_| upstream.pick(Affinity::default(), &none) == Some(1)));
        let caller = ShareKey::of_caller(&CallerName::Dns("a.example.org".into()));
        let _place = upstream.admit(caller, Share::QUARTER);
        let next = Upstream::following(upstream.config().clone(), Some(&upstream));
        assert!(!next.is_healthy(0) && next.is_healthy(1));
        assert!((0..4).all(|_| next.pick(Affinity::default(), &none) == Some(1)));
        assert_eq!(next.requests.taken(), 1);
        next.set_healthy(1, false);
        assert_eq!(next.pick(Affinity::default(), &none), None);

        let mut fewer = upstream.config().clone();
        fewer.max_connections = 1;
        assert!(Upstream::following(fewer, Some(&upstream)).is_healthy(0));
    }

    #[test]
    fn what_one_caller_misses_is_held_against_an_endpoint_for_that_one() {
        let upstream = upstream(Balance::RoundRobin, 2);
        let none = Tried::default();
        let names = ["one", "two", "three", "four"].map(|name| CallerName::Dns(name.into()));
        let [one, two, three, four] =
            [0, 1, 2, 3].map(|n| upstream.affinity(names.get(n), ShareKey::EVERYBODY));
        let is_used = |whose| (0..2).any(|_| upstream.pick(whose, &none) == Some(0));
        for _ in 0..2 {
            upstream.record_timeout(0, one);
            assert!(is_used(one));
        }
        upstream.record_timeout(0, one);
        upstream.record_timeout(0, two);
        assert!(!is_used(one) && is_used(two) && is_used(four));
        assert!(is_used(Affinity::default()));
        // A response to any caller shows that the endpoint works. Therefore it ends the ejections
        // for all callers, and clears the counts of unanswered requests.
        upstream.record_response(0);
        assert!(is_used(one));
        for whose in [one, two] {
            upstream.record_timeout(0, whose);
            assert!(is_used(four));
        }
        upstream.record_timeout(0, three);
        assert!(!is_used(one) && !is_used(four) && !is_used(Affinity::default()));
    }
}
