//! The listeners that serve the answers, and the check of `Host` that keeps
//! foreign web pages away from the operators' one.
//!
//! Every connection has a slot, a deadline for its handshake, for each request
//! head, and for itself as a whole, so that strangers can neither hold all slots
//! nor any of them for long.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::extract::Request;
use axum::http::header::HOST;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::actions::Actor;
use super::idle::{RequestPlaces, track};
use super::operators::OperatorAccess;
use super::public::{ControlState, Offered, answer, router};
use super::socket::ServedSocket;
use crate::connection_slots::{ConnectionSlot, ConnectionSlots, SlotLimits};
use crate::crypto;
use crate::descriptors::{ControlShare, is_shortage, release_spare};
use crate::snapshot::Snapshot;
use crate::tls::Credentials;

/// How long a TLS handshake may take.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the first octet of one may take: it comes with the connection.
pub(super) const FIRST_OCTET: Duration = Duration::from_secs(3);
/// How long a request's head may take to arrive, and a connection may be idle.
const HEAD: Duration = Duration::from_secs(15);
/// How long a connection may last; one request takes milliseconds.
const CONNECTION: Duration = Duration::from_secs(300);
/// How long a connection may take to end when it should.
const ENDING: Duration = Duration::from_secs(2);
/// Most octets of a request's head.
const HEAD_OCTETS: usize = 16 * 1024;
/// Longest pause after an error of `accept`.
const BACKOFF: Duration = Duration::from_millis(200);

/// Whether a listener speaks TLS.
#[derive(Debug, Clone)]
pub enum ListenerTls {
    /// Plain HTTP.
    Off,
    /// TLS without client certificates.
    On(Arc<ServerConfig>),
}

/// The operators' listener on loopback: everything there is to read, for
/// requests that name this machine and `port` in `Host`.
///
/// A web page can make a browser connect to loopback under a name of its own
/// (DNS rebinding), but it cannot make it send another `Host`. No answer has
/// CORS fields, so that pages cannot read what they ask for without that trick.
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

/// A TLS configuration that asks nobody for a certificate.
///
/// # Errors
/// When rustls refuses the configuration.
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

/// As [`server_only_config`], with whatever certificate the newest snapshot has:
/// a renewed one is presented without a restart.
///
/// # Errors
/// When rustls refuses the configuration.
pub fn following_config(
    snapshot: Arc<ArcSwap<Snapshot>>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    with_resolver(Arc::new(Newest(snapshot)))
}

