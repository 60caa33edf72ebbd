//! `State`: how one endpoint stands, and for how long it is passed over.
//!
//! Shared by all workers, so everything that changes is an atomic; a lost update costs one
//! request an unlucky choice and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::addresses::Addresses;
use super::balance::{Target, mix, step};
use super::slots::Slots;
use super::unanswered::{PassedOverFor, Unanswered};
use super::{Endpoint, UpstreamConfig};
use crate::identity::CallerName;

/// An endpoint that failed is passed over for this long, twice as long each
/// further time …
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a service that announces no extended CONNECT is not asked again whether it
/// does: each time costs a connection.
const NO_TUNNELS_PAUSE: Duration = Duration::from_secs(30);

/// What is known of one endpoint.
#[derive(Debug)]
pub(super) struct State {
    pub(super) target: Arc<Target>,
    pub(super) addresses: Arc<Addresses>,
    pub(super) slots: Arc<Slots>,
    /// Health checks say that it is not well.
    pub(super) unwell: AtomicBool,
    pub(super) hash: u64,
    pub(super) in_progress: AtomicUsize,
    /// Whether it failed since it last answered. If not, what follows says nothing.
    troubled: AtomicBool,
    failures: AtomicU32,
    unanswered: Unanswered,
    /// Milliseconds after `since` until which it is passed over …
    pub(super) paused_until: AtomicU64,
    /// … and until which it is not asked for tunnels over h2.
    no_tunnels_until: AtomicU64,
    pub(super) since: Instant,
}

impl State {
    pub(super) fn new(endpoint: &Endpoint, config: &UpstreamConfig) -> Self {
        Self {
            hash: mix(endpoint.host.bytes().fold(u64::from(endpoint.port), step)),
            target: Arc::new(Target {
                endpoint: endpoint.clone(),
                protocol: config.protocol,
                tls: config.tls.as_ref().map(|tls| *tls.digest()),
            }),
            addresses: Arc::new(Addresses::new(endpoint, config.dns_refresh)),
            slots: Arc::new(Slots::new(config.max_connections)),
            unwell: AtomicBool::new(false),
            in_progress: AtomicUsize::new(0),
            troubled: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            unanswered: Unanswered::default(),
            paused_until: AtomicU64::new(0),
            no_tunnels_until: AtomicU64::new(0),
            since: Instant::now(),
        }
    }

    pub(super) fn is_unwell(&self) -> bool {
        self.unwell.load(Ordering::Relaxed)
    }

    pub(super) fn has_no_tunnels(&self) -> bool {
        self.is_before(&self.no_tunnels_until)
    }

    pub(super) fn is_paused(&self, caller: Option<&CallerName>) -> bool {
        let is_for_it = || {
            let own = self.unanswered.of(caller);
            own.is_some_and(|own| self.is_before(&own.paused_until))
        };
        self.troubled.load(Ordering::Relaxed) && (self.is_before(&self.paused_until) || is_for_it())
    }

    /// Passes it over, for longer the more often it was `before`.
    fn pause(&self, until: &AtomicU64, before: u32) {
        let pause = FIRST_PAUSE
            .saturating_mul(1 << before.min(16))
            .min(LONGEST_PAUSE);
        self.set(until, pause);
    }

    pub(super) fn failed(&self) {
        let before = self.failures.fetch_add(1, Ordering::Relaxed);
        self.pause(&self.paused_until, before);
        self.troubled.store(true, Ordering::Relaxed);
    }

    pub(super) fn record_timeout(&self, caller: Option<&CallerName>) {
        match self.unanswered.note(caller) {
            PassedOverFor::Everybody => self.failed(),
            PassedOverFor::One(own, before) => self.pause(&own.paused_until, before),
            // One slow or broken request says little about its service.
            PassedOverFor::Nobody => {}
        }
        self.troubled.store(true, Ordering::Relaxed);
    }

    pub(super) fn answered(&self) {
        // Reading costs nothing where nobody writes.
        if self.troubled.load(Ordering::Relaxed) {
            self.troubled.store(false, Ordering::Relaxed);
            self.failures.store(0, Ordering::Relaxed);
            self.paused_until.store(0, Ordering::Relaxed);
            self.unanswered.forget();
        }
    }

    /// It speaks h2 without extended CONNECT.
    pub(super) fn note_no_tunnels(&self) {
        self.set(&self.no_tunnels_until, NO_TUNNELS_PAUSE);
    }

    fn is_before(&self, until: &AtomicU64) -> bool {
        let until = until.load(Ordering::Relaxed);
        until != 0 && until > u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn set(&self, until: &AtomicU64, pause: Duration) {
        let end = self.since.elapsed().saturating_add(pause).as_millis();
        until.store(u64::try_from(end).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
