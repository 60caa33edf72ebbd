//! `Connection`: the state of one caller's connection, and what belongs to it.
//!
//! - `worker`: the state that all connections share, and the state that those of one
//!   thread share
//! - `guard`: the connection's slot
//! - `caller_connections`: the open connections of each caller
//! - `handshake_turns`: handshakes yield to established connections
//! - `in_flight`: the requests in progress
//! - `lifetime`: when the connection has to end
//! - `trust_broadcast`: tells the connections of a worker that trust has changed
//! - `forwarded_headers`: fields that describe the connection to the service
//! - `assertion_cache`: assertions that later requests can reuse
//! - `request_body`: a body on its way to the service
//! - `buffered_body`: a body that was read to its end
//! - `unread_body`: the rest of a request whose response is complete
//! - `response_audit`: the audit record of a response until the response ends

pub(crate) mod assertion_cache;
pub(crate) mod buffered_body;
pub mod caller_connections;
pub(crate) mod forwarded_headers;
pub(crate) mod guard;
pub(crate) mod handshake_turns;
pub(crate) mod in_flight;
pub(crate) mod lifetime;
pub(crate) mod request_body;
pub(crate) mod response_audit;
mod trust_broadcast;
pub(crate) mod unread_body;
pub mod worker;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls_pki_types::CertificateDer;
use tokio::sync::Notify;

use self::assertion_cache::AssertionCache;
use self::caller_connections::YieldSignal;
use self::forwarded_headers::ForwardedHeaderCache;
use self::guard::ConnectionGuard;
use self::in_flight::{InFlightRequest, InFlightRequests, PermittedRequest};
use self::worker::Worker;
use crate::authn::ConnectionProof;
use crate::identity::text::printable;
use crate::identity::{PeerIdentity, ShareKey};
use crate::policy::Denial;
use crate::policy::revalidate::revalidate;
use crate::policy::share::PlaceLimits;
use crate::reason::ReasonCode;
use crate::snapshot::{Snapshot, TrustStamp};
use crate::telemetry::record::{ConnectionCut, ConnectionFacts};
use crate::tls::ClientCertificate;

/// The identity that the handshake proved.
struct ProvenIdentity {
    /// The identity as it was last verified. Its revocation status and root may change
    /// during the connection, but its caller name may not.
    identity: ArcSwap<PeerIdentity>,
    proven_at: u64,
    resumed: bool,
}

impl From<ConnectionProof> for ProvenIdentity {
    fn from(proof: ConnectionProof) -> Self {
        Self {
            identity: ArcSwap::new(proof.identity),
            proven_at: proof.proven_at,
            resumed: proof.resumed,
        }
    }
}

/// A connection after its handshake, shared by all its requests.
pub(crate) struct Connection {
    worker: Arc<Worker>,
    guard: ConnectionGuard,
    facts: Arc<ConnectionFacts>,
    /// The TLS server name, normalized.
    server_name: Option<String>,
    proof: Option<ProvenIdentity>,
    /// The trust state under which the identity was last verified. It is locked while the
    /// identity is replaced, so that both always match.
    verified_by: Mutex<TrustStamp>,
    assertion_cache: AssertionCache,
    /// The chain that the caller presented. None if the caller proved no identity.
    chain: Option<Arc<[CertificateDer<'static>]>>,
    forwarded_headers: ForwardedHeaderCache,
    in_flight: Arc<InFlightRequests>,
    cut_reason: OnceLock<Denial>,
    end: EndSignal,
    yielding: Arc<YieldSignal>,
}

/// The results of a handshake, from which a connection is made.
pub(crate) struct ConnectionParts {
    pub(crate) worker: Arc<Worker>,
    pub(crate) guard: ConnectionGuard,
    pub(crate) facts: ConnectionFacts,
    /// The TLS server name, normalized.
    pub(crate) server_name: Option<String>,
    pub(crate) proof: Option<ConnectionProof>,
    /// The trust state under which `proof` was verified.
    pub(crate) verified_by: TrustStamp,
    /// The chain that the caller presented. None if the caller proved no identity.
    pub(crate) chain: Option<Arc<[CertificateDer<'static>]>>,
}

/// Signals the end of a connection to its streams and tunnels, which run in other tasks.
#[derive(Debug, Default)]
struct EndSignal {
    has_ended: AtomicBool,
    notify: Notify,
}

impl Connection {
    pub(crate) fn new(parts: ConnectionParts) -> Self {
        Self {
            worker: parts.worker,
            guard: parts.guard,
            facts: Arc::new(parts.facts),
            server_name: parts.server_name,
            proof: parts.proof.map(ProvenIdentity::from),
            verified_by: Mutex::new(parts.verified_by),
            assertion_cache: AssertionCache::default(),
            chain: parts.chain,
            forwarded_headers: ForwardedHeaderCache::default(),
            in_flight: Arc::default(),
            cut_reason: OnceLock::new(),
            end: EndSignal::default(),
            yielding: Arc::default(),
        }
    }

