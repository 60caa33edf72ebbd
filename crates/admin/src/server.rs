//! The listeners of the control plane: they accept connections and serve a router on them.
//!
//! Every connection occupies a slot. A connection has timeouts for its handshake, for each request
//! head, and for its whole lifetime. An unknown client can therefore not hold a slot for long.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::{Extension, Router};
use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::actions::Actor;
use super::connection::{
    CLOSE_TIMEOUT, FIRST_BYTE_TIMEOUT, HANDSHAKE_TIMEOUT, HEAD_TIMEOUT, serve_http, told_to_stop,
};
use super::host_check::is_loopback_request;
use super::idle_connections::{RequestLimit, track};
use super::operator_access::OperatorAccess;
use super::public::{Offered, router};
use super::responses::{NO_STORE, TEXT, respond};
use super::socket::ServedSocket;
use super::state::ControlState;
use crate::connection_slots::{ConnectionSlot, ConnectionSlots, SlotLimits};
use crate::crypto;
use crate::descriptors::{ControlShare, is_shortage, release_spare};
use crate::snapshot::Snapshot;
use crate::tls::Credentials;

/// The pause after `accept` has failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Whether a listener speaks TLS.
#[derive(Debug, Clone)]
pub enum ListenerTls {
    /// Plain HTTP.
    Off,
    /// TLS without client certificates.
    On(Arc<ServerConfig>),
}

/// Creates the router of the operators' loopback listener. The router serves all documents, but
/// only to requests whose `Host` names this machine and `port`.
///
/// A web page can make a browser connect to loopback under the page's own name (DNS rebinding). But
/// the page cannot make the browser send another `Host`. No response has CORS fields, so a page
/// cannot read a response in another way.
pub fn operators_router(state: Arc<ControlState>, port: u16) -> Router {
    let check = move |request: Request, next: Next| async move {
        if is_loopback_request(request.headers(), request.uri(), port) {
            next.run(request).await
        } else {
            refuse_host()
        }
    };
    router(state, Offered::ALL).layer(middleware::from_fn(check))
}

/// Creates a TLS configuration that requests no client certificate.
///
/// # Errors
/// Returns an error if rustls refuses the configuration.
pub fn server_only_config(credentials: &Credentials) -> Result<Arc<ServerConfig>, rustls::Error> {
    with_resolver(Arc::new(Always(Arc::clone(credentials.certified()))))
}

fn with_resolver(
    resolver: Arc<dyn ResolvesServerCert>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut tls = ServerConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(tls))
}

/// Creates a TLS configuration that requests no client certificate and uses the certificate of the
/// newest snapshot. A renewed certificate therefore takes effect without a restart.
///
/// # Errors
/// Returns an error if rustls refuses the configuration.
pub fn following_config(
    snapshot: Arc<ArcSwap<Snapshot>>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    with_resolver(Arc::new(Newest(snapshot)))
}

/// The limits on the connections of a listener, and the signal to stop.
#[derive(Debug, Clone)]
pub struct Serving {
    /// Becomes true when the listener should stop. Requests in progress may then finish within a
    /// short time.
    pub stopping: watch::Receiver<bool>,
    /// Maximum numbers of connections on the listener.
    pub share: ControlShare,
    /// The snapshot in service. Its limits determine which client addresses are counted.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
}

impl Serving {
    fn slots(&self) -> Arc<ConnectionSlots> {
        ConnectionSlots::new(SlotLimits {
            total: self.share.total(),
            pending: 2 * self.share.outside,
        })
    }
}

/// Serves `router` until `stopping` becomes true.
pub async fn serve(listener: TcpListener, router: Router, tls: ListenerTls, serving: Serving) {
    let limit = Arc::new(RequestLimit::of(serving.share));
    let converse = |stream, slot: ConnectionSlot, stopping| {
        let slot = Arc::new(slot);
        let router = track(router.clone(), Arc::clone(&slot), Arc::clone(&limit));
        let tls = tls.clone();
        async move {
            tokio::select! {
                () = converse(stream, router, tls, (&slot, stopping)) => {}
                () = slot.evicted() => tracing::debug!("a connection yielded to a newer one"),
            }
        }
    };
    serve_all(listener, converse, serving).await;
}

/// Serves `router` on the operators' private socket until `serving.stopping` becomes true.
pub async fn serve_on_socket(socket: ServedSocket, router: Router, serving: Serving) {
    let converse = |stream, slot: ConnectionSlot, stopping| {
        let router = router.clone().layer(Extension(Actor::at(&stream)));
        // Only the gateway's own user can connect to this socket. Its connections therefore count
        // as established, and not as pending, even before they send data.
        let is_open = slot.establish();
        async move {
            if is_open {
                serve_http(stream, router, stopping).await;
            }
            drop(slot);
        }
    };
    serve_all(socket, converse, serving).await;
}

