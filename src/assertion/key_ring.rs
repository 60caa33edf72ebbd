//! `SigningKeyRing`: next, current and retiring assertion keys.

use std::path::Path;
use std::sync::Arc;

/// Algorithms assertions are signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigningAlgorithm {
    /// ECDSA with P-256 and SHA-256 (RFC 7518 section 3.4).
    Es256,
    /// Ed25519 (RFC 8037).
    EdDsa,
}

/// One assertion-signing key.
#[derive(Debug)]
pub struct SigningKey {}

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeyRingError(pub String);

/// The keys of a directory.
#[derive(Debug)]
pub struct SigningKeyRing {}

impl SigningKeyRing {
    /// Loads the keys of a directory.
    ///
    /// # Errors
    /// When a file is unreadable or there is no usable key.
    pub fn load(_directory: &Path, _algorithm: SigningAlgorithm) -> Result<Self, KeyRingError> {
        Err(KeyRingError("not there yet".into()))
    }

    /// The key that signs at `now` (seconds since the Unix epoch).
    #[must_use]
    pub fn current(&self, _now: u64) -> Option<&Arc<SigningKey>> {
        None
    }
}
