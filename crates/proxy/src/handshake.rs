//! Performs the TLS handshake on an accepted socket, and verifies the caller's certificate if there
//! is one.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use rustls::HandshakeKind;
use rustls::server::Acceptor;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection::guard::ConnectionGuard;
use super::connection::lifetime::Lifetime;
use super::connection::worker::Worker;
use super::connection::{Connection, ConnectionParts};
use super::handshake_failure::{FailureContext, HandshakeError};
use super::task::box_in_place::box_in_place;
use super::wire::proxy_protocol;
use super::wire::socket::{CallerSocket, SniffedProtocol};
use super::wire::tls_close::close_gracefully;
use super::{http1, http2};
use crate::authn::ConnectionProof;
use crate::clock;
use crate::connection_slots::ConnectionSlot;
use crate::identity::ShareKey;
use crate::identity::caller::normalized_dns;
use crate::identity::text::printable;
use crate::snapshot::{Limits, Snapshot};
use crate::telemetry::chains::Verdict;
use crate::telemetry::record::ConnectionFacts;
use crate::tls::handshake_notes::with_notes;

/// Serves one accepted connection until it ends.
pub(crate) async fn serve(
    worker: Arc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    connection_id: Arc<str>,
    guard: ConnectionGuard,
) {
    // `establish` is boxed separately, so that its memory is freed after the handshake.
    let establishing = box_in_place(|| establish(worker, stream, peer, connection_id, guard));
    if let Some(established) = establishing.await
        && let Err(error) = established.serve().await
    {
        tracing::debug!(%error, %peer, "the connection ended with an error");
    }
}

/// A connection after its handshake, with the state that is needed to serve it.
struct Established {
    connection: Arc<Connection>,
    limits: Limits,
    stream: TlsStream<CallerSocket>,
    lifetime: Lifetime,
}

impl Established {
    /// Serves requests until the connection ends. ALPN selects HTTP/2 or HTTP/1.1.
    fn serve(self: Box<Self>) -> Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>> {
        let Self {
            connection,
            limits,
            stream,
            lifetime,
        } = *self;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => box_in_place(|| http2::serve(connection, limits, stream, lifetime)),
            _ => box_in_place(|| http1::serve(connection, limits, stream, lifetime)),
        }
    }
}

/// Performs the handshake. If it fails, records the failure and closes the connection.
async fn establish(
    worker: Arc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    connection_id: Arc<str>,
    guard: ConnectionGuard,
) -> Option<Box<Established>> {
    let accepted_at = Instant::now();
    // Subscribes to trust changes before the certificate is verified, so that a change during the
    // verification is not missed.
    let changes = worker.subscribe();
    let snapshot = worker.shared().snapshot.load_full();
    let verified_by = snapshot.trust_stamp();
    let mut facts = ConnectionFacts::new(connection_id, peer);
    let guarding = Guarding {
        snapshot: &snapshot,
        worker: &worker,
        slot: guard.slot(),
    };
    let outcome = perform_in_time(guarding, stream, &mut facts).await;
    let HandshakeOutcome {
        stream,
        proof,
        server_name,
        holds_until,
    } = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            let context = FailureContext {
                facts: &facts,
                elapsed: accepted_at.elapsed(),
            };
            let error = match error.is_eviction() {
                // An evicted connection no longer owns its slot. Its guard is dropped before the
                // await of `note`, which may take some time.
                true => {
                    drop((guard, snapshot));
                    let count = worker.shared().evictions.note().await?;
                    error.of_many(count)
                }
                false => error,
            };
            error.conclude(&worker, &context).await;
            return None;
        }
    };
    // Only the limits are cloned, because a connection must not keep an old snapshot in memory.
    let limits = snapshot.limits.clone();
    drop(snapshot);
    worker.shared().metrics.handshake_succeeded();
    let chain = proof.is_some().then(|| presented_chain(&stream));
    if let (Some(keeper), Some(chain)) = (&worker.shared().chains, &chain) {
        let id = keeper.note(chain, facts.sni.as_ref(), Verdict::Admitted);
        facts.chain = Some(Arc::clone(id.text()));
    }
    let connection = Arc::new(Connection::new(ConnectionParts {
        worker,
        guard,
        facts,
        server_name,
        proof,
        verified_by,
        chain,
    }));
    if let Err(denial) = connection.enter().await {
        connection.record_refusal(&denial);
        close_gracefully(stream).await;
        return None;
    }
    let stopping = connection.worker().shared().stopping.clone();
    let lifetime = Lifetime::new(stopping, changes, holds_until);
    Some(Box::new(Established {
        connection,
        limits,
        stream,
        lifetime,
    }))
}

/// Performs the handshake. Fails if the handshake takes longer than `handshake_timeout`, or if the
/// connection is evicted for a newer connection.
async fn perform_in_time(
    guarding: Guarding<'_>,
    stream: TcpStream,
    facts: &mut ConnectionFacts,
) -> Result<HandshakeOutcome, HandshakeError> {
    let slot = guarding.slot;
    let timeout = guarding.snapshot.limits.handshake_timeout;
    let handshake = box_in_place(|| perform(guarding, stream, facts));
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(timeout, handshake) => match outcome {
            Ok(outcome) => outcome?,
            Err(_) => return Err(HandshakeError::timeout(timeout)),
        },
        () = slot.evicted() => return Err(HandshakeError::evicted()),
    };
    if !slot.establish() {
        return Err(HandshakeError::evicted());
    }
    let sources = &guarding.worker.shared().handshake_sources;
    sources.note(facts.peer.ip(), outcome.caller());
    Ok(outcome)
}

