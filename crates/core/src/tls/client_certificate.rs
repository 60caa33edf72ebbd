//! `ClientCertificate`: whether callers have to present one.

/// Whether callers must present a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    /// The handshake fails without one.
    Required,
    /// Routes decide.
    Optional,
}
