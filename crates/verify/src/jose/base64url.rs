//! base64url without padding (RFC 7515 section 2). Only the canonical encoding of a
//! byte string is accepted.

use base64ct::{Base64UrlUnpadded, Encoding};

use super::JoseError;

/// Encodes bytes as base64url without padding.
#[must_use]
pub fn base64url_encode(octets: &[u8]) -> String {
    Base64UrlUnpadded::encode_string(octets)
}

/// Decodes base64url without padding. `part` names the text in the error.
///
/// # Errors
///
/// [`JoseError::Base64Url`] for padding, white space, characters of the other
/// base64 alphabet, an impossible length, or trailing bits that are not zero.
pub fn base64url_decode(text: &str, part: &'static str) -> Result<Vec<u8>, JoseError> {
    Base64UrlUnpadded::decode_vec(text).map_err(|_| JoseError::Base64Url { part })
}
