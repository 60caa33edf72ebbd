//! `ClientTls`: TLS from the gateway to a service.
//!
//! The service's certificate is checked by the path rules that also apply to callers, with the
//! purpose "server". Then the certificate must contain the expected name or identity. rustls
//! returns only an alert, so the verifier stores the detailed error in a task-local variable.
//! [`crate::upstream`] opens and pools the connections.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::credentials::Credentials;
use crate::crypto;
use crate::identity::text::printable;
use crate::identity::{CallerName, IdentityPattern, LeafFacts, SpiffeId};
use crate::trust::path::{MAX_CERTIFICATES, MAX_CHAIN_BYTES};
use crate::trust::{PathPurpose, PathTrust};

/// The identity that a service must prove, and the certificate that the gateway presents.
#[derive(Debug, Clone)]
pub struct ClientTlsConfig {
    /// Roots that may have issued the service's certificate chain, in DER.
    pub roots: Vec<CertificateDer<'static>>,
    /// The name that the gateway sends as SNI and that the certificate must contain. If this is
    /// `None`, the gateway sends the endpoint's host. The certificate must contain this host only
    /// if `identity` is `None`, too.
    pub server_name: Option<ServerName<'static>>,
    /// The identity that the service's certificate must contain.
    pub identity: Option<IdentityPattern>,
    /// The gateway's own certificate with its key, if the gateway presents a certificate.
    pub credentials: Option<Credentials>,
    /// The application protocol, as its ALPN protocol ID.
    pub protocol: &'static [u8],
}

/// The reason why a TLS configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("TLS configuration: {0}")]
pub struct ClientTlsError(String);

/// The reason why a TLS connection to a service failed.
#[derive(Debug, thiserror::Error)]
pub enum TlsConnectError {
    /// The service's certificate is not trusted, or does not contain the expected name or identity.
    #[error("the service is not trusted: {0}")]
    Untrusted(String),
    /// The handshake failed with a TLS error. Usually the service has sent an alert, because it
    /// does not accept the gateway's certificate.
    #[error("the service refused the handshake: {0}")]
    Refused(String),
    /// The service does not use the application protocol that the gateway offered.
    #[error("the service did not agree to {0}")]
    Protocol(String),
    /// The connection failed or was closed during the handshake.
    #[error("the handshake failed: {0}")]
    Io(io::Error),
}

/// The TLS configuration for the endpoints of one upstream.
pub struct ClientTls {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    protocol: &'static [u8],
    digest: [u8; 32],
}

/// A TLS connection to a service whose certificate was verified.
#[derive(Debug)]
pub struct Secured {
    /// The TLS connection.
    pub stream: TlsStream<TcpStream>,
    /// Earliest notAfter of the service's certificate path, in seconds since the Unix epoch.
    pub not_after: i64,
}

tokio::task_local! {
    static NOTES: RefCell<Option<Result<i64, String>>>;
}

