//! One caller's connection: handshake, then HTTP/1.1 or h2 until it ends.

pub(crate) mod assertion_cache;
pub(crate) mod buffered_body;
pub(crate) mod guard;
pub(crate) mod in_flight;
pub(crate) mod lifetime;
pub(crate) mod request_body;
pub(crate) mod response_audit;
mod trust_broadcast;
pub mod worker;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::Notify;

use self::assertion_cache::AssertionCache;
use self::guard::ConnectionGuard;
use self::in_flight::{InFlightRequest, InFlightRequests, PermittedRequest};
use self::worker::Worker;
use super::wire::forwarded_headers::ForwardedHeaderCache;
use crate::authn::certificate::ConnectionProof;
use crate::clock;
use crate::identity::PeerIdentity;
use crate::identity::text::printable;
use crate::policy::Denial;
use crate::reason::ReasonCode;
use crate::snapshot::{Snapshot, TrustStamp};
use crate::telemetry::record::{ConnectionCut, ConnectionFacts};
use crate::tls::ClientCertificate;

/// What the handshake proved.
struct ProvenIdentity {
    /// As it was last verified: how revocation was established, and under which
    /// root, changes while a connection lasts.
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

/// What a connection is, for all its requests.
pub(crate) struct Connection {
    worker: Arc<Worker>,
    /// Held as long as anything of the connection lasts.
    guard: ConnectionGuard,
    facts: Arc<ConnectionFacts>,
    /// The TLS server name, normalized.
    server_name: Option<String>,
    proof: Option<ProvenIdentity>,
    /// The state that the identity was last held against. Held while the identity
    /// changes, so that the two belong together.
    verified_by: Mutex<TrustStamp>,
    caller_assertions: AssertionCache,
    /// The chain that the caller presented, where it proved an identity.
    chain: Option<Arc<[CertificateDer<'static>]>>,
    told: ForwardedHeaderCache,
    active: Arc<InFlightRequests>,
    cut: OnceLock<Denial>,
    gone: EndSignal,
}

/// What a connection is made of when its handshake is over.
pub(crate) struct ConnectionParts {
    pub(crate) worker: Arc<Worker>,
    pub(crate) guard: ConnectionGuard,
    pub(crate) facts: ConnectionFacts,
    pub(crate) server_name: Option<String>,
    pub(crate) proof: Option<ConnectionProof>,
    /// The state that `proof` was verified under.
    pub(crate) verified_by: TrustStamp,
    pub(crate) chain: Option<Arc<[CertificateDer<'static>]>>,
}

/// Whether a connection has come to its end, for what does not run in its own task.
#[derive(Debug, Default)]
struct EndSignal {
    is: AtomicBool,
    bell: Notify,
}

impl Connection {
    pub(crate) fn new(opened: ConnectionParts) -> Self {
        Self {
            worker: opened.worker,
            guard: opened.guard,
            facts: Arc::new(opened.facts),
            server_name: opened.server_name,
            proof: opened.proof.map(ProvenIdentity::from),
            verified_by: Mutex::new(opened.verified_by),
            caller_assertions: AssertionCache::default(),
            chain: opened.chain,
            told: ForwardedHeaderCache::default(),
            active: Arc::default(),
            cut: OnceLock::new(),
            gone: EndSignal::default(),
        }
    }

    /// Resolves when the connection is cut off or over.
    pub(crate) async fn ended(&self) {
        // Made before the look, so that no end in between is missed.
        let end = self.gone.bell.notified();
        if !self.gone.is.load(Ordering::Acquire) {
            end.await;
        }
    }

    pub(crate) fn end(&self) {
        self.gone.is.store(true, Ordering::Release);
        self.gone.bell.notify_waiters();
    }

    pub(crate) const fn in_flight(&self) -> &Arc<InFlightRequests> {
        &self.active
    }

    /// Why the connection was cut off, if it was.
    pub(crate) fn cut_reason(&self) -> Option<&Denial> {
        self.cut.get()
    }

    /// Writes down that the connection is cut off, and why.
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
        let _ = self.cut.set(denial);
        self.end();
    }

    /// Writes down what h2 has refused before anybody else saw it.
    pub(super) fn record_h2_refusal(&self, detail: &str) {
        let reason = ReasonCode::MalformedRequest;
        let worker = &self.worker;
        worker
            .shared()
            .metrics
            .unrouted()
            .refused(reason, Duration::ZERO);
        let proof = self.proof();
        let identity = proof.as_ref().map(|proof| &*proof.identity);
        let line = ConnectionCut::new(&self.facts, identity, reason, detail).refused();
        worker.audit().write(&line);
    }

