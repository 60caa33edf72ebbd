//! `Target`: the address of a connection, and the protocol that is spoken on it.

use std::fmt;

/// An address of an upstream.
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

/// The HTTP version that an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HttpProtocol {
    /// HTTP/1.1, one request at a time on each connection.
    #[default]
    Http1,
    /// HTTP/2: by ALPN with TLS, with prior knowledge without.
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

/// The properties that connections must have in common to be shared: address, protocol and TLS
/// expectations.
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
