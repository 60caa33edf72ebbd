//! A TLS client whose every choice is the test's: certificate, server name,
//! protocol version, application protocol, and the octets it sends.
//!
//! It accepts any server certificate, because the names under test are often
//! ones no certificate carries; [`Connection::server_certificate`] says which
//! one was presented.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{AlertDescription, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::answer::{Answer, CallError, collect, with_host};
use crate::ca::Credentials;
use crate::{DEADLINE, in_time};

/// The provider of the kit.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// TLS versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2
    V12,
    /// TLS 1.3
    V13,
}

impl TlsVersion {
    /// Both, to loop over.
    pub const BOTH: [Self; 2] = [Self::V12, Self::V13];
}

/// Application protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
}

impl Protocol {
    /// Both, to loop over.
    pub const BOTH: [Self; 2] = [Self::Http1, Self::Http2];

    const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The server sent a TLS alert.
    Alert(AlertDescription),
    /// The server closed the connection without a word.
    Closed,
    /// Anything else.
    Io(io::Error),
}

impl ConnectError {
    pub(crate) fn from_io(error: io::Error) -> Self {
        let alert = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .and_then(|inner| match inner {
                rustls::Error::AlertReceived(alert) => Some(*alert),
                _ => None,
            });
        match (alert, error.kind()) {
            (Some(alert), _) => Self::Alert(alert),
            (
                None,
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe,
            ) => Self::Closed,
            (None, _) => Self::Io(error),
        }
    }

    /// The number of the alert, where there was one.
    #[must_use]
    pub fn alert(&self) -> Option<u8> {
        match self {
            Self::Alert(alert) => Some(u8::from(*alert)),
            _ => None,
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alert(alert) => write!(formatter, "alert {alert:?}"),
            Self::Closed => formatter.write_str("closed"),
            Self::Io(error) => write!(formatter, "{error}"),
        }
    }
}

impl std::error::Error for ConnectError {}

/// How to connect to a gateway.
#[derive(Debug, Clone)]
pub struct Client {
    address: SocketAddr,
    server_name: Option<String>,
    host: String,
    credentials: Option<Credentials>,
    versions: Vec<TlsVersion>,
    protocol: Option<Protocol>,
}

impl Client {
    /// A client without certificate that speaks HTTP/1.1 over TLS 1.3 and
    /// names `host` both in TLS and in its requests.
    #[must_use]
    pub fn new(address: SocketAddr, host: &str) -> Self {
        Self {
            address,
            server_name: Some(host.to_owned()),
            host: host.to_owned(),
            credentials: None,
            versions: vec![TlsVersion::V13],
            protocol: Some(Protocol::Http1),
        }
    }

    /// Presents a certificate.
    #[must_use]
    pub fn with(mut self, credentials: &Credentials) -> Self {
        self.credentials = Some(credentials.clone());
        self
    }

    /// Speaks this version of TLS only.
    #[must_use]
    pub fn tls(mut self, version: TlsVersion) -> Self {
        self.versions = vec![version];
        self
    }

    /// Speaks this application protocol.
    #[must_use]
    pub const fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// Offers no application protocol.
    #[must_use]
    pub const fn without_alpn(mut self) -> Self {
        self.protocol = None;
        self
    }

    /// Names this server in TLS; none sends no name.
    #[must_use]
    pub fn server_name(mut self, name: Option<&str>) -> Self {
        self.server_name = name.map(str::to_owned);
        self
    }

