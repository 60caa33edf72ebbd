//! Services with features that [`Echo`](crate::Echo) does not have: TLS, h2 and streams as
//! in gRPC.

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, ServerConnection};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::ca::TestCa;
use crate::credentials::Credentials;
use crate::pieces::{Piece, Received};
pub use crate::pieces::{PieceBody, pieces};
use crate::protocol::{Protocol, provider};

/// The protocol and TLS settings of a [`Service`].
#[derive(Debug, Clone)]
pub struct ServiceSpec {
    protocol: Protocol,
    tls: Option<(Credentials, Option<Vec<u8>>)>,
    cut: usize,
}

impl ServiceSpec {
    /// Describes a service without TLS. If `protocol` is h2, clients must use h2 with prior
    /// knowledge.
    #[must_use]
    pub const fn plain(protocol: Protocol) -> Self {
        Self {
            protocol,
            tls: None,
            cut: 0,
        }
    }

    /// Describes a service with TLS and this certificate.
    #[must_use]
    pub fn tls(protocol: Protocol, server: &Credentials) -> Self {
        Self {
            protocol,
            tls: Some((server.clone(), None)),
            cut: 0,
        }
    }

    /// Makes the service close each of the first `connections` connections at the end of its
    /// handshake. The service sends `close_notify` together with its last handshake message. A
    /// client therefore learns of the close before it can send a request. This has no effect
    /// without TLS.
    #[must_use]
    pub const fn cutting(mut self, connections: usize) -> Self {
        self.cut = connections;
        self
    }

    /// Makes the service require a client certificate of this authority. This has no effect without
    /// TLS.
    #[must_use]
    pub fn demanding(mut self, ca: &TestCa) -> Self {
        if let Some((_, demanded)) = &mut self.tls {
            *demanded = Some(ca.root().der().to_vec());
        }
        self
    }
}

/// A running service. The operating system selects its port. The path of a request selects the
/// response:
///
/// - `…/stream`: sends back each piece of the request body when it arrives, then the trailers of
///   the request and `grpc-status: 0`
/// - `…/wait`: responds like the other paths, but only when a request for `…/go` arrives
/// - others: responds with a JSON object about the request: `method`, `path`, `authority`,
///   `headers`, `client` (SHA-256 of the client certificate), `body`, `trailers`
#[derive(Debug)]
pub struct Service {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    connections: AtomicUsize,
    accepted: AtomicUsize,
    cut: AtomicUsize,
    heard: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
    requests: AtomicUsize,
    go: tokio::sync::Notify,
}

impl Service {
    /// Starts the service.
    ///
    /// # Panics
    /// If no port is available or the certificate is not usable.
    pub async fn start(spec: ServiceSpec) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let state = Arc::clone(&shared);
        let acceptor = spec.tls.as_ref().map(|tls| acceptor(tls, &[spec.protocol]));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let acceptor = acceptor.clone();
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, spec.protocol, None, state).await,
                        Some(acceptor)
                            if state.accepted.fetch_add(1, Ordering::SeqCst) < spec.cut =>
                        {
                            state.cut.fetch_add(1, Ordering::SeqCst);
                            let heard = cut(stream, acceptor.config()).await.unwrap_or(0);
                            state.heard.fetch_add(heard, Ordering::SeqCst);
                        }
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                let client = stream
                                    .get_ref()
                                    .1
                                    .peer_certificates()
                                    .map(|chain| crate::sha256(&chain[0]));
                                serve(stream, spec.protocol, client, state).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            shared,
            task,
        }
    }

    /// Returns the address on which the service listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns how many connections the service has served with HTTP. Connections that
    /// [`Service::cut`] counts are not included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Returns the maximum number of connections that were open at the same time and had
    /// received at least one request.
    #[must_use]
    pub fn most_connections(&self) -> usize {
        self.shared.most_open.load(Ordering::SeqCst)
    }

    /// Returns how many connections the service has closed at the end of the handshake.
    #[must_use]
    pub fn cut(&self) -> usize {
        self.shared.cut.load(Ordering::SeqCst)
    }

    /// Returns how many bytes of requests arrived on the connections that [`Service::cut`] counts.
    #[must_use]
    pub fn heard(&self) -> usize {
        self.shared.heard.load(Ordering::SeqCst)
    }

    /// Returns how many requests the service has received.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Creates an acceptor with this server certificate and these protocols. If `demanded` is a
