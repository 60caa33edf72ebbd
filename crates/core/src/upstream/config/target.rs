//! `Target`: the address and the protocol of a connection.

use std::fmt;

/// The configured address of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Host name or IP address, without brackets around an IPv6 address.
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

/// The HTTP version that an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HttpProtocol {
    /// HTTP/1.1: one request at a time on each connection.
    #[default]
    Http1,
    /// HTTP/2. With TLS, ALPN selects it. Without TLS, the gateway assumes that the service speaks
    /// HTTP/2 ("prior knowledge", RFC 9113 section 3.3).
    Http2,
}

impl HttpProtocol {
    /// Returns the protocol's name in ALPN.
    #[must_use]
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// The address, protocol and TLS settings of a connection. Requests can use the same connection
/// only if their targets are equal.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) struct Target {
    pub(in crate::upstream) endpoint: Endpoint,
    pub(in crate::upstream) protocol: HttpProtocol,
    pub(in crate::upstream) tls: Option<[u8; 32]>,
}

#[cfg(test)]
impl Target {
    pub(in crate::upstream) fn plain(host: &str, port: u16) -> Self {
        Self {
            endpoint: Endpoint {
                host: host.into(),
                port,
            },
            protocol: HttpProtocol::Http1,
            tls: None,
        }
    }
}