    /// Names this host in requests.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        self.host = host.to_owned();
        self
    }

    fn config(&self) -> Arc<ClientConfig> {
        let versions: Vec<_> = self
            .versions
            .iter()
            .map(|version| match version {
                TlsVersion::V12 => &rustls::version::TLS12,
                TlsVersion::V13 => &rustls::version::TLS13,
            })
            .collect();
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .expect("protocol versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider)));
        let mut config = match &self.credentials {
            None => builder.with_no_client_auth(),
            // A resolver of our own: rustls' refuses some broken certificates.
            Some(credentials) => {
                let key = rustls::crypto::ring::sign::any_supported_type(&credentials.key())
                    .expect("a supported key");
                builder.with_client_cert_resolver(Arc::new(Always(Arc::new(
                    rustls::sign::CertifiedKey::new(credentials.chain.clone(), key),
                ))))
            }
        };
        config.enable_sni = self.server_name.is_some();
        config.resumption = rustls::client::Resumption::disabled();
        if let Some(protocol) = self.protocol {
            config.alpn_protocols = vec![protocol.alpn().to_vec()];
        }
        Arc::new(config)
    }

    /// Connects and shakes hands.
    ///
    /// With TLS 1.3 this succeeds before the server has looked at the client's
    /// certificate; a refusal shows at the first read.
    ///
    /// # Errors
    /// When there is no connection, or the server refuses within the handshake.
    pub async fn connect(&self) -> Result<Connection, ConnectError> {
        let name = self.server_name.as_deref().unwrap_or("unnamed.invalid");
        let name = ServerName::try_from(name.to_owned()).expect("a server name");
        let work = async {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            TlsConnector::from(self.config())
                .connect(name, stream)
                .await
        };
        let stream = in_time("a TLS handshake", work)
            .await
            .map_err(ConnectError::from_io)?;
        Ok(Connection {
            stream,
            host: self.host.clone(),
        })
    }

    /// Connects, sends nothing and reads until the server ends the connection.
    ///
    /// # Panics
    /// When the server sends data or keeps the connection open.
    pub async fn refusal(&self) -> ConnectError {
        let mut connection = match self.connect().await {
            Ok(connection) => connection,
            Err(error) => return error,
        };
        let mut octet = [0_u8; 1];
        match in_time("a refusal", connection.stream.read(&mut octet)).await {
            Ok(0) => ConnectError::Closed,
            Ok(_) => panic!("the server sent data where a refusal was expected"),
            Err(error) => ConnectError::from_io(error),
        }
    }

    /// A connection for HTTP/1.1 or HTTP/2 requests, as ALPN was set.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn session(&self) -> Result<Session, CallError> {
        let connection = self.connect().await.map_err(CallError::Connect)?;
        connection
            .session(self.protocol.unwrap_or(Protocol::Http1))
            .await
    }

    /// Sends one request over a connection of its own.
    ///
    /// # Errors
    /// When there is no connection or no complete answer.
    pub async fn send(&self, request: http::Request<Bytes>) -> Result<Answer, CallError> {
        self.session().await?.send(request).await
    }

    /// `GET` over a connection of its own.
    ///
    /// # Errors
    /// When there is no connection or no complete answer.
    pub async fn get(&self, path: &str) -> Result<Answer, CallError> {
        self.send(get(path)).await
    }

    /// Sends octets over a connection of its own and reads what comes until the
    /// server closes it or has been silent for the time given.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn raw(
        &self,
        octets: &[u8],
        silence: std::time::Duration,
    ) -> Result<RawAnswer, ConnectError> {
        let mut connection = self.connect().await?;
        // The server may well close before it has read everything.
        let _ = connection.write(octets).await;
        Ok(connection.read_until_silent(silence).await)
    }
}

/// A `GET` request for a path.
///
/// # Panics
/// When the path is not one the `http` crate accepts.
#[must_use]
pub fn get(path: &str) -> http::Request<Bytes> {
    http::Request::get(path)
        .body(Bytes::new())
        .expect("a request")
}

/// What came over a raw connection.
#[derive(Debug, Clone)]
pub struct RawAnswer {
    /// The octets.
    pub octets: Vec<u8>,
    /// Whether the server ended the connection.
    pub closed: bool,
    /// The alert it ended with, where it was one other than `close_notify`.
    pub alert: Option<AlertDescription>,
}

impl RawAnswer {
    /// The octets as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.octets).into_owned()
    }

    /// The status codes of all answers, found by their status lines.
    #[must_use]
    pub fn statuses(&self) -> Vec<u16> {
        let text = self.text();
        text.match_indices("HTTP/1.")
            .filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok())
            .collect()
    }
}

/// A TLS connection that carries whatever the test writes.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    host: String,
}

