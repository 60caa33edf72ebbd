//! Decodes signed tokens without verifying them.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use countersign_testkit::{Answer, Credentials, sha256};
use serde_json::Value;

/// Encodes bytes as base64url without padding.
pub(crate) fn base64url(octets: &[u8]) -> String {
    Base64UrlUnpadded::encode_string(octets)
}

pub(crate) fn base64url_decode(text: &str) -> Vec<u8> {
    Base64UrlUnpadded::decode_vec(text).unwrap()
}

/// Returns the header and the claims of a compact JWS.
#[track_caller]
pub(crate) fn decode(token: &str) -> (Value, Value) {
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3, "not a compact JWS: {token}");
    let part = |text: &str| serde_json::from_slice(&base64url_decode(text)).unwrap();
    (part(parts[0]), part(parts[1]))
}

/// Returns the same token with another subject, so that the signature is wrong.
pub(crate) fn altered(token: &str) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let mut claims: Value = serde_json::from_slice(&base64url_decode(&parts[1])).unwrap();
    claims["sub"] = "spiffe://example.org/ns/ops/sa/admin".into();
    parts[1] = base64url(claims.to_string().as_bytes());
    parts.join(".")
}

/// Returns the only assertion that an [`Echo`](countersign_testkit::Echo) received.
#[track_caller]
pub(crate) fn assertion(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut received = answer.received("countersign-assertion");
    assert_eq!(received.len(), 1, "{answer:?}");
    received.remove(0)
}

/// Returns the claims of the only assertion that an [`Echo`](countersign_testkit::Echo)
/// received.
#[track_caller]
pub(crate) fn assertion_claims(answer: &Answer) -> Value {
    decode(&assertion(answer)).1
}

/// Returns the `x5t#S256` value that binds a token to a certificate (RFC 8705 section 3.1).
pub(crate) fn thumbprint(credentials: &Credentials) -> String {
    base64url(&sha256(credentials.leaf()))
}
