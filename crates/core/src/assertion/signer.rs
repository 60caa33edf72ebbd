//! `AssertionSigner`: signs claims about one request.
//!
//! This code runs for every request. For speed, it writes the claims directly as JSON text, without
//! the serde types of `countersign_verify::claims`. A test compares the text with the JSON of these
//! types. The claims that depend only on the caller's certificate are written once for each
//! certificate and then reused.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::HeaderValue;

use super::caller_claims::{
    AssertionDetail, WANTED_PATH, expected_size, finish, path_room, push_base64,
};
use super::key_ring::{SigningKey, SigningKeyRing};
use crate::clock;
use crate::crypto;
use crate::identity::Principal;
use crate::identity::text::{push_json, push_json_escaped};
use crate::policy::Permit;

/// The settings of `[assertion]`.
#[derive(Debug, Clone)]
pub struct AssertionSettings {
    /// The `iss` claim of assertions.
    pub issuer: String,
    /// The header field that carries the assertion.
    pub header: http::HeaderName,
    /// How long an assertion is valid.
    pub lifetime: Duration,
    /// Maximum size of an assertion in bytes.
    pub max_size: usize,
}

/// The default maximum size of an assertion in bytes.
pub const DEFAULT_MAX_SIZE: usize = 4 * 1024;

/// The size of the signature of either algorithm: 64 bytes as base64url.
const SIGNATURE_LENGTH: usize = 86;

/// The encoded header of an assertion has at most this size: a thumbprint and fixed words.
const HEADER_LENGTH: usize = 140;

/// The size that is kept free for the claims about a request: a path of [`WANTED_PATH`] bytes, the
/// longest authority (a DNS name and a port), and `jti`, `txn`, `htm`, `htq` and `htb`. It does not
/// depend on the request, so that no caller can choose what is left out.
const REQUEST_CLAIMS: usize = WANTED_PATH + 260 + 200;

/// The expected size of issuer, audience, authority and trust domain together.
const USUAL_TEXTS: usize = 120;

impl AssertionSettings {
    /// Returns how many bytes of a path fit into assertions about a caller whose name has this
    /// length, at a gateway with the default settings.
    #[must_use]
    pub fn default_path_room(caller: usize) -> usize {
        let max_claims = max_claims(DEFAULT_MAX_SIZE, HEADER_LENGTH);
        path_room(max_claims, USUAL_TEXTS + caller, AssertionDetail::Full)
    }

    /// Returns how many bytes of a path fit into all assertions about a caller, at most
    /// [`WANTED_PATH`]. A longer path can fit if the caller's certificate has few details. `texts`
    /// is the total size of the audience, the authority, the trust domain and the caller's name.
    #[must_use]
    pub fn path_room(&self, texts: usize, detail: AssertionDetail) -> usize {
        let max_claims = max_claims(self.max_size, HEADER_LENGTH);
        path_room(max_claims, self.issuer.len() + texts, detail)
    }
}

/// The audience of an assertion, and how much detail the assertion contains.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'a> {
    /// The `aud` claim.
    pub audience: &'a str,
    /// How much the assertion says about the caller's certificate.
    pub detail: AssertionDetail,
}

/// The properties of a forwarded request that its assertion contains.
#[derive(Debug, Clone, Copy)]
pub struct RequestBinding<'a> {
    /// The request method.
    pub method: &'a str,
    /// The `Host` that is sent to the service.
    pub authority: &'a str,
    /// The path exactly as it is sent.
    pub path: &'a str,
    /// The query without the `?`, if there is one.
    pub query: Option<&'a str>,
    /// The SHA-256 hash of the body. `None` if the assertion is not bound to the body.
    pub body_hash: Option<&'a [u8; 32]>,
    /// The `txn` claim: an identifier by which services find the requests of one transaction. It
    /// authenticates nothing.
    pub transaction: &'a str,
}

/// The reason why no assertion was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The route authenticates no caller, so its requests carry no assertion.
    #[error("a request without an authenticated caller carries no assertion")]
    NoCaller,
    /// The caller's certificate is no longer valid.
    #[error("the caller's certificate path has expired")]
    Expired,
    /// The token or API key in the request is no longer valid.
    #[error("the caller's token or API key has expired")]
    CredentialExpired,
    /// No key may sign now.
    #[error("no assertion-signing key is active")]
    NoKey,
    /// The assertion would be longer than `[assertion] max_size`, after everything was left out
    /// that may be left out.
    #[error(
        "the assertion would have {size} bytes, and `max_size` of [assertion] is {max}; its claim \
         `{member}` has {member_size} bytes"
    )]
    TooLong {
        /// The largest claim.
        member: &'static str,
        /// The size of this claim in bytes.
        member_size: usize,
        /// The size of the whole assertion in bytes.
        size: usize,
        /// The maximum size of an assertion in bytes.
        max: usize,
    },
    /// The cryptography provider failed.
    #[error("signing failed")]
    Failed,
}

