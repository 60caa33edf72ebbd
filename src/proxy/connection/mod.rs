//! One caller's connection: handshake, then HTTP/1.1 or h2 until it ends.

pub(crate) mod assertion_cache;
pub(crate) mod buffered_body;
pub(crate) mod in_flight;
pub(crate) mod lifetime;
pub(crate) mod request_body;
pub(crate) mod response_audit;
pub(crate) mod trust_broadcast;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustls::HandshakeKind;
use rustls::server::Acceptor;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use self::assertion_cache::CallerAssertions;
use self::in_flight::ActiveRequests;
use self::lifetime::Lifetime;
use crate::authn::certificate::ConnectionProof;
use crate::clock;
use crate::identity::PeerIdentity;
use crate::identity::caller::normalized_dns;
use crate::identity::text::printable;
use crate::policy::Denial;
use crate::proxy::handshake_failure::{HandshakeError, Refused};
use crate::proxy::http1;
use crate::proxy::http2;
use crate::proxy::listener::{ConnectionGuard, Worker};
use crate::proxy::response::tunnel::Tunnel;
use crate::proxy::task::box_in_place::boxed;
use crate::proxy::wire::forwarded_headers::Told;
use crate::proxy::wire::proxy_protocol;
use crate::proxy::wire::socket::{CallerSocket, Lingering, Opening};
use crate::reason::ReasonCode;
use crate::snapshot::{Limits, Snapshot, TrustStamp};
use crate::telemetry::chains::Verdict;
use crate::telemetry::record::{ConnectionCut, ConnectionFacts};
use crate::tls::ClientCertificate;
use crate::tls::verifier::with_notes;

/// How long the farewell of a connection may take.
pub(crate) const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// What the handshake proved.
struct Proven {
    /// As it was last verified: how revocation was established, and under which
    /// root, changes while a connection lasts.
    identity: ArcSwap<PeerIdentity>,
    proven_at: u64,
    resumed: bool,
}

impl From<ConnectionProof> for Proven {
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
    _guard: ConnectionGuard,
    facts: Arc<ConnectionFacts>,
    /// The TLS server name, normalized.
    server_name: Option<String>,
    proof: Option<Proven>,
    /// The state that the identity was last held against. Held while the identity
    /// changes, so that the two belong together.
    verified_by: Mutex<TrustStamp>,
    caller_assertions: CallerAssertions,
    /// The chain that the caller presented, where it proved an identity.
    chain: Option<Arc<[CertificateDer<'static>]>>,
    told: Told,
    active: Arc<ActiveRequests>,
    cut: OnceLock<Denial>,
    gone: Gone,
    /// A tunnel to begin once its 101 was sent.
    tunnel: Mutex<Option<Box<Tunnel>>>,
}

/// Whether a connection has come to its end, for what does not run in its own task.
#[derive(Debug, Default)]
struct Gone {
    is: AtomicBool,
    bell: Notify,
}

impl Connection {
    /// Resolves when the connection is cut off or over.
    pub(crate) async fn gone(&self) {
        // Made before the look, so that no end in between is missed.
        let end = self.gone.bell.notified();
        if !self.gone.is.load(Ordering::Acquire) {
            end.await;
        }
    }

    pub(super) fn end(&self) {
        self.gone.is.store(true, Ordering::Release);
        self.gone.bell.notify_waiters();
    }

    /// Has octets passed on once the answer under way was sent.
    pub(crate) fn switch(&self, tunnel: Tunnel) {
        *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(tunnel));
    }

