//! `ServerNames` and `ServerEntry`: the TLS configuration of each server name, and its selection by
//! the SNI that a caller sends.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ServerConfig};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::caller_verifier::CallerVerifier;
use super::client_certificate::ClientCertificate;
use super::credentials::Credentials;
use super::handshake_notes::HandshakeNotes;
use super::session::Session;
use super::tickets::{TicketPolicy, TicketSource, Ticketer};
use crate::clock;
use crate::crypto;
use crate::identity::caller::normalized_dns;
use crate::identity::pattern::HostPattern;
use crate::reason::ReasonCode;
use crate::trust::{Admission, ChainError, ClientTrust, TrustRevision};

/// The response to plain HTTP on a port that expects TLS.
pub const PLAIN_HTTP_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    Content-Type: text/plain\r\n\
    Countersign-Reason: malformed-request\r\n\
    Connection: close\r\n\
    \r\n\
    This port speaks HTTPS with client certificates. Use https:// and present one.\n";

/// The settings from which a [`ServerEntry`] is built.
#[derive(Debug)]
pub struct ServerEntryConfig {
    /// The server names that select the entry. Empty for the default entry.
    pub names: Vec<HostPattern>,
    /// The gateway's certificate for `names`.
    pub credentials: Credentials,
    /// The trust bundles that verify callers of `names`.
    pub trust: Arc<ClientTrust>,
    /// Whether callers must present a certificate.
    pub client_certificate: ClientCertificate,
}

/// The TLS configuration of one `[[server_name]]` entry, or of the default entry.
pub struct ServerEntry {
    index: usize,
    names: Vec<HostPattern>,
    client_certificate: ClientCertificate,
    trust: Arc<ClientTrust>,
    ticketer: Arc<Ticketer>,
    tls: Arc<ServerConfig>,
    /// The configuration for clients that offer TLS 1.3.
    tls13: Arc<ServerConfig>,
    /// When the gateway's certificate expires, in seconds since the Unix epoch.
    not_after: i64,
}

/// The reason why server-name entries cannot be used together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerNamesError {
    /// Two entries have the same name.
    #[error("the name {0} stands in two [[server_name]] entries")]
    Twice(String),
    /// A server name is an IP address.
    #[error("{0} is an IP address; TLS server names are host names (RFC 6066 section 3)")]
    Address(String),
    /// rustls refuses the configuration.
    #[error("TLS configuration: {0}")]
    Tls(String),
}

/// All server-name entries of a listener, with look-up by name.
pub struct ServerNames {
    default: Option<Arc<ServerEntry>>,
    exact: HashMap<Box<str>, Arc<ServerEntry>>,
    wildcard: HashMap<Box<str>, Arc<ServerEntry>>,
}

impl ServerNames {
    /// Builds the entries. The entry without names is the default entry. `tickets` supplies the
    /// keys for session tickets.
    ///
    /// # Errors
    /// If two entries have the same name, a name is an IP address, or rustls refuses a
    /// configuration.
    pub fn new(
        configs: Vec<ServerEntryConfig>,
        tickets: &TicketSource,
    ) -> Result<Self, ServerNamesError> {
        let mut names = Self {
            default: None,
            exact: HashMap::new(),
            wildcard: HashMap::new(),
        };
        for (index, config) in configs.into_iter().enumerate() {
            let entry = Arc::new(ServerEntry::new(index, config, tickets)?);
            if entry.names.is_empty() {
                names.default = Some(entry);
                continue;
            }
            for name in &entry.names {
                let previous = match name {
                    HostPattern::Exact(host) if host.parse::<IpAddr>().is_ok() => {
                        return Err(ServerNamesError::Address(host.to_string()));
                    }
                    HostPattern::Exact(host) => {
                        names.exact.insert(host.clone(), Arc::clone(&entry))
                    }
                    HostPattern::Wildcard(suffix) => {
                        names.wildcard.insert(suffix.clone(), Arc::clone(&entry))
                    }
                };
                if previous.is_some() {
                    return Err(ServerNamesError::Twice(name.to_string()));
                }
            }
        }
        Ok(names)
    }

    /// Selects the entry for the SNI of a caller. If the caller sends no name or an unknown name,
    /// selects the default entry. Returns `None` if there is no default entry.
    #[must_use]
    pub fn select(&self, server_name: Option<&str>) -> Option<&Arc<ServerEntry>> {
        server_name
            .filter(|_| self.has_names())
            .and_then(normalized_dns)
            .and_then(|name| self.named(&name))
            .or(self.default.as_ref())
    }

