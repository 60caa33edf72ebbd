//! The services behind the gateway: endpoints, which of them is next, and
//! pooled connections.
//!
//! [`balance`] chooses endpoints and remembers which of them fail; [`pool`]
//! connects and keeps connections. What is sent is `proxy`'s business.

pub mod balance;
mod connect;
pub mod pool;

use std::sync::Arc;
use std::time::Duration;

pub use balance::{Balance, Upstream};
pub use connect::ConnectError;

use crate::tls::ClientTls;

/// One address of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Host name or IP address, without brackets.
    pub host: Box<str>,
    /// TCP port.
    pub port: u16,
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
    /// The `Host` sent to it; the caller's where none is set.
    pub host: Option<String>,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// How long the head of the response may take to arrive.
    pub first_byte_timeout: Duration,
    /// How long an idle pooled connection is kept.
    pub idle_timeout: Duration,
    /// How long both sides of a tunnel may be silent.
    pub tunnel_idle_timeout: Duration,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            endpoints: Vec::new(),
            protocol: HttpProtocol::Http1,
            tls: None,
            balance: Balance::RoundRobin,
            host: None,
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            tunnel_idle_timeout: Duration::from_secs(3600),
        }
    }
}
