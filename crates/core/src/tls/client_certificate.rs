//! `ClientCertificate`: whether callers must present a certificate.

/// Whether callers must present a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    /// The handshake fails if the caller presents no certificate.
    Required,
    /// The handshake succeeds without a certificate. Each route decides which credentials it needs.
    Optional,
}