    pub(crate) const fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }

    pub(crate) const fn guard(&self) -> &ConnectionGuard {
        &self.guard
    }

    pub(crate) const fn facts(&self) -> &Arc<ConnectionFacts> {
        &self.facts
    }

    pub(crate) fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    pub(crate) const fn chain(&self) -> Option<&Arc<[CertificateDer<'static>]>> {
        self.chain.as_ref()
    }

    pub(crate) const fn forwarded_headers(&self) -> &ForwardedHeaderCache {
        &self.forwarded_headers
    }

    pub(crate) const fn assertion_cache(&self) -> &AssertionCache {
        &self.assertion_cache
    }

    pub(crate) const fn in_flight(&self) -> &Arc<InFlightRequests> {
        &self.in_flight
    }

    /// Counts the connection for its caller, or for its address if there is no
    /// certificate.
    ///
    /// # Errors
    /// If the caller or address has reached its limit.
    pub(crate) async fn enter(&self) -> Result<(), Denial> {
        let (key, share) = {
            let snapshot = self.snapshot();
            let key = match self.proof() {
                Some(proof) => Some(ShareKey::of_caller(proof.identity.caller())),
                None => snapshot.counted_address(self.facts.peer.ip()),
            };
            (key, snapshot.limits.caller.connections)
        };
        // The address is shared by many peers, which cannot be distinguished.
        let Some(key) = key else {
            return Ok(());
        };
        let places = PlaceLimits {
            max: usize::MAX,
            shared: self.worker.shared().max_connections,
            share,
        };
        let connections = &self.worker.shared().caller_connections;
        let entered = connections.admit(key, places, &self.in_flight, &self.yielding);
        self.guard.set_caller(entered.await?);
        Ok(())
    }

    /// Resolves when the connection should close because its caller opens another one.
    pub(crate) async fn asked_to_yield(&self) {
        self.yielding.asked().await;
    }

    /// Resolves when the connection is cut off or has ended.
    pub(crate) async fn ended(&self) {
        // Created before the check, so that an end in between is not missed.
        let notified = self.end.notify.notified();
        if !self.end.has_ended.load(Ordering::Acquire) {
            notified.await;
        }
    }

    /// Signals that the connection has ended.
    pub(crate) fn end(&self) {
        self.end.has_ended.store(true, Ordering::Release);
        self.end.notify.notify_waiters();
    }

    /// Returns why the connection was cut off, if it was.
    pub(crate) fn cut_reason(&self) -> Option<&Denial> {
        self.cut_reason.get()
    }

    /// Records that the connection is cut off and signals its end.
    pub(crate) fn cut(&self, denial: Denial) {
        tracing::info!(
            peer = %self.facts.peer,
            reason = denial.reason.as_str(),
            detail = %printable(&denial.recorded()),
            "a connection was cut off"
        );
        let metrics = &self.worker.shared().metrics;
        metrics.connection_cut(denial.reason);
        let proof = self.proof();
        self.worker.audit().write(&ConnectionCut::new(
            &self.facts,
            proof.as_ref().map(|proof| &*proof.identity),
            denial.reason,
            &denial.recorded(),
        ));
        let _ = self.cut_reason.set(denial);
        self.end();
    }

    /// Records that h2 itself refused something, before it reached a handler.
    pub(crate) fn record_h2_refusal(&self, detail: &str) {
        self.record_refusal(&Denial::new(ReasonCode::MalformedRequest, detail));
    }

