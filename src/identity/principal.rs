//! `Principal`: who acts in one request, and how that was established.

use std::sync::Arc;

use super::{CallerName, PeerIdentity, TokenClaims};

/// A way of authenticating a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// A client certificate, verified in the TLS handshake.
    Certificate,
    /// A token that was presented beside it.
    Token,
}

impl Method {
    /// The word used in configuration, assertions and audit lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Token => "token",
        }
    }
}

/// The authenticated caller of one request.
#[derive(Debug, Clone)]
pub struct Principal {
    peer: Arc<PeerIdentity>,
    authenticated_at: u64,
    resumed: bool,
    token: Option<Arc<TokenClaims>>,
}

impl Principal {
    /// A caller known by its certificate, whose key it proved at `authenticated_at`
    /// (seconds since the Unix epoch), in this TLS session or, where `resumed`, in
    /// the one that it goes back to.
    #[must_use]
    pub const fn from_certificate(
        peer: Arc<PeerIdentity>,
        authenticated_at: u64,
        resumed: bool,
    ) -> Self {
        Self {
            peer,
            authenticated_at,
            resumed,
            token: None,
        }
    }

    /// The same caller with the token that accompanied its request.
    #[must_use]
    pub fn with_token(mut self, token: Arc<TokenClaims>) -> Self {
        self.token = Some(token);
        self
    }

    /// The token that accompanied the request.
    #[must_use]
    pub const fn token(&self) -> Option<&Arc<TokenClaims>> {
        self.token.as_ref()
    }

    /// When the caller last proved that it holds the certificate's key, in seconds
    /// since the Unix epoch.
    #[must_use]
    pub const fn authenticated_at(&self) -> u64 {
        self.authenticated_at
    }

    /// Whether the TLS session was resumed.
    #[must_use]
    pub const fn resumed(&self) -> bool {
        self.resumed
    }

    /// The caller's one name: the assertion's `sub`.
    #[must_use]
    pub fn caller(&self) -> &CallerName {
        self.peer.caller()
    }

    /// The certificate's identity.
    #[must_use]
    pub const fn peer(&self) -> &Arc<PeerIdentity> {
        &self.peer
    }

    /// The methods that authenticated this request.
    #[must_use]
    pub const fn methods(&self) -> &'static [Method] {
        match self.token {
            None => &[Method::Certificate],
            Some(_) => &[Method::Certificate, Method::Token],
        }
    }
}
