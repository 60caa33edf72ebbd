//! The services behind the gateway: endpoints, which of them is next, and
//! pooled connections.
//!
//! [`balance`] chooses endpoints and remembers which of them fail; [`pool`]
//! connects and keeps connections. What is sent is `proxy`'s business.

pub mod active_health;
mod addresses;
mod answer;
pub mod balance;
mod connect;
mod descriptors;
mod driver;
pub mod error;
pub mod forgeable;
pub mod gate;
mod give_way;
pub mod header_rules;
mod http2;
mod interim;
mod overheard;
pub mod pool;
pub mod retry;
mod slots;
mod standing;
mod tunnel;
mod unanswered;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use active_health::HealthCheck;
pub use answer::AnswerBody;
pub use balance::{Affinity, Balance, InProgress, Upstream};
pub use connect::ConnectError;
pub use descriptors::limit_connections;
pub use error::{SendError, ServiceError, find_source, h2_code_name};
pub use give_way::GiveWay;
pub use interim::FLOOD;

use self::header_rules::HeaderRules;
use crate::identity::IdentityPattern;
use crate::tls::ClientTls;

/// One address of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Host name or IP address, without brackets.
    pub host: Box<str>,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

/// What an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HttpProtocol {
    /// HTTP/1.1, one request at a time on each connection.
    #[default]
    Http1,
    /// HTTP/2: by ALPN with TLS, with prior knowledge without.
    Http2,
}

impl HttpProtocol {
    /// Its name in ALPN.
    #[must_use]
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// Which fields tell a service how a caller reached the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardedFields {
    /// `X-Forwarded-For`, `-Proto` and `-Host`.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// All of them.
    Both,
    /// None of them.
    Off,
}

/// Whether an h2 connection may carry requests of several callers at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Never: what makes a service end a connection ends requests of one caller only.
    #[default]
    Never,
    /// Only where the endpoint has as many connections as it may have, and among callers
    /// with whose connections nothing was wrong lately.
    WhenFull,
    /// All callers share connections.
    Always,
}

/// What becomes of a caller's `traceparent` and `tracestate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TraceContext {
    /// A valid one goes on; where there is none, a new trace begins.
    #[default]
    Continue,
    /// A new trace always begins.
    Restart,
    /// They pass as they are.
    Off,
}

/// Which fields carry the caller's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CertificateFields {
    /// `Client-Cert` (RFC 9440 section 2.2).
    pub client_cert: bool,
    /// `Client-Cert-Chain` (RFC 9440 section 2.3).
    pub client_cert_chain: bool,
    /// `X-Forwarded-Client-Cert`, as Envoy writes it.
    pub xfcc: bool,
}

impl CertificateFields {
    /// Whether there are any.
    #[must_use]
    pub const fn any(self) -> bool {
        self.client_cert || self.client_cert_chain || self.xfcc
    }
}

/// What an upstream is built from.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// Its name in the configuration.
    pub name: String,
    /// Its addresses; at least one.
    pub endpoints: Vec<Endpoint>,
    /// What its endpoints speak.
    pub protocol: HttpProtocol,
    /// TLS to its endpoints; plain where there is none.
    pub tls: Option<Arc<ClientTls>>,
    /// How requests are spread over its endpoints.
    pub balance: Balance,
    /// The identity that its endpoints have to prove.
    pub identity: Option<IdentityPattern>,
    /// How it is told where a request came from.
    pub forwarded: ForwardedFields,
    /// What becomes of a caller's trace.
    pub trace: TraceContext,
    /// How it is told the caller's certificate.
    pub certificate_fields: CertificateFields,
    /// Which fields of a caller's request it gets.
    pub header_rules: Arc<HeaderRules>,
    /// The `Host` sent to it; the caller's where none is set.
    pub host: Option<String>,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// How long the head of the response may take to arrive.
    pub first_byte_timeout: Duration,
    /// How long a request may take, from its head to the end of the answer.
    pub total_timeout: Option<Duration>,
    /// How its endpoints are checked.
    pub health_check: Option<HealthCheck>,
    /// How often host names of endpoints are looked up again.
    pub dns_refresh: Duration,
    /// Most connections to one endpoint, from all workers together.
    pub max_connections: usize,
    /// Whether an h2 connection may carry requests of several callers at once.
    pub share: Sharing,
    /// Most requests that wait for a connection where those are all in use.
    pub max_pending: usize,
    /// Most requests in progress.
    pub max_requests: usize,
    /// How often a request may be sent again.
    pub retries: u32,
    /// Most requests that are sent again, for each hundred.
    pub retry_budget: u32,
    /// How long an idle pooled connection is kept.
    pub idle_timeout: Duration,
    /// How long both sides of a tunnel may be silent.
    pub tunnel_idle_timeout: Duration,
    /// How long a caller in h2 may leave an answer untaken, where that is not what
    /// holds for all.
    pub stall_timeout: Option<Duration>,
    /// Whether a service in h2 that carries no tunnels is asked for one in HTTP/1.1.
    pub http1_upgrades: bool,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            endpoints: Vec::new(),
            protocol: HttpProtocol::Http1,
            tls: None,
            balance: Balance::RoundRobin,
            identity: None,
            forwarded: ForwardedFields::default(),
            trace: TraceContext::default(),
            certificate_fields: CertificateFields::default(),
            header_rules: Arc::default(),
            host: None,
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(60),
            total_timeout: None,
            health_check: None,
            dns_refresh: Duration::from_secs(30),
            max_connections: 1024,
            share: Sharing::default(),
            max_pending: 1024,
            max_requests: 10_000,
            retries: 1,
            retry_budget: 20,
            idle_timeout: Duration::from_secs(60),
            tunnel_idle_timeout: Duration::from_secs(600),
            stall_timeout: None,
            http1_upgrades: false,
        }
    }
}
