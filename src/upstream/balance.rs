//! `Upstream`: its endpoints, and whose turn it is.
//!
//! Failures are noticed by the requests that meet them; `standing` knows how each endpoint
//! stands.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::addresses::Addresses;
use super::gate::{Gate, Pass};
use super::pool::MAX_STREAMS;
use super::retry::RetryBudget;
use super::slots::Slots;
use super::standing::State;
use super::{Endpoint, HttpProtocol, Sharing, UpstreamConfig, h2_code_name};
use crate::identity::{CallerName, ShareKey};
use crate::policy::share::{NoPlace, Place, PlaceLimits, Places, Share};
use crate::reason::ReasonCode;
use crate::telemetry::metrics::{Metrics, UpstreamMetrics};

/// Most endpoints that one request tries to connect to.
pub const MAX_ATTEMPTS: usize = 3;

/// How requests are spread over the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// In turn.
    #[default]
    RoundRobin,
    /// To the endpoint with the fewest requests in progress.
    LeastRequests,
    /// Requests of one caller to one endpoint, as long as it is there. Another
    /// endpoint more or less moves few callers (rendezvous hashing).
    Caller,
}

/// What connections may be shared by: address, protocol and TLS expectations.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub(super) endpoint: Endpoint,
    pub(super) protocol: HttpProtocol,
    pub(super) tls: Option<[u8; 32]>,
}

#[cfg(test)]
impl Target {
    pub(super) fn plain(host: &str, port: u16) -> Self {
        Self {
            endpoint: Endpoint {
                host: host.into(),
                port,
            },
            protocol: HttpProtocol::Http1,
            tls: None,
        }
    }
}

/// A named destination.
#[derive(Debug)]
pub struct Upstream {
    config: UpstreamConfig,
    states: Vec<Arc<State>>,
    next: AtomicUsize,
    requests: Arc<Places>,
    pending: Arc<Gate>,
    budget: RetryBudget,
    meter: OnceLock<Arc<UpstreamMetrics>>,
}

/// What a caller has to do with the choice of endpoints.
#[derive(Debug, Clone, Copy, Default)]
pub struct Affinity<'a> {
    /// Keeps its requests together, where that is wanted.
    key: Option<u64>,
    /// For whom some are passed over; none where nothing names the caller.
    caller: Option<&'a CallerName>,
    /// Whose share of the endpoint's connections the request takes.
    pub(super) share: Option<ShareKey>,
}

/// Endpoints that a request has tried in vain.
#[derive(Debug, Default)]
pub(super) struct Tried {
    indices: [usize; MAX_ATTEMPTS],
    count: usize,
}

impl Tried {
    /// None, or the one that a request should not be sent to again, where there
    /// are others.
    pub(super) fn avoiding(index: Option<usize>, upstream: &Upstream) -> Self {
        let mut tried = Self::default();
        if let Some(index) = index
            && upstream.states.len() > 1
        {
            tried.note(index);
        }
        tried
    }