impl ClientTls {
    /// Creates the rustls configuration.
    ///
    /// # Errors
    /// If rustls refuses the configuration.
    pub fn new(config: ClientTlsConfig) -> Result<Self, ClientTlsError> {
        let digest = digest_of(&config);
        let verifier = ServiceVerifier {
            roots: config.roots,
            named: config.identity.is_none() || config.server_name.is_some(),
            identity: config.identity,
            algorithms: crypto::provider().signature_verification_algorithms,
        };
        let builder = ClientConfig::builder_with_provider(crypto::provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| ClientTlsError(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut tls = match config.credentials {
            None => builder.with_no_client_auth(),
            Some(credentials) => builder
                .with_client_cert_resolver(Arc::new(Always(Arc::clone(credentials.certified())))),
        };
        tls.alpn_protocols = vec![config.protocol.to_vec()];
        // Resumption is disabled because rustls does not verify the certificate in a resumed
        // session.
        tls.resumption = Resumption::disabled();
        Ok(Self {
            config: Arc::new(tls),
            server_name: config.server_name,
            protocol: config.protocol,
            digest,
        })
    }

    /// Returns the same configuration with another application protocol, given as ALPN protocol ID.
    #[must_use]
    pub fn speaking(&self, protocol: &'static [u8]) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = vec![protocol.to_vec()];
        Self {
            config: Arc::new(config),
            server_name: self.server_name.clone(),
            protocol,
            digest: self.digest,
        }
    }

    /// Returns a hash of the [`ClientTlsConfig`]. A connection must not be used for an upstream
    /// with another hash.
    #[must_use]
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Makes the TLS handshake with the service at `host`.
    ///
    /// # Errors
    /// If the service is not trusted, refuses the handshake, or closes the connection.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> Result<Secured, TlsConnectError> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned())
                .map_err(|error| TlsConnectError::Untrusted(error.to_string()))?,
        };
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let (connected, notes) = NOTES
            .scope(RefCell::new(None), async {
                let connected = connector.connect(name, stream).await;
                (connected, NOTES.with(RefCell::take))
            })
            .await;
        let stream = match (connected, &notes) {
            (Ok(stream), _) => stream,
            (Err(_), Some(Err(why))) => return Err(TlsConnectError::Untrusted(why.clone())),
            (Err(error), _) => return Err(refusal_of(error)),
        };
        // rustls calls the verifier in every full handshake, and the verifier stores its result in
        // the notes. If there is no result, the service was not verified, so it is not trusted.
        let Some(Ok(not_after)) = notes else {
            return Err(TlsConnectError::Untrusted(
                "it showed no certificate".into(),
            ));
        };
        let agreed = stream.get_ref().1.alpn_protocol();
        // If a service does not select a protocol by ALPN, HTTP/1.1 is assumed. This is an error if
        // the gateway needs HTTP/2.
        if agreed != Some(self.protocol) && !(agreed.is_none() && self.protocol != b"h2") {
            return Err(TlsConnectError::Protocol(
                String::from_utf8_lossy(self.protocol).into_owned(),
            ));
        }
        Ok(Secured { stream, not_after })
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ClientTls")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

/// Hashes all fields of the configuration, because each of them affects whether a connection is
/// trusted. The length of each field is hashed before the field.
fn digest_of(config: &ClientTlsConfig) -> [u8; 32] {
    let mut input = Vec::new();
    let mut field = |bytes: &[u8]| {
        input.extend_from_slice(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        input.extend_from_slice(bytes);
    };
    field(config.protocol);
    field(
        config
            .server_name
            .as_ref()
            .map_or("".into(), ServerName::to_str)
            .as_bytes(),
    );
    field(
        config
            .identity
            .as_ref()
            .map_or(String::new(), ToString::to_string)
            .as_bytes(),
    );
    field(
        config
            .credentials
            .as_ref()
            .map_or(&[][..], |own| &own.facts().thumbprint),
    );
    for root in &config.roots {
        field(root);
    }
    crypto::sha256(&input)
}

fn refusal_of(error: io::Error) -> TlsConnectError {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        Some(Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)) => {
            TlsConnectError::Protocol("the application protocol".into())
        }
        Some(tls) => TlsConnectError::Refused(tls.to_string()),
        None => TlsConnectError::Io(error),
    }
}

/// Returns a resolver that always presents these credentials.
#[must_use]
pub fn always(credentials: &Credentials) -> Arc<dyn ResolvesClientCert> {
    Arc::new(Always(Arc::clone(credentials.certified())))
}

/// Presents one certificate. The list of acceptable issuers in the service's request is ignored.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0
            .key
            .choose_scheme(schemes)
            .is_some()
            .then(|| Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

struct ServiceVerifier {
    roots: Vec<CertificateDer<'static>>,
    /// Whether the certificate must contain the requested server name.
    named: bool,
    identity: Option<IdentityPattern>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServiceVerifier {
    /// Checks the service's chain. Returns the path's earliest notAfter, or the reason why the
    /// service is not trusted.
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<i64, String> {
        let bytes = intermediates.iter().map(|der| der.len()).sum::<usize>() + leaf.len();
        if intermediates.len() >= MAX_CERTIFICATES || bytes > MAX_CHAIN_BYTES {
            return Err("its chain is too long".to_owned());
        }
        let presented = intermediates
            .iter()
            .map(|der| der.clone().into_owned())
            .collect();
        let path = PathTrust::new(&self.roots, presented, None, PathPurpose::Server)
            .verify(leaf, now)
            .map_err(|(reason, why)| format!("{reason}: {why}"))?;
        let facts = LeafFacts::read(leaf).map_err(|error| error.to_string())?;
        if self.named {
            ParsedCertificate::try_from(leaf)
                .and_then(|leaf| verify_server_name(&leaf, name))
                .map_err(|_| {
                    format!("it carries {}, not {}", facts.sans.summary(), name.to_str())
                })?;
        }
        match &self.identity {
            Some(expected) if !carries(&facts, expected)? => Err(format!(
                "it carries {}, and {expected} was expected",
                facts.sans.summary()
            )),
            _ => Ok(path.not_after),
        }
    }
}

/// Whether a name of the leaf matches the pattern. Only names of the pattern's type are compared.
fn carries(leaf: &LeafFacts, expected: &IdentityPattern) -> Result<bool, String> {
    let sans = &leaf.sans;
    let names: Result<Vec<CallerName>, _> = match expected {
        // No certificate contains an API key's name or a client's name. `*` identifies no service.
        IdentityPattern::AnyCaller
        | IdentityPattern::ApiKey(_)
        | IdentityPattern::Client { .. } => return Ok(false),
        IdentityPattern::Spiffe { .. } | IdentityPattern::Uri { .. } => {
            // X509-SVID section 2: a certificate with a SPIFFE ID has no other URI name.
            if sans.uri.len() > 1 && sans.uri.iter().any(|uri| SpiffeId::is_claimed_by(uri)) {
                return Err(format!(
                    "it carries a SPIFFE ID and other URI names: {}",
                    sans.summary()
                ));
            }
            sans.uri
                .iter()
                .map(|uri| CallerName::from_uri(uri))
                .collect()
        }
        IdentityPattern::Dns(_) => sans
            .dns
            .iter()
            .map(|name| CallerName::from_dns(name))
            .collect(),
        IdentityPattern::Email { .. } => sans
            .email
            .iter()
            .map(|address| CallerName::from_email(address))
            .collect(),
        IdentityPattern::Upn { .. } => sans
            .upn
            .iter()
            .map(|name| CallerName::from_upn(name))
            .collect(),
        IdentityPattern::Ip(_) => Ok(sans
            .ip
            .iter()
            .copied()
            .map(CallerName::Ip)
            .collect::<Vec<CallerName>>()),
    };
    let names = names.map_err(|error| format!("its identity is malformed: {error}"))?;
    Ok(names.iter().any(|name| expected.matches(name)))
}

/// Parses an IP address or host name for the server name of a TLS connection.
#[must_use]
pub fn server_name(text: &str) -> Option<ServerName<'static>> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(ServerName::IpAddress(address.into()));
    }
    ServerName::try_from(text.to_owned()).ok()
}

impl fmt::Debug for ServiceVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ServiceVerifier")
            .field("roots", &self.roots.len())
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl ServerCertVerifier for ServiceVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = self
            .check(end_entity, intermediates, server_name, now)
            .map_err(|why| printable(&why));
        let trusted = found.is_ok();
        // In tests that use only rustls there are no notes, and the result is dropped.
        let _ = NOTES.try_with(|notes| notes.replace(Some(found)));
        if trusted {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
