//! `AssertionSigner`: claims about one request, signed.

use std::sync::Arc;
use std::time::Duration;

use super::key_ring::SigningKeyRing;

/// What `[assertion]` says.
#[derive(Debug, Clone)]
pub struct AssertionSettings {
    /// The assertion's `iss`.
    pub issuer: String,
    /// The header field it is sent in.
    pub header: http::HeaderName,
    /// How long it is valid.
    pub lifetime: Duration,
}

/// Signs assertions.
#[derive(Debug)]
pub struct AssertionSigner {
    settings: AssertionSettings,
    keys: Arc<SigningKeyRing>,
}

/// An assertion in its wire form. Forwarding needs one.
#[derive(Debug)]
pub struct SignedAssertion {}

impl AssertionSigner {
    /// A signer with its settings and keys.
    #[must_use]
    pub const fn new(settings: AssertionSettings, keys: Arc<SigningKeyRing>) -> Self {
        Self { settings, keys }
    }

    /// Issuer, header and lifetime.
    #[must_use]
    pub const fn settings(&self) -> &AssertionSettings {
        &self.settings
    }

    /// The keys.
    #[must_use]
    pub const fn keys(&self) -> &Arc<SigningKeyRing> {
        &self.keys
    }
}