    pub(crate) fn take_tunnel(&self) -> Option<Box<Tunnel>> {
        self.tunnel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    pub(crate) const fn active_requests(&self) -> &Arc<ActiveRequests> {
        &self.active
    }

    /// Why the connection was cut off, if it was.
    pub(crate) fn cut_off(&self) -> Option<&Denial> {
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
    pub(super) fn refused_by_h2(&self, detail: &str) {
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
    pub(crate) const fn told(&self) -> &Told {
        &self.told
    }

    pub(crate) const fn caller_assertions(&self) -> &CallerAssertions {
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
    pub(crate) fn hold_against(&self, snapshot: &Snapshot) -> Result<(), Denial> {
        let stamp = snapshot.trust_stamp();
        if *self
            .verified_by
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            == stamp
        {
            return Ok(());
        }
        self.verify_again(snapshot).map(|_| ())
    }

    /// Verifies the connection's chain under a snapshot and says until when that
    /// holds by itself, where there is a chain.
    ///
    /// # Errors
    /// Why it does not hold any longer.
    pub(crate) fn verify_again(&self, snapshot: &Snapshot) -> Result<Option<i64>, Denial> {
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

    /// Whether no other configuration has come since this one.
    pub(crate) fn has_newest(&self, snapshot: &Snapshot) -> bool {
        self.worker.shared().snapshot.load().generation == snapshot.generation
    }

    /// The state that one request uses from its beginning to its end.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.worker.shared().snapshot.load_full()
    }
}

/// Serves one accepted connection until it ends.
pub(crate) async fn serve(
    worker: Arc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    connection_id: Arc<str>,
    guard: ConnectionGuard,
) {
    // In a box of its own, so that it does not weigh on the connection afterwards.
    let establishing = boxed(|| establish(worker, stream, peer, connection_id, guard));
    if let Some(established) = establishing.await
        && let Err(error) = established.serve().await
    {
        tracing::debug!(%error, %peer, "the connection ended with an error");
    }
}

/// Closes a connection so that its caller can read what was sent last, whatever it
/// still sends itself.
pub(super) async fn take_leave(mut stream: TlsStream<CallerSocket>) {
    stream.get_ref().0.gather();
    let _ = tokio::time::timeout(CLOSE_PATIENCE, stream.shutdown()).await;
    stream.into_inner().0.linger(Lingering::CALLER).await;
}

/// A connection after its handshake.
struct Established {
    connection: Arc<Connection>,
    limits: Limits,
    stream: TlsStream<CallerSocket>,
    lifetime: Lifetime,
}

impl Established {
    /// Serves requests until the connection ends.
    fn serve(self: Box<Self>) -> Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>> {
        let Self {
            connection,
            limits,
            stream,
            lifetime,
        } = *self;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => boxed(|| http2::serve(connection, limits, stream, lifetime)),
            _ => boxed(|| http1::serve(connection, limits, stream, lifetime)),
        }
    }
}

/// Shakes hands; a refusal is told and written down.
async fn establish(
    worker: Arc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    connection_id: Arc<str>,
    guard: ConnectionGuard,
) -> Option<Box<Established>> {
    let accepted_at = Instant::now();
    // Before anything is verified, so that no change in between is missed.
    let changes = worker.subscribe();
    let snapshot = worker.shared().snapshot.load_full();
    let verified_by = Mutex::new(snapshot.trust_stamp());
    let mut facts = ConnectionFacts::new(connection_id, peer);
    let handshake = boxed(|| shake_hands(&snapshot, stream, &mut facts));
    let shaken = match tokio::time::timeout(snapshot.limits.handshake_timeout, handshake).await {
        Ok(shaken) => shaken,
        Err(_) => Err(HandshakeError::timeout(snapshot.limits.handshake_timeout)),
    };
    let (stream, proof, server_name, holds_until) = match shaken {
        Ok(shaken) => shaken,
        Err(error) => {
            let refused = Refused {
                facts: &facts,
                elapsed: accepted_at.elapsed(),
            };
            error.conclude(&worker, &refused).await;
            return None;
        }
    };
    // A connection must not keep old snapshots alive.
    let limits = snapshot.limits.clone();
    drop(snapshot);
    worker.shared().metrics.handshake_succeeded();
    let chain = proof.is_some().then(|| chain_of(&stream));
    if let (Some(keeper), Some(chain)) = (&worker.shared().chains, &chain) {
        let id = keeper.note(chain, facts.sni.as_ref(), Verdict::Admitted);
        facts.chain = Some(Arc::clone(id.text()));
    }
    let connection = Arc::new(Connection {
        worker,
        _guard: guard,
        facts: Arc::new(facts),
        server_name,
        proof: proof.map(Proven::from),
        verified_by,
        caller_assertions: CallerAssertions::default(),
        chain,
        told: Told::default(),
        active: Arc::default(),
        cut: OnceLock::new(),
        gone: Gone::default(),
        tunnel: Mutex::new(None),
    });
    let stopping = connection.worker().shared().stopping.clone();
    let lifetime = Lifetime::new(stopping, changes, holds_until);
    Some(Box::new(Established {
        connection,
        limits,
        stream,
        lifetime,
    }))
}

type Shaken = (
    TlsStream<CallerSocket>,
    Option<ConnectionProof>,
    Option<String>,
    Option<i64>,
);

async fn shake_hands(
    snapshot: &Snapshot,
    mut stream: TcpStream,
    facts: &mut ConnectionFacts,
) -> Result<Shaken, HandshakeError> {
    let balancer = facts.peer.ip().to_canonical();
    let has_header = snapshot.balancers.iter().any(|net| net.contains(&balancer));
    if has_header {
        let named = proxy_protocol::read(&mut stream).await;
        if let Some(caller) = named.map_err(HandshakeError::proxy_header)? {
            facts.proxy = Some(std::mem::replace(&mut facts.peer, caller));
        }
    }
    let socket = CallerSocket::new(stream, snapshot.limits.body_timeout);
    let mut hello = LazyConfigAcceptor::new(Acceptor::default(), socket);
    let start = match (&mut hello).await {
        Ok(start) => start,
        Err(error) => return Err(not_a_hello(&error, hello.take_io(), has_header)),
    };
    let asked_for = start.client_hello().server_name().map(str::to_owned);
    facts.sni = asked_for.as_deref().map(|name| printable(name).into());
    let Some(entry) = snapshot.names.select(asked_for.as_deref()) else {
        return Err(HandshakeError::unknown_name(asked_for));
    };
    // Tickets are opened as soon as rustls has the configuration.
    let accepting = async {
        start
            .into_stream(Arc::clone(entry.tls()))
            .into_fallible()
            .await
    };
    let (accepted, mut notes) = with_notes(accepting).await;
    match accepted {
        Ok(mut stream) => {
            stream.get_mut().0.settle();
            facts.resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            if facts.resumed {
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                if let Err(refusal) = notes.resumed(entry, chain) {
                    return Err(HandshakeError::not_resumed(refusal, notes, stream).await);
                }
            }
            let proven_at = notes.session.map(|session| session.proven_at());
            let proof = notes.identity.map(|identity| ConnectionProof {
                identity,
                proven_at: proven_at.unwrap_or_else(clock::unix_now),
                resumed: facts.resumed,
            });
            let server_name = asked_for.as_deref().and_then(normalized_dns);
            Ok((stream, proof, server_name, notes.holds_until))
        }
        Err((error, socket)) => Err(HandshakeError::refused(&error, notes, socket)),
    }
}

/// Why no ClientHello could be read.
fn not_a_hello(
    error: &io::Error,
    socket: Option<CallerSocket>,
    has_header: bool,
) -> HandshakeError {
    match socket.map(|socket| (socket.opening(), socket)) {
        Some((Opening::PlainHttp, socket)) => HandshakeError::plain_http(socket),
        Some((Opening::ProxyHeader, _)) => HandshakeError::unexpected_header(has_header),
        Some((Opening::Unread, _)) => HandshakeError::gone(),
        Some((Opening::Tls, _)) | None => HandshakeError::protocol(error),
    }
}

fn chain_of(stream: &TlsStream<CallerSocket>) -> Arc<[CertificateDer<'static>]> {
    stream
        .get_ref()
        .1
        .peer_certificates()
        .unwrap_or_default()
        .into()
}
