//! `Refusal`: why a request is not served, and what its response says of it.

use http::{HeaderName, HeaderValue, Method, StatusCode};

use crate::policy::Denial;
use crate::reason::ReasonCode;
use crate::tls::TlsConnectError;
use crate::upstream::{ConnectError, Upstream};

/// A refusal or failure, ready to be answered.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) denial: Denial,
    /// Overrides the reason's usual status.
    pub(crate) status: Option<StatusCode>,
    /// Methods for the `Allow` field.
    pub(crate) allow: Vec<Method>,
    /// Further fields: challenges, and when to come again.
    pub(crate) fields: Vec<(HeaderName, HeaderValue)>,
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
    pub(crate) fn new(reason: ReasonCode, detail: impl Into<String>) -> Self {
        Denial::new(reason, detail).into()
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| {
            StatusCode::from_u16(self.denial.reason.status())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        })
    }

    /// For a request whose upstream cannot be connected to.
    pub(crate) fn not_connected(upstream: &Upstream, error: &ConnectError) -> Self {
        let reason = match error {
            ConnectError::Full | ConnectError::NoDescriptor => ReasonCode::Overloaded,
            ConnectError::Timeout(_) => ReasonCode::UpstreamTimeout,
            ConnectError::Tls(TlsConnectError::Untrusted(_) | TlsConnectError::Refused(_)) => {
                ReasonCode::UpstreamUntrusted
            }
            ConnectError::Tls(TlsConnectError::Protocol(_)) | ConnectError::NoTunnels => {
                ReasonCode::UpstreamProtocol
            }
            ConnectError::NoEndpoint
            | ConnectError::Io(_)
            | ConnectError::Tls(TlsConnectError::Io(_))
            | ConnectError::Handshake(_) => ReasonCode::UpstreamUnavailable,
        };
        // The caller need not learn addresses of services.
        Self::new(reason, format!("no connection to {}", upstream.name()))
    }
}
