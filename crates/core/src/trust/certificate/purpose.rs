//! `PathPurpose`: whether a certificate is verified as the certificate of a TLS client or server.

use webpki::KeyUsage;

/// The role in TLS for which a certificate is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathPurpose {
    /// The certificate of a TLS client.
    Client,
    /// The certificate of a TLS server.
    Server,
}

impl PathPurpose {
    pub(crate) fn key_usage(self) -> KeyUsage {
        match self {
            Self::Client => KeyUsage::client_auth(),
            Self::Server => KeyUsage::server_auth(),
        }
    }

    /// Returns the word with which an operator names this purpose in a command.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}
