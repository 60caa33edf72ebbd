//! `Refusal`: the reason why a request is not served, and further content of the response.

use http::{HeaderName, HeaderValue, Method, StatusCode};

use crate::assertion::signer::SignError;
use crate::policy::Denial;
use crate::reason::ReasonCode;
use crate::tls::TlsConnectError;
use crate::upstream::{ConnectError, ServiceError, Upstream, find_source};

/// The response header field that contains the reason code.
pub const REASON: HeaderName = HeaderName::from_static("countersign-reason");
/// The header field that contains the request's identifier, in requests to services and in the
/// gateway's own responses.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The reason why a request is not served. The gateway makes the response from it.
#[derive(Debug)]
pub struct Refusal {
    /// The reason code and detail of the refusal.
    pub denial: Denial,
    /// The status of the response. `None` selects the default status of the reason code.
    pub status: Option<StatusCode>,
    /// The methods in the `Allow` field of the response.
    pub allow: Vec<Method>,
    /// Further header fields of the response, for example `WWW-Authenticate` and `Retry-After`.
    pub fields: Vec<(HeaderName, HeaderValue)>,
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self {
            denial,
            status: None,
            allow: Vec::new(),
            fields: Vec::new(),
        }
    }
}

impl Refusal {
    /// Creates a refusal with the status of its reason code.
    pub fn new(reason: ReasonCode, detail: impl Into<String>) -> Self {
        Denial::new(reason, detail).into()
    }

    /// Returns `status`, or the default status of the reason code.
    pub fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| {
            StatusCode::from_u16(self.denial.reason.status())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        })
    }

    /// Creates the refusal of a request for which the gateway could not connect to the upstream.
    pub fn not_connected(upstream: &Upstream, error: &ConnectError) -> Self {
        let reason = match error {
            ConnectError::Full | ConnectError::NoDescriptor => ReasonCode::Overloaded,
            ConnectError::Timeout(_) => ReasonCode::UpstreamTimeout,
            ConnectError::Tls(TlsConnectError::Untrusted(_) | TlsConnectError::Refused(_)) => {
                ReasonCode::UpstreamUntrusted
            }
            ConnectError::Tls(TlsConnectError::Protocol(_)) | ConnectError::NoTunnels => {
                ReasonCode::UpstreamProtocol
            }
            // In TLS 1.3 the alert for a rejected gateway certificate arrives after the handshake.
            ConnectError::Handshake(error)
                if matches!(find_source(error), Some(rustls::Error::AlertReceived(_))) =>
            {
                ReasonCode::UpstreamUntrusted
            }
            // These two errors mean that the service does not support HTTP/2. An HTTP/1.1 server
            // closes such a connection, or sends bytes that are not HTTP/2.
            ConnectError::Handshake(ServiceError::Closed) => ReasonCode::UpstreamProtocol,
            ConnectError::Handshake(ServiceError::H2(error)) if !error.is_io() => {
                ReasonCode::UpstreamProtocol
            }
            ConnectError::NoEndpoint
            | ConnectError::Io(_)
            | ConnectError::Tls(TlsConnectError::Io(_))
            | ConnectError::Handshake(_) => ReasonCode::UpstreamUnavailable,
        };
        // The detail omits the addresses of services, because the caller need not know them.
        Self::new(reason, format!("no connection to {}", upstream.name()))
    }

    /// Creates the refusal of a request for which no assertion could be signed.
    pub fn not_signed(error: SignError) -> Self {
        match error {
            SignError::Expired => Self::new(
                ReasonCode::CertificateExpired,
                "the certificate path has expired",
            ),
            SignError::CredentialExpired => {
                Self::new(ReasonCode::TokenExpired, "the token or API key has expired")
            }
            // Only the path and the host are in the caller's hands in every request.
            SignError::TooLong { member, .. } => Self {
                status: Some(if member == "htu" {
                    StatusCode::URI_TOO_LONG
                } else {
                    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
                }),
                ..Self::new(ReasonCode::TooLarge, error.to_string())
            },
            SignError::NoCaller | SignError::NoKey | SignError::Failed => {
                tracing::error!(%error, "no assertion was signed");
                Self::new(ReasonCode::Overloaded, "no assertion can be signed")
            }
        }
    }
}
