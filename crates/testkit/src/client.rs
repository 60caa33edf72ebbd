//! A TLS client for tests. A test sets the certificate, the server name, the TLS version, the
//! application protocol, and the bytes that the client sends.
//!
//! The client accepts any server certificate, because tests also use server names that no
//! certificate contains. [`Connection::server_certificate`] returns the certificate that the server
//! presented.

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

/// The settings for connections to a gateway, and for requests over these connections.
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

/// The state that the connections of a client share to resume sessions. It contains the TLS
/// configuration, because rustls resumes a session only with the same configuration.
#[derive(Debug)]
struct Resuming {
    sessions: Arc<Sessions>,
    config: OnceLock<Arc<ClientConfig>>,
}

impl Client {
    /// Creates a client without a certificate that uses HTTP/1.1 over TLS 1.3. It sends
    /// `host` as the TLS server name and as the host of requests.
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

    /// Sends these bytes before the TLS handshake, for example a PROXY protocol header.
    #[must_use]
    pub fn preface(mut self, octets: &[u8]) -> Self {
        self.preface = octets.to_vec();
        self
    }

    /// Presents this client certificate.
    #[must_use]
    pub fn with(mut self, credentials: &Credentials) -> Self {
        self.credentials = Some(credentials.clone());
        self
    }

    /// Uses only this version of TLS.
    #[must_use]
    pub fn tls(mut self, version: TlsVersion) -> Self {
        self.versions = vec![version];
        self
    }

    /// Offers only this application protocol, and uses it.
    #[must_use]
    pub const fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// Does not offer any application protocol in the handshake.
    #[must_use]
    pub const fn without_alpn(mut self) -> Self {
        self.protocol = None;
        self
    }

    /// Sets the server name in the TLS handshake. `None` means that the client sends no server
    /// name.
    #[must_use]
    pub fn server_name(mut self, name: Option<&str>) -> Self {
        self.server_name = name.map(str::to_owned);
        self
    }

    /// Sets the host name in requests.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        self.host = host.to_owned();
        self
    }

    /// Stores TLS sessions and resumes them, for any server name and address. With TLS 1.3, each
    /// ticket is used once, the oldest first. With TLS 1.2, the newest session is used. All
    /// clones of the returned client share the sessions. Set the certificate and the TLS
    /// versions before this call.
    #[must_use]
    pub fn resuming(mut self) -> Self {
        self.sessions = Some(Arc::new(Resuming {
            sessions: Arc::default(),
            config: OnceLock::new(),
        }));
        self
    }

    /// While `gathering` is true, the client stores new sessions but resumes none.
    pub fn gather(&self, gathering: bool) {
        if let Some(resuming) = &self.sessions {
            resuming.sessions.gather(gathering);
        }
    }

    /// Returns how many sessions the client has stored in total. With TLS 1.3, this is the
    /// number of received session tickets.
    #[must_use]
    pub fn tickets(&self) -> usize {
        self.sessions
            .as_ref()
            .map_or(0, |resuming| resuming.sessions.count())
    }

    /// Connects to `address` instead of the address that was passed to [`Client::new`].
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
            // This resolver is necessary, because the resolver of rustls refuses some of the
            // broken certificates that tests need.
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

    /// Connects and performs the TLS handshake.
    ///
    /// With TLS 1.3, the handshake ends for the client before the server has checked the
    /// client's certificate. If the server refuses the certificate, the first read returns the
    /// error.
    ///
    /// # Errors
    /// If the connection fails, or if the server refuses during the handshake.
    pub async fn connect(&self) -> Result<Connection, ConnectError> {
        let stream = in_time("a connection", TcpStream::connect(self.address))
            .await
            .map_err(ConnectError::from_io)?;
        self.connect_over(stream).await
    }

    /// Performs the TLS handshake over an open connection.
    ///
    /// # Errors
    /// Same as [`Client::connect`].
    ///
    /// # Panics
    /// If the configured server name is not a valid server name.
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

    /// Connects, sends nothing after the handshake, and reads until the server closes the
    /// connection. Returns how the server closed it.
    ///
    /// # Panics
    /// If the server sends data or keeps the connection open.
    pub async fn refusal(&self) -> ConnectError {
        self.refusal_after(b"").await
    }

    /// Like [`Client::refusal`], but sends `octets` after the handshake. With TLS 1.3, most
    /// clients send a request before they receive the refusal.
    ///
    /// # Panics
    /// If the server sends data or keeps the connection open.
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

    /// Opens a connection for requests, over HTTP/1.1 or HTTP/2 as configured.
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn session(&self) -> Result<Session, CallError> {
        let connection = self.connect().await.map_err(CallError::Connect)?;
        connection
            .session(self.protocol.unwrap_or(Protocol::Http1))
            .await
    }

    /// Opens an h2 connection for requests whose bodies a test sends in pieces.
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn streams(
        &self,
    ) -> Result<hyper::client::conn::http2::SendRequest<PieceBody>, CallError> {
        let client = self.clone().protocol(Protocol::Http2);
        let connection = client.connect().await.map_err(CallError::Connect)?;
        connection.streams().await
    }

    /// Sends one request over a new connection.
    ///
    /// # Errors
    /// If the connection fails or there is no complete response.
    pub async fn send(&self, request: http::Request<Bytes>) -> Result<Answer, CallError> {
        self.session().await?.send(request).await
    }

    /// Sends a `GET` request over a new connection.
    ///
    /// # Errors
    /// If the connection fails or there is no complete response.
    pub async fn get(&self, path: &str) -> Result<Answer, CallError> {
        self.send(get(path)).await
    }

    /// Sends bytes over a new connection. Then reads until the server closes the connection
    /// or sends nothing for the time `silence`.
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn raw(
        &self,
        octets: &[u8],
        silence: std::time::Duration,
    ) -> Result<RawAnswer, ConnectError> {
        let mut connection = self.connect().await?;
        // The error is ignored, because the server may close the connection before it has read
        // everything.
        let _ = connection.write(octets).await;
        Ok(connection.read_until_silent(silence).await)
    }
}

/// Accepts every server certificate, but checks that the server has the certificate's private key.
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

/// Presents one chain, even if it does not fit the server's certificate request.
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
