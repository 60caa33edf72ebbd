//! `ConnectError`: why there is no connection. `ServiceError`: why a service sent no response, or
//! only a part of a response, over HTTP/1.1 or HTTP/2.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use http::Request;

use crate::tls::TlsConnectError;

/// The reason why a request got no connection to an endpoint.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No endpoint can be tried: all are unhealthy, or unsuitable for the request.
    #[error("the upstream has no endpoint")]
    NoEndpoint,
    /// Connecting took longer than `connect_timeout`.
    #[error("connecting took longer than {0:?}")]
    Timeout(Duration),
    /// The endpoint has reached its connection limit, and all its connections are in use. No more
    /// requests may wait for a connection.
    #[error("all connections that the endpoint may have are in use")]
    Full,
    /// The process has no free file descriptor for another connection.
    #[error("all descriptors that there are for connections to services are in use")]
    NoDescriptor,
    /// The endpoint refused the connection or could not be reached.
    #[error("connecting failed: {0}")]
    Io(#[from] io::Error),
    /// The TLS handshake failed.
    #[error("{0}")]
    Tls(#[from] TlsConnectError),
    /// The service speaks h2, but does not announce extended CONNECT (RFC 8441).
    #[error("the service does not announce extended CONNECT, which tunnels over h2 need")]
    NoTunnels,
    /// The TCP or TLS connection is open, but HTTP could not be started on it.
    #[error("the connection failed at once: {0}")]
    Handshake(ServiceError),
}

/// The reason why a service sent no response, or only a part of a response.
#[derive(Debug)]
pub enum ServiceError {
    /// hyper's error on an HTTP/1.1 connection, or on a connection that carries a tunnel.
    Hyper(hyper::Error),
    /// h2's error on a stream in HTTP/2.
    H2(h2::Error),
    /// The service closed a new connection before it sent any data.
    Closed,
    /// The service does not respond to a PING (RFC 9113 section 6.7).
    Silent,
    /// The request's body could not be read to its end, because the caller aborted it.
    Upload,
    /// The request's head is larger than the service allows, and was therefore not sent.
    HeadTooLarge {
        /// Length of the request's head in bytes, counted as in RFC 9113 section 6.5.2. If the
        /// service announces no limit, this is the length of the longest field.
        size: usize,
        /// Maximum number of bytes that the service allows.
        max: usize,
    },
}

impl ServiceError {
    /// Whether hyper could not parse the received bytes as HTTP/1.1.
    #[must_use]
    pub fn is_parse(&self) -> bool {
        matches!(self, Self::Hyper(error) if error.is_parse())
    }

    /// Whether an HTTP/1.1 response has a head with more bytes or fields than allowed.
    #[must_use]
    pub fn is_head_too_large(&self) -> bool {
        matches!(self, Self::Hyper(error) if error.is_parse_too_large())
    }

    /// Whether an HTTP/1.1 connection ended in the middle of a response.
    #[must_use]
    pub fn is_incomplete_message(&self) -> bool {
        matches!(self, Self::Hyper(error) if error.is_incomplete_message())
    }
}

impl fmt::Display for ServiceError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hyper(error) => error.fmt(formatter),
            Self::H2(error) => error.fmt(formatter),
            Self::Closed => formatter.write_str("the service closed the connection"),
            Self::Silent => formatter.write_str("the service does not answer a PING"),
            Self::Upload => formatter.write_str("the request's body broke off"),
            Self::HeadTooLarge { size, max } => {
                write!(
                    formatter,
                    "the head has {size} bytes, more than the {max} allowed"
                )
            }
        }
    }
}

impl Error for ServiceError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Hyper(error) => Some(error),
            Self::H2(error) => Some(error),
            Self::Closed | Self::Silent | Self::Upload | Self::HeadTooLarge { .. } => None,
        }
    }
}

impl From<hyper::Error> for ServiceError {
    fn from(error: hyper::Error) -> Self {
        Self::Hyper(error)
    }
}

impl From<h2::Error> for ServiceError {
    fn from(error: h2::Error) -> Self {
        Self::H2(error)
    }
}

/// Finds an error of type `T` in an error and its sources. Also looks inside an [`io::Error`],
/// because its `source` does not return the wrapped error itself.
#[must_use]
pub fn find_source<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        if let Some(inner) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            && let Some(found) = inner.downcast_ref::<T>()
        {
            return Some(found);
        }
        current = error.source();
    }
    None
}

/// Returns the name of an HTTP/2 error code (RFC 9113 section 7).
#[must_use]
pub fn h2_code_name(code: h2::Reason) -> &'static str {
    match code {
        h2::Reason::NO_ERROR => "NO_ERROR",
        h2::Reason::PROTOCOL_ERROR => "PROTOCOL_ERROR",
        h2::Reason::INTERNAL_ERROR => "INTERNAL_ERROR",
        h2::Reason::FLOW_CONTROL_ERROR => "FLOW_CONTROL_ERROR",
        h2::Reason::SETTINGS_TIMEOUT => "SETTINGS_TIMEOUT",
        h2::Reason::STREAM_CLOSED => "STREAM_CLOSED",
        h2::Reason::FRAME_SIZE_ERROR => "FRAME_SIZE_ERROR",
        h2::Reason::REFUSED_STREAM => "REFUSED_STREAM",
        h2::Reason::CANCEL => "CANCEL",
        h2::Reason::COMPRESSION_ERROR => "COMPRESSION_ERROR",
        h2::Reason::CONNECT_ERROR => "CONNECT_ERROR",
        h2::Reason::ENHANCE_YOUR_CALM => "ENHANCE_YOUR_CALM",
        h2::Reason::INADEQUATE_SECURITY => "INADEQUATE_SECURITY",
        h2::Reason::HTTP_1_1_REQUIRED => "HTTP_1_1_REQUIRED",
        _ => "of an unknown code",
    }
}

/// The error for a request that got no response.
pub struct SendError<B> {
    /// The reason why there is no response.
    pub error: ServiceError,
    /// The request, if no byte of it was sent and its body was not read. This request can be sent
    /// again.
    pub unsent: Option<Box<Request<B>>>,
}

impl<B> SendError<B> {
    /// Creates the error for a request of which no byte was sent.
    pub(in crate::upstream) fn unsent(error: impl Into<ServiceError>, request: Request<B>) -> Self {
        Self {
            error: error.into(),
            unsent: Some(Box::new(request)),
        }
    }
}

impl<B> From<hyper::client::conn::TrySendError<Request<B>>> for SendError<B> {
    fn from(mut failed: hyper::client::conn::TrySendError<Request<B>>) -> Self {
        Self {
            unsent: failed.take_message().map(Box::new),
            error: failed.into_error().into(),
        }
    }
}

impl<B> From<ServiceError> for SendError<B> {
    fn from(error: ServiceError) -> Self {
        Self {
            error,
            unsent: None,
        }
    }
}

impl<B> fmt::Debug for SendError<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SendError")
            .field("error", &self.error)
            .field("is_unsent", &self.unsent.is_some())
            .finish()
    }
}