    pub(crate) const fn guard(&self) -> &ConnectionGuard {
        &self.guard
    }

    pub(crate) const fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }

    pub(crate) const fn facts(&self) -> &Arc<ConnectionFacts> {
        &self.facts
    }

    pub(crate) fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// What the caller has proven, as it holds now: to be asked for once per request.
    pub(crate) fn proof(&self) -> Option<ConnectionProof> {
        self.proof.as_ref().map(|proven| ConnectionProof {
            identity: proven.identity.load_full(),
            proven_at: proven.proven_at,
            resumed: proven.resumed,
        })
    }

    pub(crate) const fn chain(&self) -> Option<&Arc<[CertificateDer<'static>]>> {
        self.chain.as_ref()
    }

    /// What services are told about the connection.
    pub(crate) const fn forwarded_headers(&self) -> &ForwardedHeaderCache {
        &self.told
    }

    pub(crate) const fn assertion_cache(&self) -> &AssertionCache {
        &self.caller_assertions
    }

    /// Whether only requests that have begun may still finish.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.worker.shared().stopping.borrow()
    }

    /// Holds the identity against a snapshot if that has not been done. A request
    /// may come before the connection has heard of a change.
    ///
    /// # Errors
    /// Why it does not hold any longer.
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

    /// Verifies the connection's chain under a snapshot and says until when that
    /// holds by itself, where there is a chain.
    ///
    /// # Errors
    /// Why it does not hold any longer.
    pub(crate) fn reverify(&self, snapshot: &Snapshot) -> Result<Option<i64>, Denial> {
        // Read first: a change in between only costs another look.
        let stamp = snapshot.trust_stamp();
        let gone = || {
            Denial::new(
                ReasonCode::HostMismatch,
                "no [[server_name]] entry answers for this connection any longer",
            )
        };
        let entry = snapshot.names.select(self.server_name()).ok_or_else(gone)?;
        if self.proof.is_none() && entry.client_certificate() == ClientCertificate::Required {
            return Err(Denial::new(
                ReasonCode::NoCertificate,
                "a client certificate is required now and the connection has none",
            ));
        }
        let mut found = None;
        if let (Some(chain), Some(proven)) = (&self.chain, &self.proof) {
            let (leaf, intermediates) = chain.split_first().ok_or_else(gone)?;
            let now = UnixTime::since_unix_epoch(clock::since_epoch());
            let admission = entry
                .trust()
                .admit(leaf, intermediates, now)
                .map_err(|refusal| Denial {
                    note: refusal.note,
                    ..Denial::new(refusal.reason, refusal.detail)
                })?;
            // This chain's handshake is long complete.
            if let Some(pending) = admission.pending {
                pending.commit();
            }
            let (before, identity) = (proven.identity.load(), admission.identity);
            if identity.caller() != before.caller()
                || identity.trust_domain() != before.trust_domain()
            {
                return Err(Denial::new(
                    ReasonCode::TrustDomainMismatch,
                    "the certificate stands for another identity now",
                ));
            }
            found = Some((proven, identity, admission.holds_until));
        }
        let mut verified_by = self
            .verified_by
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *verified_by = stamp;
        Ok(found.map(|(proven, identity, holds_until)| {
            proven.identity.store(identity);
            holds_until
        }))
    }

    /// Puts a request among those in progress.
    ///
    /// # Errors
    /// Why the newest configuration does not permit one of them.
    pub(crate) fn register(
        &self,
        snapshot: &Snapshot,
        permitted: PermittedRequest,
    ) -> Result<InFlightRequest, Denial> {
        let active = self.active.register(permitted);
        // A configuration that came while credentials were looked at did not see this
        // request among them.
        if !self.is_current(snapshot) {
            self.recheck_requests(&self.snapshot())?;
        }
        Ok(active)
    }

    /// Whether all requests in progress are still permitted by `snapshot`.
    ///
    /// # Errors
    /// Why one of them is not.
    pub(crate) fn recheck_requests(&self, snapshot: &Snapshot) -> Result<(), Denial> {
        let proof = self.proof();
        let address = self.facts.peer.ip();
        self.active.recheck(snapshot, proof.as_ref(), address)
    }

    /// Whether no other configuration has come since this one.
    fn is_current(&self, snapshot: &Snapshot) -> bool {
        self.worker.shared().snapshot.load().generation == snapshot.generation
    }

    /// The state that one request uses from its beginning to its end.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.worker.shared().snapshot.load_full()
    }
}