    /// Selects the entry for the host in a request's authority. `host` must be in lower case,
    /// without port and trailing dot. An IP address selects the default entry.
    #[must_use]
    pub fn select_host(&self, host: &str) -> Option<&Arc<ServerEntry>> {
        if !self.has_names() || host.starts_with('[') || host.parse::<IpAddr>().is_ok() {
            return self.default.as_ref();
        }
        self.named(host).or(self.default.as_ref())
    }

    /// Whether there are entries besides the default entry.
    fn has_names(&self) -> bool {
        !self.exact.is_empty() || !self.wildcard.is_empty()
    }

    fn named(&self, name: &str) -> Option<&Arc<ServerEntry>> {
        self.exact.get(name).or_else(|| {
            name.split_once('.')
                .and_then(|(_, suffix)| self.wildcard.get(suffix))
        })
    }

    /// Returns the trust revision of each entry by its server name. Two configurations with equal
    /// revisions make the same trust decisions.
    #[must_use]
    pub fn revisions(&self) -> BTreeMap<String, TrustRevision> {
        let named = self.exact.iter().chain(&self.wildcard);
        let named = named.map(|(name, entry)| (name.to_string(), entry.trust.revision()));
        let default = self.default.iter();
        default
            .map(|entry| (String::new(), entry.trust.revision()))
            .chain(named)
            .collect()
    }

    /// Whether the gateway's own certificate has expired for all server names. No caller then
    /// accepts a connection.
    #[must_use]
    pub fn are_expired(&self, now: i64) -> bool {
        let is_over = |entry: &ServerEntry| clock::certificate_is_over(entry.not_after, now);
        self.entries().next().is_some() && self.entries().all(is_over)
    }

    /// Whether callers must present a certificate for each server name.
    #[must_use]
    pub fn require_certificates(&self) -> bool {
        self.entries()
            .all(|entry| entry.client_certificate == ClientCertificate::Required)
    }

    fn entries(&self) -> impl Iterator<Item = &ServerEntry> {
        let named = self.exact.values().chain(self.wildcard.values());
        self.default.iter().chain(named).map(|entry| &**entry)
    }

    /// Returns the default entry.
    #[must_use]
    pub const fn default_entry(&self) -> Option<&Arc<ServerEntry>> {
        self.default.as_ref()
    }
}

impl fmt::Debug for ServerNames {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ServerNames")
            .field("default", &self.default.is_some())
            .field("exact", &self.exact.keys())
            .field("wildcard", &self.wildcard.keys())
            .finish()
    }
}

