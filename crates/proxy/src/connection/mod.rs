//! `Connection`: the state of one caller's connection, and the modules that manage it.
//!
//! - `worker`: the state that all connections share, and the state that the connections of one
//!   worker share
//! - `guard`: keeps the connection's slot
//! - `caller_connections`: counts the open connections of each caller
//! - `handshake_turns`: makes handshakes yield to established connections
//! - `in_flight`: the requests in progress
//! - `lifetime`: decides when the connection must end
//! - `trust_broadcast`: tells the connections of a worker that trust has changed
//! - `forwarded_headers`: fields that describe the connection to the service
//! - `assertion_cache`: assertions that later requests can reuse
//! - `request_body`: a request body that is being sent to the service
//! - `buffered_body`: a request body that was read to its end
//! - `unread_body`: the unread part of a request body after the response is complete
//! - `response_audit`: keeps the audit record of a response until the response ends

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
use crate::authn::{ConnectionProof, RequestAddresses};
use crate::identity::text::printable;
use crate::identity::{PeerIdentity, ShareKey};
use crate::policy::revalidate::revalidate;
use crate::policy::share::PlaceLimits;
use crate::policy::{self, Denial};
use crate::reason::ReasonCode;
use crate::snapshot::{Snapshot, TrustStamp};
use crate::telemetry::record::{ConnectionCut, ConnectionFacts};
use crate::tls::ClientCertificate;

/// The identity that the handshake verified.
struct ProvenIdentity {
    /// The result of the last verification. The revocation status and the root may change during
    /// the connection, but the caller name may not.
    identity: ArcSwap<PeerIdentity>,
    /// The time at which the caller proved possession of the private key, in seconds since the Unix
    /// epoch. After a resumption, this is the time of the original handshake.
    proven_at: u64,
    /// Whether the TLS session was resumed.
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

/// The state of a connection after its handshake. All requests of the connection share it.
pub(crate) struct Connection {
    worker: Arc<Worker>,
    guard: ConnectionGuard,
    facts: Arc<ConnectionFacts>,
    /// The server name of the TLS handshake (SNI), in normalized form.
    server_name: Option<String>,
    proof: Option<ProvenIdentity>,
    /// The trust state under which the identity was last verified. The lock is held while the
    /// identity is replaced, so that `verified_by` always belongs to the current identity.
    verified_by: Mutex<TrustStamp>,
    assertion_cache: AssertionCache,
    /// The certificate chain that the caller presented. `None` if there is no verified identity.
    chain: Option<Arc<[CertificateDer<'static>]>>,
    forwarded_headers: ForwardedHeaderCache,
    in_flight: Arc<InFlightRequests>,
    cut_reason: OnceLock<Denial>,
    end: EndSignal,
    yielding: Arc<YieldSignal>,
}

/// The results of a handshake, from which a [`Connection`] is made.
pub(crate) struct ConnectionParts {
    pub(crate) worker: Arc<Worker>,
    pub(crate) guard: ConnectionGuard,
    pub(crate) facts: ConnectionFacts,
    /// The server name of the TLS handshake (SNI), in normalized form.
    pub(crate) server_name: Option<String>,
    pub(crate) proof: Option<ConnectionProof>,
    /// The trust state under which `proof` was verified.
    pub(crate) verified_by: TrustStamp,
    /// The certificate chain that the caller presented. `None` if there is no verified identity.
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