/// root (DER), clients must present a certificate of that authority.
///
/// # Panics
/// If the certificate or the root is not usable.
#[must_use]
pub fn acceptor(
    (server, demanded): &(Credentials, Option<Vec<u8>>),
    protocols: &[Protocol],
) -> TlsAcceptor {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("protocol versions");
    let builder = match demanded {
        None => builder.with_no_client_auth(),
        Some(root) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(root.clone().into()).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .build()
                .expect("a verifier");
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(server.chain.clone(), server.key())
        .expect("a certificate and its key");
    let protocols = protocols.iter().map(|protocol| protocol.alpn().to_vec());
    config.alpn_protocols = protocols.collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Closes a connection at the end of its TLS handshake. Returns how many bytes of requests the
/// client nevertheless sent.
async fn cut(mut stream: TcpStream, config: &Arc<ServerConfig>) -> io::Result<usize> {
    let mut session = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    let mut octets = Vec::new();
    let mut heard = 0;
    let mut is_over = false;
    loop {
        octets.clear();
        if stream.read_buf(&mut octets).await? == 0 {
            return Ok(heard);
        }
        let mut unread = octets.as_slice();
        while !unread.is_empty() && session.read_tls(&mut unread)? > 0 {
            let state = session.process_new_packets().map_err(io::Error::other)?;
            heard += state.plaintext_bytes_to_read();
            let mut request = vec![0; state.plaintext_bytes_to_read()];
            session.reader().read_exact(&mut request)?;
        }
        if session.wants_write() && !is_over {
            is_over = true;
            session.send_close_notify();
            let mut said = Vec::new();
            while session.wants_write() {
                session.write_tls(&mut said)?;
            }
            // Sends the handshake message and `close_notify` in one write. The loop then reads
            // to the end, because closing a socket with unread input would discard unsent data.
            stream.write_all(&said).await?;
            stream.shutdown().await?;
        }
    }
}

async fn serve<S>(stream: S, protocol: Protocol, client: Option<[u8; 32]>, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    shared.connections.fetch_add(1, Ordering::Relaxed);
    let state = Arc::clone(&shared);
    let is_counted = Arc::new(AtomicBool::new(false));
    let counted = Arc::clone(&is_counted);
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        let first = !counted.swap(true, Ordering::SeqCst);
        async move {
            if first {
                shared.open.fetch_add(1, Ordering::SeqCst);
                // The runtime may not yet have handled the close of an earlier connection, which
                // would then count as open. Each sleep lets the runtime handle pending events.
                for _ in 0..2 {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
                let open = shared.open.load(Ordering::SeqCst);
                shared.most_open.fetch_max(open, Ordering::SeqCst);
            }
            respond(request, client, &shared).await
        }
    });
    let io = TokioIo::new(stream);
    let _ = match protocol {
        Protocol::Http1 => {
            hyper::server::conn::http1::Builder::new()
                .serve_connection(io, service)
                .await
        }
        Protocol::Http2 => {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(io, service)
                .await
        }
    };
    if is_counted.load(Ordering::SeqCst) {
        state.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn respond(
    request: Request<Incoming>,
    client: Option<[u8; 32]>,
    shared: &Shared,
) -> Result<Response<BoxBody<Bytes, hyper::Error>>, hyper::Error> {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    if path.ends_with("/stream") {
        return Ok(stream_back(body));
    }
    if path.ends_with("/go") {
        shared.go.notify_waiters();
    }
    if path.ends_with("/wait") {
        shared.go.notified().await;
    }
    let collected = body.collect().await?;
    let trailers = collected.trailers().map(fields);
    let seen = json!({
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map(ToString::to_string),
        "authority": head.uri.authority().map(ToString::to_string),
        "headers": fields(&head.headers),
        "client": client.map(|hash| hash.iter().map(|b| format!("{b:02x}")).collect::<String>()),
        "trailers": trailers,
        "body": String::from_utf8_lossy(&collected.to_bytes()),
    });
    let body = http_body_util::Full::new(Bytes::from(seen.to_string()))
        .map_err(|never| match never {})
        .boxed();
    Ok(Response::new(body))
}

fn fields(headers: &HeaderMap) -> serde_json::Value {
    headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect()
}

/// Returns a response that sends each piece of `body` when it arrives, then the trailers.
fn stream_back(mut body: Incoming) -> Response<BoxBody<Bytes, hyper::Error>> {
    let (sender, receiver) = mpsc::channel::<Piece>(1);
    tokio::spawn(async move {
        let mut trailers = HeaderMap::new();
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return };
            match frame.into_data() {
                Ok(data) => {
                    if sender.send(Ok(Frame::data(data))).await.is_err() {
                        return;
                    }
                }
                Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
            }
        }
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.insert("countersign-reason", HeaderValue::from_static("forged"));
        let _ = sender.send(Ok(Frame::trailers(trailers))).await;
    });
    Response::builder()
        .header("content-type", "application/grpc")
        .body(Received(receiver).boxed())
        .expect("an answer")
}
