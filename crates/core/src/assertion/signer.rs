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
use countersign_verify::claims::{MAX_ASSERTION_BYTES, MAX_SANS_PER_TYPE};
use http::HeaderValue;

use super::key_ring::{SigningKey, SigningKeyRing};
use crate::clock;
use crate::crypto;
use crate::identity::text::{push_json, push_json_escaped};
use crate::identity::{PeerIdentity, Principal};
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
    /// The assertion would be longer than verifiers accept.
    #[error("the assertion would be longer than {MAX_ASSERTION_BYTES} bytes")]
    TooLong,
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
        audience: &str,
        request: &RequestBinding<'_>,
        now: u64,
    ) -> Result<SignedAssertion, SignError> {
        let jti = token_id().map_err(|_| SignError::Failed)?;
        let (principal, key, expires) = self.prepare(permit, now)?;
        let mut claims = self.begin(principal, audience, now, expires);
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
        finish(&mut claims, principal);
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
        audience: &str,
        now: u64,
    ) -> Result<SignedAssertion, SignError> {
        let (principal, key, expires) = self.prepare(permit, now)?;
        let mut claims = self.begin(principal, audience, now, expires);
        finish(&mut claims, principal);
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

    fn begin(&self, principal: &Principal, audience: &str, now: u64, expires: u64) -> String {
        let caller = principal
            .peer()
            .map_or(0, |peer| peer.memo(caller_json).len());
        let token = principal.token().map_or(0, |token| token.json().len());
        let mut claims = String::with_capacity(self.issuer_json.len() + caller + token + 512);
        claims.push_str(&self.issuer_json);
        claims.push_str(",\"aud\":");
        push_json(&mut claims, audience);
        let _ = write!(claims, ",\"iat\":{now},\"exp\":{expires}");
        claims
    }
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

/// Returns the claims that depend only on the certificate and its verification, as the beginning
/// of a JSON text. The text ends inside `authn`, before `methods`; [`finish`] adds the rest.
fn caller_json(peer: &PeerIdentity) -> String {
    let leaf = peer.leaf();
    let mut json = String::with_capacity(640);
    json.push_str(",\"sub\":");
    push_json(&mut json, &peer.caller().to_string());
    json.push_str(",\"client_cert\":{\"x5t#S256\":\"");
    push_base64(&mut json, &leaf.thumbprint);
    let _ = write!(json, "\",\"serial\":\"{}\",\"issuer\":", leaf.serial_hex());
    push_json(&mut json, &leaf.issuer);
    let _ = write!(
        json,
        ",\"not_before\":{},\"not_after\":{},\"sans\":{{",
        leaf.not_before.max(0),
        leaf.not_after.max(0)
    );
    let addresses: Vec<String> = leaf.sans.ip.iter().map(ToString::to_string).collect();
    push_names(&mut json, "\"uri\":[", &leaf.sans.uri);
    push_names(&mut json, ",\"dns\":[", &leaf.sans.dns);
    push_names(&mut json, ",\"email\":[", &leaf.sans.email);
    push_names(&mut json, ",\"ip\":[", &addresses);
    json.push_str("},\"anchor\":\"");
    push_base64(&mut json, peer.anchor());
    json.push('"');
    let counts = [
        leaf.sans.uri.len(),
        leaf.sans.dns.len(),
        leaf.sans.email.len(),
        addresses.len(),
    ];
    if counts.iter().any(|count| *count > MAX_SANS_PER_TYPE) {
        json.push_str(",\"sans_truncated\":true");
    }
    json.push_str("},\"authn\":{\"trust_domain\":");
    push_json(&mut json, peer.trust_domain().as_str());
    let _ = write!(json, ",\"revocation\":\"{}\"", peer.revocation().as_str());
    if let Some(moment) = peer.crl_this_update() {
        let _ = write!(json, ",\"crl_this_update\":{}", moment.max(0));
    }
    json
}

fn finish(claims: &mut String, principal: &Principal) {
    if let Some(peer) = principal.peer() {
        claims.push_str(peer.memo(caller_json));
        claims.push(',');
    } else {
        // The caller has no certificate, so the claims contain fewer details about the
        // authentication.
        claims.push_str(",\"sub\":");
        push_json(claims, &principal.caller().to_string());
        claims.push_str(",\"authn\":{");
    }
    claims.push_str("\"methods\":[");
    for (index, method) in principal.methods().iter().enumerate() {
        if index > 0 {
            claims.push(',');
        }
        let _ = write!(claims, "\"{}\"", method.as_str());
    }
    let _ = write!(
        claims,
        "],\"at\":{},\"resumed\":{}}}",
        principal.authenticated_at(),
        principal.resumed()
    );
    if let Some(token) = principal.token() {
        claims.push_str(",\"token\":");
        claims.push_str(token.json());
    }
    claims.push('}');
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
    if wire.len() > MAX_ASSERTION_BYTES {
        return Err(SignError::TooLong);
    }
    let wire = HeaderValue::from_maybe_shared(Bytes::from(wire)).map_err(|_| SignError::Failed)?;
    Ok(SignedAssertion { wire, jti, expires })
}

/// Appends bytes in base64. The bytes are not secret, so the encoder need not run in constant time.
fn push_base64(text: &mut String, bytes: &[u8]) {
    URL_SAFE_NO_PAD.encode_string(bytes, text);
}

fn push_names(json: &mut String, open: &str, names: &[String]) {
    json.push_str(open);
    for (index, name) in names.iter().take(MAX_SANS_PER_TYPE).enumerate() {
        if index > 0 {
            json.push(',');
        }
        push_json(json, name);
    }
    json.push(']');
}

#[cfg(test)]
#[path = "signer_tests.rs"]
mod tests;
