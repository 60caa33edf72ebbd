//! TLS versions, application protocols, and connection errors.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::AlertDescription;
use rustls::crypto::CryptoProvider;

/// Returns the cryptography provider that all clients and servers of this crate use.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The supported TLS versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2
    V12,
    /// TLS 1.3
    V13,
}

impl TlsVersion {
    /// Both versions, so that a test can run with each of them.
    pub const BOTH: [Self; 2] = [Self::V12, Self::V13];
}

/// The supported application protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
}

impl Protocol {
    /// Both protocols, so that a test can run with each of them.
    pub const BOTH: [Self; 2] = [Self::Http1, Self::Http2];

    pub(crate) const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// Why a connection failed.
#[derive(Debug)]
pub enum ConnectError {
    /// The server sent a TLS alert.
    Alert(AlertDescription),
    /// The server closed the connection without an alert.
    Closed,
    /// Another error of the connection, for example a refused TCP connection.
    Io(io::Error),
}

impl ConnectError {
    pub(crate) fn from_io(error: io::Error) -> Self {
        let alert = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .and_then(|inner| match inner {
                rustls::Error::AlertReceived(alert) => Some(*alert),
                _ => None,
            });
        match (alert, error.kind()) {
            (Some(alert), _) => Self::Alert(alert),
            (
                None,
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe,
            ) => Self::Closed,
            (None, _) => Self::Io(error),
        }
    }

    /// Returns the number of the TLS alert, if the server sent an alert.
    #[must_use]
    pub fn alert(&self) -> Option<u8> {
        match self {
            Self::Alert(alert) => Some(u8::from(*alert)),
            _ => None,
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alert(alert) => write!(formatter, "alert {alert:?}"),
            Self::Closed => formatter.write_str("closed"),
            Self::Io(error) => write!(formatter, "{error}"),
        }
    }
}

impl std::error::Error for ConnectError {}