    pub(super) fn note(&mut self, index: usize) {
        if let Some(place) = self.indices.get_mut(self.count) {
            *place = index;
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

/// One request in progress at an endpoint, until it is dropped.
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
    /// An upstream with its endpoints.
    #[must_use]
    pub fn new(config: UpstreamConfig) -> Self {
        Self::following(config, None)
    }

    /// An upstream that takes the place of an earlier one. What is known of endpoints
    /// that stay is kept: connections, failures and health.
    #[must_use]
    pub fn following(config: UpstreamConfig, earlier: Option<&Self>) -> Self {
        let same_checks = earlier.is_some_and(|earlier| {
            earlier.config.health_check == config.health_check
                && earlier.config.dns_refresh == config.dns_refresh
        });
        let kept = |fresh: &State| {
            earlier?.states.iter().find(|state| {
                same_checks
                    && state.target == fresh.target
                    && state.slots.most() == fresh.slots.most()
            })
        };
        let states = config
            .endpoints
            .iter()
            .map(|endpoint| {
                let fresh = State::new(endpoint, &config);
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

    /// A health check has found an endpoint well or not.
    pub fn found(&self, index: usize, well: bool) {
        if let Some(state) = self.states.get(index) {
            state.unwell.store(!well, Ordering::Relaxed);
        }
    }

    /// What health checks say of an endpoint; well where there are none.
    #[must_use]
    pub fn is_well(&self, index: usize) -> bool {
        self.states
            .get(index)
            .is_none_or(|state| !state.is_unwell())
    }

    /// Where an endpoint is.
    pub(super) fn place(&self, index: usize) -> Option<(&Arc<Addresses>, &Endpoint)> {
        let state = self.states.get(index)?;
        Some((&state.addresses, &state.target.endpoint))
    }

    /// The connections that an endpoint gets.
    pub(super) fn slots(&self, index: usize) -> Option<&Arc<Slots>> {
        self.states.get(index).map(|state| &state.slots)
    }

    /// Whose share of the endpoints' connections a request takes.
    pub(super) fn share_key(&self, affinity: Affinity<'_>) -> ShareKey {
        match self.config.share {
            Sharing::Always if self.config.protocol == HttpProtocol::Http2 => ShareKey::EVERYBODY,
            _ => affinity.share.unwrap_or(ShareKey::EVERYBODY),
        }
    }

    /// A place among the requests that wait for a connection.
    pub(super) fn wait(&self) -> Option<Pass> {
        self.pending.enter(self.config.max_pending)
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Names, addresses and timeouts.
    #[must_use]
    pub const fn config(&self) -> &UpstreamConfig {
        &self.config
    }

    /// Resolves its counters; to be called before it is put into service.
    pub fn meter(&self, metrics: &Metrics) {
        self.meter.get_or_init(|| metrics.upstream(self.name()));
    }

    /// Counts that it gave no answer, and why.
    pub fn record_no_response(&self, reason: ReasonCode) {
        if let Some(meter) = self.meter.get() {
            meter.failed(reason);
        }
    }

    /// A service has ended a connection in h2 with this error; `cause` is what was unusual
    /// about what its caller sent.
    pub(super) fn connection_ended(
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

    /// Lets a request of this caller in, unless there are too many in progress.
    ///
    /// # Errors
    /// Why it may not be sent now. A caller that holds as much as it may can
    /// [wait](Self::admit_later).
    pub fn admit(&self, caller: ShareKey, share: Share) -> Result<Place, NoPlace> {
        self.budget.earn();
        self.requests.enter(caller, self.place_limits(share))
    }

    /// Lets a request in when one of the same caller ends, if that is soon enough.
    ///
    /// # Errors
    /// If it is not, or too many of the caller's requests wait.
    pub async fn admit_later(&self, caller: ShareKey, share: Share) -> Result<Place, NoPlace> {
        let (timeout, max_pending) = (self.config.connect_timeout, self.config.max_pending);
        self.requests
            .enter_within(caller, self.place_limits(share), timeout, max_pending)
            .await
    }

    /// How its requests in progress are shared. Over HTTP/1.1 each needs a connection of
    /// its own, so that connections are what callers compete for.
    fn place_limits(&self, share: Share) -> PlaceLimits {
        let most = self.config.max_requests;
        let connections = self
            .config
            .max_connections
            .saturating_mul(self.config.endpoints.len().max(1));
        PlaceLimits {
            most,
            shared: match self.config.protocol {
                HttpProtocol::Http1 => most.min(connections),
                // More are opened where all callers share connections.
                HttpProtocol::Http2 if self.config.share == Sharing::Always => most,
                HttpProtocol::Http2 => most.min(connections.saturating_mul(MAX_STREAMS)),
            },
            share,
        }
    }

    /// Whether a request may be sent again; counts it.
    #[must_use]
    pub fn may_retry(&self) -> bool {
        let may = self.budget.spend();
        if may && let Some(meter) = self.meter.get() {
            meter.retried();
        }
        may
    }

    /// What this caller has to do with the choice of endpoints; `share` is whose part of
    /// the connections to them the request takes.
    #[must_use]
    pub fn affinity<'a>(&self, caller: Option<&'a CallerName>, share: ShareKey) -> Affinity<'a> {
        let together = caller.filter(|_| self.config.balance == Balance::Caller);
        Affinity {
            key: together.map(|caller| caller.to_string().bytes().fold(FNV_OFFSET, step)),
            caller,
            share: Some(share),
        }
    }

    /// An endpoint answered in time.
    pub fn answered(&self, index: usize) {
        if let Some(state) = self.states.get(index) {
            state.answered();
        }
    }

    /// An endpoint took a request of this caller and gave no answer, or none in time.
    pub fn record_timeout(&self, index: usize, affinity: Affinity<'_>) {
        if let Some(state) = self.states.get(index) {
            state.record_timeout(affinity.caller);
        }
    }

    /// An endpoint could not be connected to, or closed a connection before it could be
    /// asked for anything: no caller has a part in that.
    pub fn failed(&self, index: usize) {
        if let Some(state) = self.states.get(index) {
            state.failed();
        }
    }

    /// An endpoint speaks h2 without extended CONNECT.
    pub(super) fn note_no_tunnels(&self, index: usize) {
        if let Some(state) = self.states.get(index) {
            state.note_no_tunnels();
        }
    }

    /// Whether that was noted lately of one that is well.
    pub(super) fn knows_of_no_tunnels(&self) -> bool {
        let mut well = self.states.iter().filter(|state| !state.is_unwell());
        well.any(|state| state.has_no_tunnels())
    }

    pub(super) fn target(&self, index: usize) -> Option<&Arc<Target>> {
        self.states.get(index).map(|state| &state.target)
    }

    /// Counts a request where the choice of endpoints depends on it.
    pub(super) fn begin(self: &Arc<Self>, index: usize) -> Option<InProgress> {
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

    /// The next endpoint that was not tried yet. One that failed lately comes
    /// last: with all of them failing, trying is still better than not. One that
    /// health checks found unwell is not tried at all.
    pub(super) fn pick(&self, affinity: Affinity<'_>, tried: &Tried) -> Option<usize> {
        self.pick_among(affinity, tried, |_| true)
    }

    /// As [`Self::pick`], for a tunnel over h2: without those that carry none.
    pub(super) fn pick_for_tunnel(&self, affinity: Affinity<'_>, tried: &Tried) -> Option<usize> {
        self.pick_among(affinity, tried, |state| !state.has_no_tunnels())
    }

    fn pick_among(
        &self,
        affinity: Affinity<'_>,
        tried: &Tried,
        is_suitable: impl Fn(&State) -> bool,
    ) -> Option<usize> {
        if tried.count >= MAX_ATTEMPTS {
            return None;
        }
        if let [only] = &*self.states {
            return (tried.count == 0 && !only.is_unwell() && is_suitable(only)).then_some(0);
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let untried = || {
            let count = self.states.len();
            let start = turn.checked_rem(count).unwrap_or(0);
            (start..count)
                .chain(0..start)
                .filter(|index| !tried.contains(*index))
                .filter_map(|index| self.states.get(index).map(|state| (index, &**state)))
                .filter(|(_, state)| !state.is_unwell() && is_suitable(state))
        };
        let well = || untried().filter(|(_, state)| !state.is_paused(affinity.caller));
        self.choose(affinity.key, well())
            .or_else(|| self.choose(affinity.key, untried()))
    }

    fn choose<'a>(
        &self,
        affinity: Option<u64>,
        mut among: impl Iterator<Item = (usize, &'a State)>,
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

/// FNV-1a; the same on every replica.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

pub(super) const fn step(hash: u64, octet: u8) -> u64 {
    (hash ^ octet as u64).wrapping_mul(0x0100_0000_01b3)
}

/// The finalizer of SplitMix64: every bit of the input moves every bit.
pub(super) const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod back_off;

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
        upstream.failed(1);
        for _ in 0..6 {
            assert_ne!(upstream.pick(Affinity::default(), &none), Some(1));
        }
        upstream.answered(1);
        assert!((0..3).any(|_| upstream.pick(Affinity::default(), &none) == Some(1)));
    }

    #[test]
    fn every_endpoint_is_tried_once_even_when_all_fail() {
        let upstream = upstream(Balance::RoundRobin, 2);
        upstream.failed(0);
        upstream.failed(1);
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
    fn an_unwell_endpoint_is_not_tried_and_what_is_known_outlives_a_reload() {
        let upstream = upstream(Balance::RoundRobin, 2);
        let none = Tried::default();
        upstream.found(0, false);
        assert!((0..4).all(|_| upstream.pick(Affinity::default(), &none) == Some(1)));
        let caller = ShareKey::of_caller(&CallerName::Dns("a.example.org".into()));
        let _place = upstream.admit(caller, Share::QUARTER);
        let next = Upstream::following(upstream.config().clone(), Some(&upstream));
        assert!(!next.is_well(0) && next.is_well(1));
        assert!((0..4).all(|_| next.pick(Affinity::default(), &none) == Some(1)));
        assert_eq!(next.requests.taken(), 1);
        next.found(1, false);
        assert_eq!(next.pick(Affinity::default(), &none), None);

        let mut fewer = upstream.config().clone();
        fewer.max_connections = 1;
        assert!(Upstream::following(fewer, Some(&upstream)).is_well(0));
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
        // An answer to anybody shows that it is there.
        upstream.answered(0);
        assert!(is_used(one));
        for whose in [one, two] {
            upstream.record_timeout(0, whose);
            assert!(is_used(four));
        }
        upstream.record_timeout(0, three);
        assert!(!is_used(one) && !is_used(four) && !is_used(Affinity::default()));
    }
}
