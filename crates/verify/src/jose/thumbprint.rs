//! Thumbprints of keys (RFC 7638) and of certificates (RFC 8705 section 3.1).

use super::{Jwk, base64url_encode};
use crate::crypto;

/// The RFC 7638 SHA-256 thumbprint of a key, 43 base64url characters.
#[must_use]
pub fn thumbprint(key: &Jwk) -> String {
    base64url_encode(&crypto::sha256(key.canonical_json().as_bytes()))
}

/// `x5t#S256`: base64url SHA-256 of a certificate's DER, 43 characters.
#[must_use]
pub fn x5t_s256(certificate_der: &[u8]) -> String {
    base64url_encode(&crypto::sha256(certificate_der))
}