    /// Counts the connection in the limit of its caller, or of its address if there is no
    /// certificate.
    ///
    /// # Errors
    /// Returns a denial if the caller or address has reached its limit.
    pub(crate) async fn enter(&self) -> Result<(), Denial> {
        let (key, share) = {
            let snapshot = self.snapshot();
            let key = match self.proof() {
                Some(proof) => Some(ShareKey::of_caller(proof.identity.caller())),
                None => snapshot.counted_address(self.facts.peer.ip()),
            };
            (key, snapshot.limits.caller.connections)
        };
        // Without a certificate, there is no key if many peers share the address, for example
        // behind a load balancer.
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

    /// Resolves when the connection should close because its caller opens a new connection.
    pub(crate) async fn asked_to_yield(&self) {
        self.yielding.asked().await;
    }

    /// Resolves when the connection was cut or has ended.
    pub(crate) async fn ended(&self) {
        // Created before `has_ended` is read, so that a call of `end` after the read is not missed.
        let notified = self.end.notify.notified();
        if !self.end.has_ended.load(Ordering::Acquire) {
            notified.await;
        }
    }

    /// Signals to the streams and tunnels that the connection has ended.
    pub(crate) fn end(&self) {
        self.end.has_ended.store(true, Ordering::Release);
        self.end.notify.notify_waiters();
    }

    /// Returns why the connection was cut. Returns `None` if it was not cut.
    pub(crate) fn cut_reason(&self) -> Option<&Denial> {
        self.cut_reason.get()
    }

    /// Records that the connection is cut, and signals its end.
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

    /// Records that the h2 library refused a request before the request reached the handler.
    pub(crate) fn record_h2_refusal(&self, detail: &str) {
        self.record_refusal(&Denial::new(ReasonCode::MalformedRequest, detail));
    }

    /// Records a refusal that belongs to no request, for example a refusal of the whole connection.
    pub(crate) fn record_refusal(&self, denial: &Denial) {
        let (reason, detail) = (denial.reason, &denial.detail);
        let worker = &self.worker;
        let metrics = &worker.shared().metrics;
        metrics
            .unrouted()
            .refused(reason, reason.status(), Duration::ZERO);
        if let Some(limit) = denial.limit {
            metrics.limit_reached(limit.as_str());
        }
        let proof = self.proof();
        let identity = proof.as_ref().map(|proof| &*proof.identity);
        let line = ConnectionCut::new(&self.facts, identity, reason, detail).refused();
        worker.audit().write(&line);
    }

    /// Returns whether the gateway is stopping. A stopping gateway finishes the requests in
    /// progress and accepts no new requests.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.worker.shared().stopping.borrow()
    }

    /// Returns the newest snapshot. A request must use the same snapshot from its beginning to its
    /// end.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.worker.shared().snapshot.load_full()
    }

    /// Returns whether `snapshot` is still the newest configuration.
    fn is_newest(&self, snapshot: &Snapshot) -> bool {
        self.worker.shared().snapshot.load().generation == snapshot.generation
    }

    /// Returns the identity that the last verification found. The handler calls this only once for
    /// each request, so that the gateway checks, records and signs the same identity.
    pub(crate) fn proof(&self) -> Option<ConnectionProof> {
        self.proof.as_ref().map(|proven| ConnectionProof {
            identity: proven.identity.load_full(),
            proven_at: proven.proven_at,
            resumed: proven.resumed,
        })
    }

    /// Verifies the identity under `snapshot`, unless the last verification used the same trust
    /// state. Called for each request, because a request may arrive before the broadcast of a
    /// change.
    ///
    /// # Errors
    /// Returns why the identity is not valid any more.
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

    /// Verifies the caller's certificate chain again. Returns the time of the next verification, in
    /// seconds since the Unix epoch. Returns `None` if there is no chain.
    ///
    /// # Errors
    /// Returns why the identity is not valid any more.
    pub(crate) fn reverify(&self, snapshot: &Snapshot) -> Result<Option<i64>, Denial> {
        // The stamp is read before the verification. If trust changes during the verification, the
        // stamp is older than the newest trust state, and the chain is verified once more.
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

    /// Adds a request to the requests in progress.
    ///
    /// # Errors
    /// Returns a denial if the deny list denies the token or API key of the new request. Also
    /// returns a denial if the newest configuration does not permit one of the requests in
    /// progress.
    pub(crate) fn register(
        &self,
        snapshot: &Snapshot,
        permitted: PermittedRequest,
    ) -> Result<InFlightRequest, Denial> {
        let request = self.in_flight.register(permitted);
        // The deny list may have changed after the credentials of this request were checked. The
        // recheck after that change did not include this request, because the request was not
        // registered yet.
        if let Some(principal) = request.principal() {
            policy::check_denied(snapshot.deny_list.as_deref(), principal)?;
        }
        // A new configuration may have been put in service while this request was authenticated.
        // The recheck after that change did not include this request, because the request was not
        // registered yet.
        if !self.is_newest(snapshot) {
            self.recheck_requests(&self.snapshot())?;
        }
        Ok(request)
    }

    /// Authorizes all requests in progress again, under `snapshot`.
    ///
    /// # Errors
    /// Returns why one of the requests is not permitted any more.
    pub(crate) fn recheck_requests(&self, snapshot: &Snapshot) -> Result<(), Denial> {
        let proof = self.proof();
        self.in_flight
            .recheck(snapshot, proof.as_ref(), self.addresses())
    }

    /// Returns where the connection's requests come from.
    pub(crate) fn addresses(&self) -> RequestAddresses {
        RequestAddresses {
            caller: (!self.facts.is_caller_unknown).then(|| self.facts.peer.ip()),
            connection: self.facts.connection_address().ip(),
        }
    }
}