/// For how many a listener serves, and for how long.
#[derive(Debug, Clone)]
pub struct Serving {
    /// Becomes true when requests may finish for a moment and nothing new comes.
    pub stopping: watch::Receiver<bool>,
    /// Connections at once.
    pub share: ControlShare,
    /// Says which addresses are not counted.
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

/// Serves `router` until it is to stop.
pub async fn serve(listener: TcpListener, router: Router, tls: ListenerTls, serving: Serving) {
    let places = Arc::new(RequestPlaces::of(serving.share));
    let converse = |stream, slot: ConnectionSlot, stopping| {
        let slot = Arc::new(slot);
        let router = track(router.clone(), Arc::clone(&slot), Arc::clone(&places));
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

/// Serves `router` on the operators' private socket, within the same bounds.
pub async fn serve_on_socket(socket: ServedSocket, router: Router, serving: Serving) {
    let converse = |stream, slot: ConnectionSlot, stopping| {
        let router = router.clone().layer(Extension(Actor::at(&stream)));
        // Only the gateway's own user gets to the socket.
        let is_open = slot.establish();
        async move {
            if is_open {
                speak_http(stream, router, stopping).await;
            }
            drop(slot);
        }
    };
    serve_all(socket, converse, serving).await;
}

/// Serves `router` to operators who prove who they are, within the same bounds.
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

/// A listening socket of either kind.
trait Accept: Sync {
    type Stream: Send;
    /// Whether only the gateway's own user can connect.
    const IS_PRIVATE: bool;
    /// The next connection, and the address it comes from.
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

/// Accepts until `stopping` becomes true, then lets conversations end.
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
        // Room first, then a connection: what cannot be served stays in the queue of
        // the operating system.
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
            // The operator comes in with a descriptor in reserve.
            Err(error) if L::IS_PRIVATE && is_shortage(&error) && release_spare() => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of the control plane");
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(ENDING, slots.emptied()).await;
}

async fn converse(
    stream: TcpStream,
    router: Router,
    tls: ListenerTls,
    (slot, mut stopping): (&ConnectionSlot, watch::Receiver<bool>),
) {
    let patience = match tls {
        // Browsers open connections before they need them.
        ListenerTls::Off => HEAD,
        ListenerTls::On(_) => FIRST_OCTET,
    };
    let mut first = [0_u8];
    let spoke = tokio::select! {
        spoke = tokio::time::timeout(patience, stream.peek(&mut first)) => spoke,
        () = told_to_stop(&mut stopping) => return,
    };
    if !matches!(spoke, Ok(Ok(1..))) {
        return;
    }
    slot.spoke();
    match tls {
        ListenerTls::Off => {
            // Anybody is let in here.
            if slot.establish() {
                slot.rest();
                speak_http(stream, router, stopping).await;
            }
        }
        ListenerTls::On(config) => {
            let handshake = TlsAcceptor::from(config).accept(stream);
            match tokio::time::timeout(HANDSHAKE, handshake).await {
                Ok(Ok(stream)) if slot.establish() => {
                    slot.rest();
                    speak_http(stream, router, stopping).await;
                }
                Ok(Ok(_)) => tracing::debug!("a connection yielded to a newer one"),
                Ok(Err(error)) => tracing::debug!(%error, "no TLS on the public listener"),
                Err(_) => tracing::debug!("a TLS handshake of the public listener took too long"),
            }
        }
    }
}

pub(super) async fn speak_http(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_OCTETS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = told_to_stop(&mut stopping) => None,
        () = tokio::time::sleep(CONNECTION) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => end(connection).await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of the control plane ended with an error");
    }
}

/// Also when nobody is left who could say so.
pub(super) async fn told_to_stop(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Lets the request under way finish, but not for long.
async fn end<I, S>(mut connection: std::pin::Pin<&mut http1::Connection<I, S>>) -> hyper::Result<()>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = axum::body::Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    connection.as_mut().graceful_shutdown();
    match tokio::time::timeout(ENDING, connection).await {
        Ok(ended) => ended,
        Err(_) => Ok(()),
    }
}

/// Whether all that the request says about its destination is this machine's
/// loopback interface and `port`.
fn is_loopback_request(headers: &HeaderMap, uri: &Uri, port: u16) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let host_is_loopback = host
        .to_str()
        .is_ok_and(|host| is_loopback_authority(host, port));
    // The target's authority, where it has one, overrides `Host` (RFC 9112
    // section 3.2.2).
    let target_is_loopback = uri
        .authority()
        .is_none_or(|authority| is_loopback_authority(authority.as_str(), port));
    host_is_loopback && target_is_loopback
}

/// Names can be made to resolve to loopback; only `localhost` always does (RFC
/// 6761 section 6.3), and addresses need no resolution.
fn is_loopback_authority(authority: &str, port: u16) -> bool {
    // `host`, `host:port`, `[v6]`, `[v6]:port`: a port follows the last colon
    // that is not inside the brackets.
    let (host, given_port) = match authority.rsplit_once(':') {
        Some((host, digits)) if !digits.contains(']') => (host, Some(digits)),
        _ => (authority, None),
    };
    let port_fits = match given_port {
        Some(digits) => {
            digits.bytes().all(|digit| digit.is_ascii_digit()) && digits.parse() == Ok(port)
        }
        None => port == 80,
    };
    let address = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(inner) => inner.parse().map(IpAddr::V6).ok(),
        None => host.parse().map(IpAddr::V4).ok(),
    };
    port_fits
        && (host.eq_ignore_ascii_case("localhost")
            || address.is_some_and(|address| address.is_loopback()))
}

fn refuse_host() -> Response {
    answer(
        StatusCode::MISDIRECTED_REQUEST,
        "text/plain; charset=utf-8",
        "no-store",
        "the Host field must be localhost, 127.0.0.1 or [::1] with this listener's port".to_owned(),
    )
}

/// Presents one certificate whatever the client asks for.
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