    /// Records a refusal that does not belong to a request, for example of the whole
    /// connection.
    pub(crate) fn record_refusal(&self, denial: &Denial) {
        let (reason, detail) = (denial.reason, &denial.detail);
        let worker = &self.worker;
        let metrics = &worker.shared().metrics;
        metrics.unrouted().refused(reason, Duration::ZERO);
        if let Some(limit) = denial.limit {
            metrics.limit_reached(limit.as_str());
        }
        let proof = self.proof();
        let identity = proof.as_ref().map(|proof| &*proof.identity);
        let line = ConnectionCut::new(&self.facts, identity, reason, detail).refused();
        worker.audit().write(&line);
    }

    /// Whether the gateway stops: only requests that have begun may finish.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.worker.shared().stopping.borrow()
    }

    /// Returns the newest snapshot. A request must use one snapshot from its beginning to
    /// its end.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.worker.shared().snapshot.load_full()
    }

    /// Whether `snapshot` is still the newest configuration.
    fn is_newest(&self, snapshot: &Snapshot) -> bool {
        self.worker.shared().snapshot.load().generation == snapshot.generation
    }

    /// Returns the identity of the caller as it was last verified. Each request calls this
    /// once, so that the same identity is checked, recorded and signed.
    pub(crate) fn proof(&self) -> Option<ConnectionProof> {
        self.proof.as_ref().map(|proven| ConnectionProof {
            identity: proven.identity.load_full(),
            proven_at: proven.proven_at,
            resumed: proven.resumed,
        })
    }

    /// Verifies the identity under `snapshot` if that was not done before. This is needed
    /// because a request may arrive before the connection is notified of a change.
    ///
    /// # Errors
    /// Why the identity is not valid any more.
    pub(crate) fn ensure_verified(&self, snapshot: &Snapshot) -> Result<(), Denial> {
        let stamp = snapshot.trust_stamp();
        if *self
            .verified_by
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            == stamp
        {
            return Ok(());
        }
        self.reverify(snapshot).map(|_| ())
    }

    /// Verifies the caller's chain again. Returns when the chain must be verified the next
    /// time, in seconds since the Unix epoch; none if there is no chain.
    ///
    /// # Errors
    /// Why the identity is not valid any more.
    pub(crate) fn reverify(&self, snapshot: &Snapshot) -> Result<Option<i64>, Denial> {
        // Read before the verification: if trust changes in between, the chain is only
        // verified once more.
        let stamp = snapshot.trust_stamp();
        let gone = || {
            Denial::new(
                ReasonCode::HostMismatch,
                "no [[server_name]] entry answers for this connection any longer",
            )
        };
        let entry = snapshot
            .server_names
            .select(self.server_name())
            .ok_or_else(gone)?;
        if self.proof.is_none() && entry.client_certificate() == ClientCertificate::Required {
            return Err(Denial::new(
                ReasonCode::NoCertificate,
                "a client certificate is required now and the connection has none",
            ));
        }
        let mut verified = None;
        if let (Some(chain), Some(proven)) = (&self.chain, &self.proof) {
            let (leaf, intermediates) = chain.split_first().ok_or_else(gone)?;
            let before = proven.identity.load();
            let chain = (leaf, intermediates);
            let (identity, holds_until) = revalidate(entry.trust(), chain, &before)?;
            verified = Some((proven, identity, holds_until));
        }
        let mut verified_by = self
            .verified_by
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *verified_by = stamp;
        Ok(verified.map(|(proven, identity, holds_until)| {
            proven.identity.store(identity);
            holds_until
        }))
    }

    /// Adds a request to those in progress.
    ///
    /// # Errors
    /// Why the newest configuration does not permit one of the requests.
    pub(crate) fn register(
        &self,
        snapshot: &Snapshot,
        permitted: PermittedRequest,
    ) -> Result<InFlightRequest, Denial> {
        let request = self.in_flight.register(permitted);
        // If a new configuration was put in service while this request was authenticated,
        // the check of the requests in progress did not include this request.
        if !self.is_newest(snapshot) {
            self.recheck_requests(&self.snapshot())?;
        }
        Ok(request)
    }

    /// Decides about all requests in progress again, under `snapshot`.
    ///
    /// # Errors
    /// Why one of the requests is not permitted any more.
    pub(crate) fn recheck_requests(&self, snapshot: &Snapshot) -> Result<(), Denial> {
        let proof = self.proof();
        let address = self.facts.peer.ip();
        self.in_flight.recheck(snapshot, proof.as_ref(), address)
    }
}