/// The result of a successful handshake.
struct HandshakeOutcome {
    stream: TlsStream<CallerSocket>,
    proof: Option<ConnectionProof>,
    /// The server name of the TLS handshake (SNI), in normalized form.
    server_name: Option<String>,
    /// The time at which the identity must be verified again, in seconds since the Unix epoch.
    /// `None` if the caller has presented no certificate.
    holds_until: Option<i64>,
}

impl HandshakeOutcome {
    fn caller(&self) -> Option<ShareKey> {
        let proof = self.proof.as_ref()?;
        Some(ShareKey::of_caller(proof.identity.caller()))
    }
}

/// The snapshot, worker and slot that a handshake uses.
#[derive(Clone, Copy)]
struct Guarding<'a> {
    snapshot: &'a Snapshot,
    worker: &'a Worker,
    slot: &'a ConnectionSlot,
}

/// Reads the PROXY header if the peer is a load balancer. Then performs the TLS handshake.
async fn perform(
    guarding: Guarding<'_>,
    mut stream: TcpStream,
    facts: &mut ConnectionFacts,
) -> Result<HandshakeOutcome, HandshakeError> {
    let Guarding {
        snapshot,
        worker,
        slot,
    } = guarding;
    let has_header = snapshot.is_balancer(facts.peer.ip());
    if has_header {
        let address = proxy_protocol::read(&mut stream).await;
        match address.map_err(HandshakeError::proxy_header)? {
            Some(caller) => facts.proxy = Some(std::mem::replace(&mut facts.peer, caller)),
            None => facts.is_caller_unknown = true,
        }
        slot.comes_from(snapshot.counted_address(facts.peer.ip()));
    }
    let socket = CallerSocket::new(stream, snapshot.limits.body_timeout);
    let mut hello = LazyConfigAcceptor::new(Acceptor::default(), socket);
    let start = match (&mut hello).await {
        Ok(start) => start,
        Err(error) => return Err(no_client_hello(&error, hello.take_io(), has_header)),
    };
    slot.spoke();
    let requested_name = start.client_hello().server_name().map(str::to_owned);
    facts.sni = requested_name.as_deref().map(|name| printable(name).into());
    let Some(entry) = snapshot.server_names.select(requested_name.as_deref()) else {
        return Err(HandshakeError::unknown_name(requested_name));
    };
    let tls = Arc::clone(entry.tls_for(&start.client_hello()));
    // From this point on, `with_notes` collects the notes of the certificate verifier and of the
    // ticket decryption. rustls decrypts a session ticket as soon as rustls has its configuration.
    let accepting = async { start.into_stream(tls).into_fallible().await };
    let turns = worker.handshake_turns();
    let accepting = box_in_place(|| with_notes(accepting));
    let (accepted, mut notes) = turns.run(slot.source(), accepting).await;
    match accepted {
        Ok(mut stream) => {
            stream.get_mut().0.end_handshake();
            facts.resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            if facts.resumed {
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                if let Err(refusal) = entry.admit_resumed(chain, &mut notes) {
                    return Err(HandshakeError::not_resumed(refusal, notes, stream).await);
                }
            }
            let proven_at = notes.session.map(|session| session.proven_at());
            let proof = notes.identity.map(|identity| ConnectionProof {
                identity,
                proven_at: proven_at.unwrap_or_else(clock::unix_now),
                resumed: facts.resumed,
            });
            let server_name = requested_name.as_deref().and_then(normalized_dns);
            Ok(HandshakeOutcome {
                stream,
                proof,
                server_name,
                holds_until: notes.holds_until,
            })
        }
        Err((error, socket)) => Err(HandshakeError::refused(&error, notes, socket)),
    }
}

/// Returns the error for a connection that sent no ClientHello. The first bytes of the connection
/// decide which error it is.
fn no_client_hello(
    error: &io::Error,
    socket: Option<CallerSocket>,
    has_header: bool,
) -> HandshakeError {
    match socket.map(|socket| (socket.sniffed(), socket)) {
        Some((SniffedProtocol::PlainHttp, socket)) => HandshakeError::plain_http(socket),
        Some((SniffedProtocol::ProxyHeader, _)) => HandshakeError::unexpected_header(has_header),
        Some((SniffedProtocol::Unread, _)) => HandshakeError::gone(),
        Some((SniffedProtocol::Tls, socket)) if is_unexpected_message(error) => {
            HandshakeError::unexpected_message(error, socket)
        }
        Some((SniffedProtocol::Tls, _)) | None => HandshakeError::protocol(error),
    }
}

/// Returns whether rustls has read a complete message of an unexpected type.
fn is_unexpected_message(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(
        inner,
        Some(
            rustls::Error::InappropriateMessage { .. }
                | rustls::Error::InappropriateHandshakeMessage { .. }
        )
    )
}

fn presented_chain(stream: &TlsStream<CallerSocket>) -> Arc<[CertificateDer<'static>]> {
    stream
        .get_ref()
        .1
        .peer_certificates()
        .unwrap_or_default()
        .into()
}