/// Presents one certificate for every ClientHello, because the entry is already selected.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ServerEntry {
    fn new(
        index: usize,
        config: ServerEntryConfig,
        tickets: &TicketSource,
    ) -> Result<Self, ServerNamesError> {
        let mandatory = config.client_certificate == ClientCertificate::Required;
        let verifier = CallerVerifier::new(Arc::clone(&config.trust), mandatory);
        let ticketer = Arc::new(Ticketer::new(
            tickets.clone(),
            &config.names,
            config.client_certificate,
            &config.trust,
        ));
        let tls13 = tls_config(verifier.for_tls13(), &config.credentials, &ticketer)?;
        let tls = tls_config(verifier, &config.credentials, &ticketer)?;
        Ok(Self {
            index,
            names: config.names,
            client_certificate: config.client_certificate,
            trust: config.trust,
            ticketer,
            tls: Arc::new(tls),
            tls13: Arc::new(tls13),
            not_after: config.credentials.facts().not_after,
        })
    }

    /// Builds the entry for operators. It requires a certificate, offers only HTTP/1.1, and resumes
    /// no sessions.
    ///
    /// # Errors
    /// If rustls refuses the configuration.
    pub fn for_operators(
        credentials: Credentials,
        trust: Arc<ClientTrust>,
    ) -> Result<Self, ServerNamesError> {
        let config = ServerEntryConfig {
            names: Vec::new(),
            credentials,
            trust,
            client_certificate: ClientCertificate::Required,
        };
        let without_tickets = TicketPolicy {
            enabled: false,
            ..TicketPolicy::default()
        };
        let tickets = TicketSource::default().with(without_tickets, None);
        let mut entry = Self::new(0, config, &tickets)?;
        for tls in [&mut entry.tls, &mut entry.tls13] {
            let mut speaking_http1 = ServerConfig::clone(tls);
            speaking_http1.alpn_protocols = vec![b"http/1.1".to_vec()];
            *tls = Arc::new(speaking_http1);
        }
        Ok(entry)
    }

    /// Verifies the chain of a resumed session and records the caller in `notes`. This is necessary
    /// because rustls does not verify the chain of a resumed session, not even its dates.
    ///
    /// # Errors
    /// If the chain is no longer accepted. Then the tickets with this chain no longer resume a
    /// session.
    pub fn admit_resumed(
        &self,
        chain: &[CertificateDer<'_>],
        notes: &mut HandshakeNotes,
    ) -> Result<(), ChainError> {
        notes.possession_proven = true;
        let admission = self
            .verify_resumed(chain, notes.session.as_ref())
            .inspect_err(|_| {
                notes.presented = chain
                    .iter()
                    .cloned()
                    .map(CertificateDer::into_owned)
                    .collect();
            })?;
        notes.admitted_again(admission);
        Ok(())
    }

    /// Verifies the chain of a resumed session. `session` is the content of the ticket.
    fn verify_resumed(
        &self,
        chain: &[CertificateDer<'_>],
        session: Option<&Session>,
    ) -> Result<Admission, ChainError> {
        let (Some((leaf, intermediates)), Some(session)) = (chain.split_first(), session) else {
            return Err(ChainError::from((
                ReasonCode::NoCertificate,
                "a session without a certificate is not resumed".to_owned(),
            )));
        };
        let now = UnixTime::since_unix_epoch(clock::since_epoch());
        self.trust
            .admit(leaf, intermediates, now)
            .inspect_err(|_| self.ticketer.refuse(session.chain))
    }

    /// Returns the position of the entry in the configuration. `countersign explain` uses it to
    /// find the entry's settings.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Returns the configuration for rustls, for clients of any version.
    #[must_use]
    pub const fn tls(&self) -> &Arc<ServerConfig> {
        &self.tls
    }

    /// Returns the configuration for the client that sent `hello`. rustls does not show which TLS
    /// versions the client offers. So a client that offers a cipher suite of TLS 1.3 gets the
    /// configuration for TLS 1.3.
    #[must_use]
    pub fn tls_for(&self, hello: &ClientHello<'_>) -> &Arc<ServerConfig> {
        let is_of_tls13 = |suite: &CipherSuite| u16::from(*suite) >> 8 == TLS13_SUITES;
        match hello.cipher_suites().iter().any(is_of_tls13) {
            true => &self.tls13,
            false => &self.tls,
        }
    }

    /// Returns the bundles that the entry accepts.
    #[must_use]
    pub const fn trust(&self) -> &Arc<ClientTrust> {
        &self.trust
    }

    /// Whether callers must present a certificate.
    #[must_use]
    pub const fn client_certificate(&self) -> ClientCertificate {
        self.client_certificate
    }
}

/// First byte of all cipher suites of TLS 1.3 (RFC 8446 appendix B.4).
const TLS13_SUITES: u16 = 0x13;

fn tls_config(
    verifier: CallerVerifier,
    credentials: &Credentials,
    ticketer: &Arc<Ticketer>,
) -> Result<ServerConfig, ServerNamesError> {
    let mut tls = ServerConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| ServerNamesError::Tls(error.to_string()))?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(Always(Arc::clone(credentials.certified()))));
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Sessions are resumed by our own tickets only, because rustls' own session storage does
    // not check the certificate again.
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = usize::from(ticketer.enabled());
    tls.max_tls13_tickets = usize::from(ticketer.enabled());
    tls.ticketer = Arc::clone(ticketer) as Arc<dyn ProducesTickets>;
    // Both settings are off by default in rustls, and must stay off. Early data can be replayed,
    // and half-RTT data is sent before the caller is verified.
    tls.max_early_data_size = 0;
    tls.send_half_rtt_data = false;
    Ok(tls)
}

impl fmt::Debug for ServerEntry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ServerEntry")
            .field("index", &self.index)
            .field("names", &self.names)
            .field("client_certificate", &self.client_certificate)
            .finish_non_exhaustive()
    }
}