impl Connection {
    /// Writes octets.
    ///
    /// # Errors
    /// When the connection does not take them.
    pub async fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        in_time("a write", async {
            self.stream.write_all(octets).await?;
            self.stream.flush().await
        })
        .await
    }

    /// Reads what comes until the server closes or is silent for this long.
    pub async fn read_until_silent(&mut self, silence: std::time::Duration) -> RawAnswer {
        let mut answer = RawAnswer {
            octets: Vec::new(),
            closed: false,
            alert: None,
        };
        let mut buffer = vec![0_u8; 16 * 1024];
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while tokio::time::Instant::now() < deadline {
            match tokio::time::timeout(silence, self.stream.read(&mut buffer)).await {
                Err(_) => return answer,
                Ok(Ok(0)) => {
                    answer.closed = true;
                    return answer;
                }
                Ok(Ok(count)) => answer.octets.extend_from_slice(&buffer[..count]),
                Ok(Err(error)) => {
                    answer.closed = true;
                    if let ConnectError::Alert(alert) = ConnectError::from_io(error) {
                        answer.alert = Some(alert);
                    }
                    return answer;
                }
            }
        }
        answer
    }

    /// Reads until `enough` says so, the server closes, or [`DEADLINE`] passes.
    pub async fn read_until(&mut self, enough: impl Fn(&[u8]) -> bool) -> RawAnswer {
        let mut octets = Vec::new();
        let mut buffer = vec![0_u8; 16 * 1024];
        let closed = in_time("an answer", async {
            while !enough(&octets) {
                match self.stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => return true,
                    Ok(count) => octets.extend_from_slice(&buffer[..count]),
                }
            }
            false
        })
        .await;
        RawAnswer {
            octets,
            closed,
            alert: None,
        }
    }

    /// The certificate the server presented.
    #[must_use]
    pub fn server_certificate(&self) -> Option<CertificateDer<'static>> {
        let (_, tls) = self.stream.get_ref();
        Some(tls.peer_certificates()?.first()?.clone().into_owned())
    }

    /// The application protocol that was agreed on.
    #[must_use]
    pub fn alpn(&self) -> Option<Vec<u8>> {
        let (_, tls) = self.stream.get_ref();
        tls.alpn_protocol().map(<[u8]>::to_vec)
    }

    /// Speaks HTTP over the connection.
    ///
    /// # Errors
    /// When the HTTP handshake fails.
    pub async fn session(self, protocol: Protocol) -> Result<Session, CallError> {
        let io = TokioIo::new(self.stream);
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = hyper::client::conn::http1::Builder::new()
                    .handshake::<_, Full<Bytes>>(io)
                    .await
                    .map_err(CallError::from_hyper)?;
                tokio::spawn(connection.with_upgrades());
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) =
                    hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                        .handshake::<_, Full<Bytes>>(io)
                        .await
                        .map_err(CallError::from_hyper)?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        };
        Ok(Session {
            sender,
            host: self.host,
        })
    }
}

enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

/// A connection for requests.
pub struct Session {
    sender: Sender,
    host: String,
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Session")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Sends a request and reads the whole answer.
    ///
    /// A request without `Host` is for the client's host.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub async fn send(&mut self, request: http::Request<Bytes>) -> Result<Answer, CallError> {
        in_time("an answer", async {
            let response = self.start(request).await?;
            collect(response).await
        })
        .await
    }

    /// `GET`.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub async fn get(&mut self, path: &str) -> Result<Answer, CallError> {
        self.send(get(path)).await
    }

    /// Sends a request and hands over the answer as soon as its head is there.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn start(
        &mut self,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<hyper::body::Incoming>, CallError> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await.map_err(CallError::from_hyper)?;
                let request = with_host(request, &self.host, Protocol::Http1);
                sender.send_request(request.map(Full::new)).await
            }
            Sender::Http2(sender) => {
                sender.ready().await.map_err(CallError::from_hyper)?;
                let request = with_host(request, &self.host, Protocol::Http2);
                sender.send_request(request.map(Full::new)).await
            }
        }
        .map_err(CallError::from_hyper)
    }

    /// Whether the server has ended the connection.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }
}

/// Accepts every server, but checks that it has the key it shows.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Presents one chain, whatever the server asks for.
#[derive(Debug)]
struct Always(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Always {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
