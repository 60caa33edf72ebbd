//! A TLS client whose every choice is the test's: certificate, server name, protocol version,
//! application protocol, and the bytes it sends.
//!
//! It accepts any server certificate, because the names under test are often
//! ones no certificate carries; [`Connection::server_certificate`] says which
//! one was presented.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub use crate::answer::get;
use crate::answer::{Answer, CallError};
use crate::connection::{Connection, RawAnswer, Session};
use crate::credentials::Credentials;
use crate::in_time;
use crate::pieces::PieceBody;
use crate::protocol::{ConnectError, Protocol, TlsVersion, provider};
use crate::sessions::Sessions;

/// How to connect to a gateway.
#[derive(Debug, Clone)]
pub struct Client {
    address: SocketAddr,
    server_name: Option<String>,
    host: String,
    credentials: Option<Credentials>,
    versions: Vec<TlsVersion>,
    protocol: Option<Protocol>,
    sessions: Option<Arc<Resuming>>,
    preface: Vec<u8>,
}

/// What resuming connections share. rustls resumes only with the very
/// configuration that a session was opened with.
#[derive(Debug)]
struct Resuming {
    sessions: Arc<Sessions>,
    config: OnceLock<Arc<ClientConfig>>,
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
            sessions: None,
            preface: Vec::new(),
        }
    }

    /// Sends these octets before TLS begins.
    #[must_use]
    pub fn preface(mut self, octets: &[u8]) -> Self {
        self.preface = octets.to_vec();
        self
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

    /// Keeps sessions and resumes them, the oldest first, whatever the server name
    /// and address: all clones made from here on share them. Certificate and
    /// versions have to be set before.
    #[must_use]
    pub fn resuming(mut self) -> Self {
        self.sessions = Some(Arc::new(Resuming {
            sessions: Arc::default(),
            config: OnceLock::new(),
        }));
        self
    }

    /// Whether sessions are only gathered from now on, and none is resumed.
    pub fn gather(&self, gathering: bool) {
        if let Some(resuming) = &self.sessions {
            resuming.sessions.gather(gathering);
        }
    }

    /// How many tickets it was given.
    #[must_use]
    pub fn tickets(&self) -> usize {
        self.sessions
            .as_ref()
            .map_or(0, |resuming| resuming.sessions.count())
    }

    /// Connects elsewhere.
    #[must_use]
    pub const fn at(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    fn config(&self) -> Arc<ClientConfig> {
        match &self.sessions {
            None => self.new_config(rustls::client::Resumption::disabled()),
            Some(resuming) => Arc::clone(resuming.config.get_or_init(|| {
                let sessions = Arc::clone(&resuming.sessions);
                self.new_config(rustls::client::Resumption::store(sessions))
            })),
        }
    }

    fn new_config(&self, resumption: rustls::client::Resumption) -> Arc<ClientConfig> {
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
        config.resumption = resumption;
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
        let stream = in_time("a connection", TcpStream::connect(self.address))
            .await
            .map_err(ConnectError::from_io)?;
        self.connect_over(stream).await
    }

    /// Shakes hands over a connection that is there already.
    ///
    /// # Errors
    /// As [`Client::connect`].
    ///
    /// # Panics
    /// When the server name is none.
    pub async fn connect_over(&self, mut stream: TcpStream) -> Result<Connection, ConnectError> {
        let name = self.server_name.as_deref().unwrap_or("unnamed.invalid");
        let name = ServerName::try_from(name.to_owned()).expect("a server name");
        let work = async {
            stream.set_nodelay(true)?;
            stream.write_all(&self.preface).await?;
            TlsConnector::from(self.config())
                .connect(name, stream)
                .await
        };
        let stream = in_time("a TLS handshake", work)
            .await
            .map_err(ConnectError::from_io)?;
        Ok(Connection::new(stream, self.host.clone()))
    }

    /// Connects, sends nothing and reads until the server ends the connection.
    ///
    /// # Panics
    /// When the server sends data or keeps the connection open.
    pub async fn refusal(&self) -> ConnectError {
        self.refusal_after(b"").await
    }

    /// Like [`Client::refusal`], but sends octets first, as most clients do:
    /// with TLS 1.3 they may send before they hear of the refusal.
    ///
    /// # Panics
    /// When the server sends data or keeps the connection open.
    pub async fn refusal_after(&self, octets: &[u8]) -> ConnectError {
        let mut connection = match self.connect().await {
            Ok(connection) => connection,
            Err(error) => return error,
        };
        if !octets.is_empty() {
            let _ = connection.write(octets).await;
        }
        let mut octet = [0_u8; 1];
        match in_time("a refusal", connection.stream_mut().read(&mut octet)).await {
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

    /// An h2 connection for requests whose bodies are sent piece by piece.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn streams(
        &self,
    ) -> Result<hyper::client::conn::http2::SendRequest<PieceBody>, CallError> {
        let client = self.clone().protocol(Protocol::Http2);
        let connection = client.connect().await.map_err(CallError::Connect)?;
        connection.streams().await
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