/// A signed assertion, ready to send. A request of an authenticated caller can be forwarded only
/// with this value.
#[derive(Debug, Clone)]
pub struct SignedAssertion {
    wire: HeaderValue,
    jti: Option<Box<str>>,
    expires: u64,
}

impl SignedAssertion {
    /// Returns the value of the header field: one JWS in compact serialization.
    #[must_use]
    pub const fn header_value(&self) -> &HeaderValue {
        &self.wire
    }

    /// Returns the `jti` claim. Returns `None` if the assertion is not about one request, but about
    /// the caller (`binding = "caller"`).
    #[must_use]
    pub fn jti(&self) -> Option<&str> {
        self.jti.as_deref()
    }

    /// Returns the `exp` claim, in seconds since the Unix epoch.
    #[must_use]
    pub const fn expires(&self) -> u64 {
        self.expires
    }
}

/// Signs assertions with the keys of a [`SigningKeyRing`].
#[derive(Debug)]
pub struct AssertionSigner {
    settings: AssertionSettings,
    keys: Arc<SigningKeyRing>,
    /// The beginning of the JSON of every assertion: `{"iss":"…"`.
    issuer_json: String,
}

impl AssertionSigner {
    /// Creates a signer with its settings and keys.
    #[must_use]
    pub fn new(settings: AssertionSettings, keys: Arc<SigningKeyRing>) -> Self {
        let mut issuer_json = String::from("{\"iss\":");
        push_json(&mut issuer_json, &settings.issuer);
        Self {
            settings,
            keys,
            issuer_json,
        }
    }

    /// Returns the settings: issuer, header and lifetime.
    #[must_use]
    pub const fn settings(&self) -> &AssertionSettings {
        &self.settings
    }

    /// Returns the keys of the signer.
    #[must_use]
    pub const fn keys(&self) -> &Arc<SigningKeyRing> {
        &self.keys
    }

    /// Signs an assertion about one request. `now` is in seconds since the Unix epoch.
    ///
    /// # Errors
    /// Returns a [`SignError`]. In all cases the request must not be forwarded.
    pub fn sign_request(
        &self,
        permit: &Permit,
        recipient: Recipient<'_>,
        request: &RequestBinding<'_>,
        now: u64,
    ) -> Result<SignedAssertion, SignError> {
        let jti = token_id().map_err(|_| SignError::Failed)?;
        let (principal, key, expires) = self.prepare(permit, now)?;
        let mut claims = self.begin(principal, recipient, now, expires);
        let about_all = claims.len();
        claims.push_str(",\"jti\":\"");
        claims.push_str(&jti);
        claims.push_str("\",\"txn\":");
        push_json(&mut claims, request.transaction);
        claims.push_str(",\"htm\":");
        push_json(&mut claims, request.method);
        claims.push_str(",\"htu\":\"https://");
        push_json_escaped(&mut claims, request.authority);
        push_json_escaped(&mut claims, request.path);
        claims.push('"');
        if let Some(query) = request.query {
            claims.push_str(",\"htq\":\"");
            push_base64(&mut claims, &crypto::sha256(query.as_bytes()));
            claims.push('"');
        }
        if let Some(hash) = request.body_hash {
            claims.push_str(",\"htb\":\"");
            push_base64(&mut claims, hash);
            claims.push('"');
        }
        let room = self
            .claims_room(&key)
            .saturating_sub(about_all + REQUEST_CLAIMS);
        finish(&mut claims, principal, recipient.detail, room);
        self.check_size(&claims, &key, principal, Some(request))?;
        seal(&key, &claims, Some(jti.into()), expires)
    }

    /// Signs an assertion about the caller (`binding = "caller"`). The assertion is valid for any
    /// request of this caller to the audience `audience`.
    ///
    /// # Errors
    /// Returns a [`SignError`]. In all cases the request must not be forwarded.
    pub fn sign_caller(
        &self,
        permit: &Permit,
        recipient: Recipient<'_>,
        now: u64,
    ) -> Result<SignedAssertion, SignError> {
        let (principal, key, expires) = self.prepare(permit, now)?;
        let mut claims = self.begin(principal, recipient, now, expires);
        let room = self.claims_room(&key).saturating_sub(claims.len());
        finish(&mut claims, principal, recipient.detail, room);
        self.check_size(&claims, &key, principal, None)?;
        seal(&key, &claims, None, expires)
    }

