//! `PathPurpose`: the purpose for which a certificate is verified.

use webpki::KeyUsage;

/// The side of a TLS connection whose certificate is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathPurpose {
    /// A TLS client's.
    Client,
    /// A TLS server's.
    Server,
}

impl PathPurpose {
    pub(crate) fn key_usage(self) -> KeyUsage {
        match self {
            Self::Client => KeyUsage::client_auth(),
            Self::Server => KeyUsage::server_auth(),
        }
    }

    /// Returns the word used on command lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}