/// Serves `router` to operators who prove their identity, until `serving.stopping` becomes true.
pub async fn serve_operators(
    listener: TcpListener,
    router: Router,
    access: Arc<OperatorAccess>,
    serving: Serving,
) {
    let converse = |stream, place, stopping| {
        Arc::clone(&access).converse(stream, router.clone(), place, stopping)
    };
    serve_all(listener, converse, serving).await;
}

/// A listening TCP or Unix socket.
trait Accept: Sync {
    type Stream: Send;
    /// Whether only the gateway's own user can connect.
    const IS_PRIVATE: bool;
    /// Accepts the next connection. Returns the connection and the peer's address.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<IpAddr>)>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;
    const IS_PRIVATE: bool = false;
    async fn accept(&self) -> io::Result<(TcpStream, Option<IpAddr>)> {
        let (stream, peer): (_, SocketAddr) = Self::accept(self).await?;
        let _ = stream.set_nodelay(true);
        Ok((stream, Some(peer.ip())))
    }
}

impl Accept for ServedSocket {
    type Stream = UnixStream;
    const IS_PRIVATE: bool = true;
    async fn accept(&self) -> io::Result<(UnixStream, Option<IpAddr>)> {
        Ok((Self::accept(self).await?, None))
    }
}

/// Accepts connections until `stopping` becomes true. Then waits for the open connections to end,
/// for at most `CLOSE_TIMEOUT`.
async fn serve_all<L: Accept, C>(
    listener: L,
    converse: impl Fn(L::Stream, ConnectionSlot, watch::Receiver<bool>) -> C,
    serving: Serving,
) where
    C: Future<Output = ()> + Send + 'static,
{
    let slots = serving.slots();
    let Serving {
        mut stopping,
        snapshot,
        ..
    } = serving;
    loop {
        // Accepts a connection only if a slot is free or can be freed. Until then, new connections
        // stay in the queue of the operating system.
        let next = async {
            slots.room().await;
            let (stream, from) = Accept::accept(&listener).await?;
            let (from, share) = {
                let snapshot = snapshot.load();
                let from = from.and_then(|from| snapshot.counted_address(from));
                (from, snapshot.limits.address.handshakes_in_progress)
            };
            Ok((stream, slots.take(from, share).await.0))
        };
        let accepted = tokio::select! {
            () = told_to_stop(&mut stopping) => break,
            accepted = next => accepted,
        };
        match accepted {
            Ok((stream, slot)) => {
                tokio::spawn(converse(stream, slot, stopping.clone()));
            }
            // If no file descriptor is free, the private socket releases the spare one, so that
            // operators can connect.
            Err(error) if L::IS_PRIVATE && is_shortage(&error) && release_spare() => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of the control plane");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, slots.emptied()).await;
}

async fn converse(
    stream: TcpStream,
    router: Router,
    tls: ListenerTls,
    (slot, mut stopping): (&ConnectionSlot, watch::Receiver<bool>),
) {
    let timeout = match tls {
        // The timeout is longer without TLS, because browsers open connections before they need
        // them.
        ListenerTls::Off => HEAD_TIMEOUT,
        ListenerTls::On(_) => FIRST_BYTE_TIMEOUT,
    };
    let mut first = [0_u8];
    let spoke = tokio::select! {
        spoke = tokio::time::timeout(timeout, stream.peek(&mut first)) => spoke,
        () = told_to_stop(&mut stopping) => return,
    };
    if !matches!(spoke, Ok(Ok(1..))) {
        return;
    }
    slot.spoke();
    match tls {
        ListenerTls::Off => {
            // Without TLS, a connection needs no handshake and is established after its first byte.
            if slot.establish() {
                slot.rest();
                serve_http(stream, router, stopping).await;
            }
        }
        ListenerTls::On(config) => {
            let handshake = TlsAcceptor::from(config).accept(stream);
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                Ok(Ok(stream)) if slot.establish() => {
                    slot.rest();
                    serve_http(stream, router, stopping).await;
                }
                Ok(Ok(_)) => tracing::debug!("a connection yielded to a newer one"),
                Ok(Err(error)) => tracing::debug!(%error, "no TLS on the public listener"),
                Err(_) => tracing::debug!("a TLS handshake of the public listener took too long"),
            }
        }
    }
}

fn refuse_host() -> Response {
    respond(
        StatusCode::MISDIRECTED_REQUEST,
        TEXT,
        NO_STORE,
        "the Host field must be localhost, 127.0.0.1 or [::1] with this listener's port".to_owned(),
    )
}

/// Always presents the same certificate.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Presents the certificate of the newest snapshot.
#[derive(Debug)]
struct Newest(Arc<ArcSwap<Snapshot>>);

impl ResolvesServerCert for Newest {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let snapshot = self.0.load();
        let credentials = snapshot.public_credentials.as_ref()?;
        Some(Arc::clone(credentials.certified()))
    }
}

#[cfg(test)]
mod tests;
