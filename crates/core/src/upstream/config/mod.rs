//! `UpstreamConfig`: the configuration of one upstream.
//!
//! - `header_rules`: which fields of a caller's request a service gets
//! - `forgeable`: fields that are removed by default, because services trust them
//! - `response_limits`: the limits of the head of a response
//! - `target`: the address and the protocol of a connection

pub mod forgeable;
pub mod header_rules;
pub(super) mod response_limits;
pub(super) mod target;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::uri::PathAndQuery;

use self::header_rules::{HeaderRules, TraceContext};
use self::response_limits::ResponseLimits;
use self::target::{Endpoint, HttpProtocol};
use crate::identity::IdentityPattern;
use crate::tls::ClientTls;

/// Maximum number of requests in progress on one h2 connection. For more requests, another
/// connection is opened. The service may announce a lower limit. RFC 9113 section 5.1.2 recommends
/// at least 100.
pub(in crate::upstream) const MAX_STREAMS: usize = 100;

/// How the endpoint for each request is selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// Each endpoint in turn.
    #[default]
    RoundRobin,
    /// The endpoint that has the fewest requests in progress.
    LeastRequests,
    /// All requests of a caller go to the same endpoint while that endpoint is available. If the
    /// list of endpoints changes, few callers move to another endpoint (rendezvous hashing).
    Caller,
}

/// The settings of active health checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// The path and query of the GET request.
    pub path: PathAndQuery,
    /// The time between two checks.
    pub interval: Duration,
    /// Maximum time from the start of connecting until the head of the response.
    pub timeout: Duration,
    /// The response statuses that count as healthy.
    pub statuses: Vec<StatusCode>,
    /// Number of consecutive successful checks that make an endpoint healthy.
    pub healthy: u32,
    /// Number of consecutive failed checks that make an endpoint unhealthy.
    pub unhealthy: u32,
}

/// The fields that tell a service about the caller's connection to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardedFields {
    /// `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// The `X-Forwarded-…` fields and `Forwarded`.
    Both,
    /// None of these fields.
    Off,
}

/// Whether one h2 connection may carry requests of several callers at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Each connection carries requests of one caller. If a service ends a connection, only this
    /// caller's requests end.
    #[default]
    Never,
    /// Callers share a connection only if the endpoint has reached its connection limit. If a
    /// service has recently ended a caller's connection with an error, this caller shares no
    /// connections.
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
    /// Whether at least one of the three fields is sent.
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
    /// The upstream's endpoints. There is at least one.
    pub endpoints: Vec<Endpoint>,
    /// The HTTP version that the endpoints speak.
    pub protocol: HttpProtocol,
    /// The TLS settings for connections to the endpoints. `None` means plain TCP.
    pub tls: Option<Arc<ClientTls>>,
    /// How the endpoint for each request is selected.
    pub balance: Balance,
    /// The identity that an endpoint's certificate must contain. `None` means that no identity is
    /// required.
    pub identity: Option<IdentityPattern>,
    /// The fields that tell a service about the caller's connection to the gateway.
    pub forwarded: ForwardedFields,
    /// How the gateway handles a caller's trace fields.
    pub trace: TraceContext,
    /// The fields that carry the caller's certificate to the service.
    pub certificate_fields: CertificateFields,
    /// The rules that select which fields of a caller's request the service gets.
    pub header_rules: Arc<HeaderRules>,
    /// The `Host` that is sent to the service. If `None`, the caller's `Host` is sent.
    pub host: Option<String>,
    /// Maximum time for connecting, including the TLS handshake.
    pub connect_timeout: Duration,
    /// Maximum time until the head of the response has arrived.
    pub first_byte_timeout: Duration,
    /// Maximum time from the head of the request to the end of the response. `None` means that this
    /// time is not limited.
    pub total_timeout: Option<Duration>,
    /// The settings of active health checks. `None` means that there are no such checks.
    pub health_check: Option<HealthCheck>,
    /// Minimum time between two DNS look-ups of an endpoint's host name.
    pub dns_refresh: Duration,
    /// Maximum number of connections to one endpoint, counted over all workers.
    pub max_connections: usize,
    /// Whether an h2 connection may carry requests of several callers at the same time.
    pub share: Sharing,
    /// Maximum number of requests that wait for a connection while all connections are in use.
    pub max_pending: usize,
    /// Maximum number of requests in progress at the upstream.
    pub max_requests: usize,
    /// The limits of the head of a response.
    pub response_limits: ResponseLimits,
    /// Maximum number of times that one request is sent again.
    pub retries: u32,
    /// Maximum number of retries for each hundred requests.
    pub retry_budget: u32,
    /// Maximum time that an idle connection stays in the pool.
    pub idle_timeout: Duration,
    /// If neither side of a tunnel sends data for this time, the tunnel is closed.
    pub tunnel_idle_timeout: Duration,
    /// If the caller reads nothing of a response over HTTP/2 for this time, the response is ended.
    /// `None` selects the gateway's default.
    pub stall_timeout: Option<Duration>,
    /// Whether a tunnel is opened over HTTP/1.1 if the service does not support tunnels over h2.
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
            response_limits: ResponseLimits::default(),
            retries: 1,
            retry_budget: 20,
            idle_timeout: Duration::from_secs(60),
            tunnel_idle_timeout: Duration::from_secs(600),
            stall_timeout: None,
            http1_upgrades: false,
        }
    }
}
