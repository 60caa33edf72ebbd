//! Compact JWS: parses a token strictly, then verifies it with one key.
//!
//! The parser checks only the form. Do not trust any part of a token before
//! [`CompactJws::verify`] has returned its payload.

use std::fmt;

use serde_json::{Map, Value};

use super::{Algorithm, JoseError, Jwk, JwkSet, base64url_decode, base64url_encode, json};

/// The maximum length of a token that is not an assertion, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// A JWS in compact form (RFC 7515 section 7.1), parsed and *not verified*.
#[derive(Clone)]
pub struct CompactJws<'a> {
    header: Header,
    signing_input: &'a str,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// The JOSE header of a token (RFC 7515 section 4), *not verified*.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    algorithm: Algorithm,
    key_id: Option<String>,
    token_type: Option<String>,
    members: Map<String, Value>,
}

impl<'a> CompactJws<'a> {
    /// Parses a token of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// [`JoseError::TooLarge`], [`JoseError::NotCompact`],
    /// [`JoseError::Base64Url`], or an error of [`Header::parse`].
    pub fn parse(token: &'a str, limit: usize) -> Result<Self, JoseError> {
        if token.len() > limit {
            return Err(JoseError::TooLarge { limit });
        }
        let (signing_input, signature) = token.rsplit_once('.').ok_or(JoseError::NotCompact)?;
        let (header, payload) = signing_input.split_once('.').ok_or(JoseError::NotCompact)?;
        if header.is_empty() || signature.is_empty() || payload.contains('.') {
            return Err(JoseError::NotCompact);
        }
        Ok(Self {
            header: Header::parse(&base64url_decode(header, "header")?)?,
            signing_input,
            payload: base64url_decode(payload, "payload")?,
            signature: base64url_decode(signature, "signature")?,
        })
    }

    /// Returns the header, which is not verified. Use it only to select a key.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Returns the payload, which is not verified. Use it only to show it to a person.
    #[must_use]
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// Verifies the signature with `key` and returns the payload.
    ///
    /// # Errors
    ///
    /// [`JoseError::AlgorithmMismatch`] if the key does not permit the token's algorithm,
    /// [`JoseError::Signature`] if the signature is not valid.
    pub fn verify(&self, key: &Jwk) -> Result<&[u8], JoseError> {
        key.verify(
            self.header.algorithm,
            self.signing_input.as_bytes(),
            &self.signature,
        )?;
        Ok(&self.payload)
    }
}

/// Prints only the header. If a log contained the token, readers of the log could use it.
impl fmt::Debug for CompactJws<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CompactJws")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

impl Header {
    /// Parses a header from its JSON text.
    ///
    /// # Errors
    ///
    /// Returns an error if the header is not an object, has duplicate members, or has `crit` or
    /// `b64`. Also returns an error if `alg` is missing or not accepted, or if `kid` or `typ` is
    /// not a string.
    pub fn parse(text: &[u8]) -> Result<Self, JoseError> {
        let members = json::parse_object(text, "header")?;
        // RFC 7515 section 4.1.11: a token with an unsupported extension must be refused. This
        // module supports no extension. `b64` (RFC 7797) is refused even without `crit`,
        // because it changes which bytes are signed.
        if members.contains_key("crit") || members.contains_key("b64") {
            return Err(JoseError::CriticalHeader);
        }
        let name = text_member(&members, "alg")?.ok_or(JoseError::Member { member: "alg" })?;
        let algorithm = Algorithm::from_name(name).ok_or(JoseError::UnsupportedAlgorithm)?;
        Ok(Self {
            algorithm,
            key_id: text_member(&members, "kid")?.map(str::to_owned),
            token_type: text_member(&members, "typ")?.map(str::to_owned),
            members,
        })
    }

    /// Returns the algorithm from `alg`.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns `kid`.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// Returns `typ`, unchanged.
    #[must_use]
    pub fn token_type(&self) -> Option<&str> {
        self.token_type.as_deref()
    }

    /// Returns all header members, including `alg`, `kid` and `typ`.
    #[must_use]
    pub const fn members(&self) -> &Map<String, Value> {
        &self.members
    }
}

/// Parses and verifies `token`, and returns its payload. Uses the key of `keys` that has the
/// token's `kid`. If the token has no `kid`, exactly one key must permit the token's algorithm.
///
/// # Errors
///
/// The errors of [`CompactJws::parse`], [`JwkSet::key_for`] and
/// [`CompactJws::verify`].
pub fn verify_signature(token: &str, keys: &JwkSet) -> Result<Vec<u8>, JoseError> {
    let jws = CompactJws::parse(token, MAX_TOKEN_BYTES)?;
    let key = keys.key_for(&jws.header)?;
    jws.verify(key)?;
    Ok(jws.payload)
}

/// Returns the bytes that a signer signs, as text: `base64url(header).base64url(payload)`.
/// A complete token is this text, a dot, and the base64url of the signature.
#[must_use]
pub fn signing_input(header_json: &str, payload_json: &str) -> String {
    let mut input = base64url_encode(header_json.as_bytes());
    input.push('.');
    input.push_str(&base64url_encode(payload_json.as_bytes()));
    input
}

/// Returns the value of a member, or `None` if there is no such member. Fails if the value is not a
/// string.
pub(super) fn text_member<'a>(
    members: &'a Map<String, Value>,
    member: &'static str,
) -> Result<Option<&'a str>, JoseError> {
    match members.get(member) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(JoseError::Member { member }),
    }
}