    fn prepare<'p>(
        &self,
        permit: &'p Permit,
        now: u64,
    ) -> Result<(&'p Principal, Arc<SigningKey>, u64), SignError> {
        let principal = permit.principal().ok_or(SignError::NoCaller)?;
        let mut expires = now.saturating_add(self.settings.lifetime.as_secs());
        if let Some(peer) = principal.peer() {
            let end = peer.path_not_after();
            if clock::certificate_is_over(end, i64::try_from(now).unwrap_or(i64::MAX)) {
                return Err(SignError::Expired);
            }
            // `notAfter` is the last second in which the certificate is valid, but `exp` is the
            // first second in which the assertion is not valid. An assertion that is signed in the
            // certificate's last second therefore gets an `exp` one second later.
            let end = u64::try_from(end).unwrap_or(0);
            expires = expires.min(end.max(now.saturating_add(1)));
        }
        if let Some(end) = principal.ends() {
            expires = expires.min(end);
            if expires <= now {
                return Err(SignError::CredentialExpired);
            }
        }
        let key = self.keys.current(now).ok_or(SignError::NoKey)?;
        Ok((principal, Arc::clone(key), expires))
    }

    fn begin(
        &self,
        principal: &Principal,
        recipient: Recipient<'_>,
        now: u64,
        expires: u64,
    ) -> String {
        let caller = expected_size(principal, recipient.detail);
        let mut claims = String::with_capacity(self.issuer_json.len() + caller + 512);
        claims.push_str(&self.issuer_json);
        claims.push_str(",\"aud\":");
        push_json(&mut claims, recipient.audience);
        let _ = write!(claims, ",\"iat\":{now},\"exp\":{expires}");
        claims
    }

    /// Returns the maximum size of the claims of an assertion that `key` signs.
    fn claims_room(&self, key: &SigningKey) -> usize {
        max_claims(self.settings.max_size, key.header_base64url().len())
    }

    /// Checks the size of the assertion that would be made of `claims`.
    fn check_size(
        &self,
        claims: &str,
        key: &SigningKey,
        principal: &Principal,
        request: Option<&RequestBinding<'_>>,
    ) -> Result<(), SignError> {
        let max = self.settings.max_size;
        let header = key.header_base64url().len();
        let size = header + claims.len().saturating_mul(4).div_ceil(3) + SIGNATURE_LENGTH + 2;
        if size <= max {
            return Ok(());
        }
        let (member, member_size) = largest_claim(principal, request);
        Err(SignError::TooLong {
            member,
            member_size,
            size,
            max,
        })
    }
}

/// Returns the maximum size of the claims of an assertion, before they are encoded. `max` is the
/// maximum size of the assertion, `header` the size of its encoded header.
const fn max_claims(max: usize, header: usize) -> usize {
    max.saturating_sub(header + SIGNATURE_LENGTH + 2) / 4 * 3
}

/// Returns the largest of the claims that are never left out, with its size in bytes.
fn largest_claim(
    principal: &Principal,
    request: Option<&RequestBinding<'_>>,
) -> (&'static str, usize) {
    let subject = principal.caller().to_string().len();
    let token = principal.token();
    let token = token.map_or(0, |token| token.json().len());
    let (method, url) = request.map_or((0, 0), |request| {
        let url = "https://".len() + request.authority.len() + request.path.len();
        (request.method.len(), url)
    });
    let sizes = [
        ("htu", url),
        ("htm", method),
        ("sub", subject),
        ("token", token),
    ];
    let largest = sizes.into_iter().max_by_key(|(_, size)| *size);
    largest.unwrap_or(("sub", subject))
}

/// Creates a random identifier, for example for a request or a `jti`. It consists of 128 bits,
/// written as 22 base64url characters.
///
/// # Errors
/// Returns an error if the system's random number generator fails.
pub fn token_id() -> Result<String, crypto::NoRandomness> {
    crypto::random_id().map(|bytes| URL_SAFE_NO_PAD.encode(bytes))
}

/// Decodes an identifier that [`token_id`] has created. Returns `None` if `id` has another form.
#[must_use]
pub fn token_octets(id: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    let decoded = URL_SAFE_NO_PAD.decode_slice(id, &mut bytes).ok()?;
    (decoded == 16).then_some(bytes)
}

fn seal(
    key: &SigningKey,
    claims: &str,
    jti: Option<Box<str>>,
    expires: u64,
) -> Result<SignedAssertion, SignError> {
    let mut wire = String::with_capacity(160 + claims.len() * 4 / 3 + 90);
    wire.push_str(key.header_base64url());
    wire.push('.');
    push_base64(&mut wire, claims.as_bytes());
    let signature = key.sign(wire.as_bytes()).map_err(|_| SignError::Failed)?;
    wire.push('.');
    push_base64(&mut wire, &signature);
    let wire = HeaderValue::from_maybe_shared(Bytes::from(wire)).map_err(|_| SignError::Failed)?;
    Ok(SignedAssertion { wire, jti, expires })
}

#[cfg(test)]
#[path = "signer_tests.rs"]
mod tests;
