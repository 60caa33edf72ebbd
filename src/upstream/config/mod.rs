//! `UpstreamConfig`: what an upstream is built from.
//!
//! - `header_rules`: which fields of a caller's request a service gets
//! - `forgeable`: fields that are removed by default, because services trust them
//! - `target`: where a connection leads, and what is spoken there

pub mod forgeable;
pub mod header_rules;
pub(super) mod target;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::uri::PathAndQuery;

use self::header_rules::{HeaderRules, TraceContext};
use self::target::{Endpoint, HttpProtocol};
use crate::identity::IdentityPattern;
use crate::tls::ClientTls;

/// Requests in progress on one h2 connection before another one is opened, where the
/// service does not allow fewer (RFC 9113 section 5.1.2 recommends at least this many).
pub(in crate::upstream) const MAX_STREAMS: usize = 100;

/// How requests are spread over the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// In turn.
    #[default]
    RoundRobin,
    /// To the endpoint with the fewest requests in progress.
    LeastRequests,
    /// Requests of one caller to one endpoint, as long as it is there. Another
    /// endpoint more or less moves few callers (rendezvous hashing).
    Caller,
}

/// How an upstream's endpoints are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked for, with GET.
    pub path: PathAndQuery,
    /// How long from one check to the next.
    pub interval: Duration,
    /// How long an answer may take, connecting included.
    pub timeout: Duration,
    /// The statuses that say "well".
    pub statuses: Vec<StatusCode>,
    /// So many good answers in a row bring an endpoint back.
    pub healthy: u32,
    /// So many failures in a row take it out.
    pub unhealthy: u32,
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
