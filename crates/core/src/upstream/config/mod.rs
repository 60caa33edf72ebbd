//! `UpstreamConfig`: the configuration of one upstream.
//!
//! - `header_rules`: which fields of a caller's request a service gets
//! - `forgeable`: fields that are removed by default, because services trust them
//! - `target`: the address of a connection, and the protocol that is spoken on it

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

/// Requests in progress on one h2 connection before another one is opened, unless the service
/// allows fewer (RFC 9113 section 5.1.2 recommends at least this many).
pub(in crate::upstream) const MAX_STREAMS: usize = 100;

/// How requests are spread over the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// In turn.
    #[default]
    RoundRobin,
    /// To the endpoint with the fewest requests in progress.
    LeastRequests,
    /// One endpoint for all requests of a caller, as long as the endpoint is there. A change of
    /// the endpoints moves few callers (rendezvous hashing).
    Caller,
}

/// How an upstream's endpoints are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// The target of the GET request.
    pub path: PathAndQuery,
    /// How long from one check to the next.
    pub interval: Duration,
    /// How long a response may take, connecting included.
    pub timeout: Duration,
    /// The statuses that count as healthy.
    pub statuses: Vec<StatusCode>,
    /// Consecutive good responses that make an endpoint healthy.
    pub healthy: u32,
    /// Consecutive failures that make an endpoint unhealthy.
    pub unhealthy: u32,
}

/// The fields that tell a service how a caller reached the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardedFields {
    /// `X-Forwarded-For`, `-Proto` and `-Host`.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// Both kinds of fields.
    Both,
    /// Neither kind.
    Off,
}

/// Whether an h2 connection may carry requests of several callers at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Never shared. A service that ends a connection then ends requests of one caller only.
    #[default]
    Never,
    /// Shared only if the endpoint has reached its connection limit, and only among callers
    /// whose connections were not ended with an error lately.
    WhenFull,
    /// All callers share connections.
    Always,
}

/// The fields that carry the caller's certificate.
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
    /// Whether any of the fields is set.
    #[must_use]
    pub const fn any(self) -> bool {
        self.client_cert || self.client_cert_chain || self.xfcc
    }
}

/// The configuration that an upstream is built from.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// The upstream's name in the configuration.
    pub name: String,
    /// The upstream's endpoints; at least one.
    pub endpoints: Vec<Endpoint>,
    /// The protocol that the endpoints speak.
    pub protocol: HttpProtocol,
    /// TLS to the endpoints; plain if absent.
    pub tls: Option<Arc<ClientTls>>,
    /// How requests are spread over the endpoints.
    pub balance: Balance,
    /// The identity that the endpoints have to prove.
    pub identity: Option<IdentityPattern>,
    /// The fields that tell the service where a request came from.
    pub forwarded: ForwardedFields,
    /// How a caller's trace fields are handled.
    pub trace: TraceContext,
    /// The fields that carry the caller's certificate to the service.
    pub certificate_fields: CertificateFields,
    /// The rules that select which fields of a caller's request the service gets.
    pub header_rules: Arc<HeaderRules>,
    /// The `Host` that is sent to the service; the caller's if absent.
    pub host: Option<String>,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// How long the head of the response may take to arrive.
    pub first_byte_timeout: Duration,
    /// How long a request may take, from its head to the end of the response.
    pub total_timeout: Option<Duration>,
    /// How the endpoints are checked; none if they are not.
    pub health_check: Option<HealthCheck>,
    /// How often host names of endpoints are looked up again.
    pub dns_refresh: Duration,
    /// Most connections to one endpoint, from all workers together.
    pub max_connections: usize,
    /// Whether an h2 connection may carry requests of several callers at once.
    pub share: Sharing,
    /// Most requests that wait for a connection when all are in use.
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
    /// How long a caller in h2 may leave a response unread, if that differs from the
    /// default of all routes.
    pub stall_timeout: Option<Duration>,
    /// Whether a tunnel is opened in HTTP/1.1 if an h2 service carries no tunnels.
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
