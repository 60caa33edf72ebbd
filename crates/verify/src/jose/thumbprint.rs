//! Thumbprints of keys (RFC 7638) and of certificates (RFC 8705 section 3.1).

use super::{Jwk, base64url_encode};
use crate::crypto;

/// Returns the SHA-256 thumbprint of a key (RFC 7638): 43 base64url characters.
#[must_use]
pub fn thumbprint(key: &Jwk) -> String {
    base64url_encode(&crypto::sha256(key.canonical_json().as_bytes()))
}

/// Returns the `x5t#S256` of a certificate: the base64url SHA-256 of the DER, 43
/// characters.
#[must_use]
pub fn x5t_s256(certificate_der: &[u8]) -> String {
    base64url_encode(&crypto::sha256(certificate_der))
}
