//! TLS versions, application protocols, and why there is no connection.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::AlertDescription;
use rustls::crypto::CryptoProvider;

/// The cryptography of the kit.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// TLS versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2
    V12,
    /// TLS 1.3
    V13,
}

impl TlsVersion {
    /// Both, to loop over.
    pub const BOTH: [Self; 2] = [Self::V12, Self::V13];
}

/// Application protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
}

impl Protocol {
    /// Both, to loop over.
    pub const BOTH: [Self; 2] = [Self::Http1, Self::Http2];

    pub(crate) const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The server sent a TLS alert.
    Alert(AlertDescription),
    /// The server closed the connection without an alert.
    Closed,
    /// Anything else.
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

    /// The number of the alert, where there was one.
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
