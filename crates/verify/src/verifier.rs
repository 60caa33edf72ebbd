//! Verifies an assertion against the request that contains it.
//!
//! The verifier checks in this order: form, type, key, signature, issuer and audience,
//! time, binding, replay. It reads the payload only after it verified the signature. The
//! service itself decides what the caller may do.

use std::time::Duration;

#[cfg(feature = "fetch")]
use crate::FetchProblem;
use crate::claims::{Assertion, MAX_ASSERTION_BYTES, MAX_LIFETIME_SECONDS, TYP, hash};
use crate::clock::Clock;
use crate::crypto::constant_time_equal;
use crate::jose::{self, Algorithm, CompactJws, Header, JoseError, JwkSet};
use crate::keys::KeySource;
use crate::replay::ReplayCache;
use crate::request::{Authority, split_url};
use crate::{RequestParts, VerifierBuilder, VerifyError};

/// Header members that contain a key or the URL of a key. A verifier refuses them,
/// because keys come only from the configured issuer (RFC 8725 section 3.10).
const EMBEDDED_KEY_MEMBERS: [&str; 4] = ["jwk", "jku", "x5u", "x5c"];

/// Verifies assertions of one gateway for one service.
///
/// Build a verifier with [`AssertionVerifier::builder`]. Several threads can share it in
/// an [`Arc`](std::sync::Arc).
pub struct AssertionVerifier {
    pub(crate) issuer: String,
    pub(crate) audience: String,
    pub(crate) keys: KeySource,
    pub(crate) caller_binding_allowed: bool,
    pub(crate) body_binding_required: bool,
    pub(crate) skew: Duration,
    pub(crate) authority: Option<String>,
    pub(crate) path_prefix: String,
    pub(crate) replay_cache: Option<ReplayCache>,
    pub(crate) clock: Clock,
}

impl AssertionVerifier {
    /// Returns a builder. The issuer, the audience and the keys are required.
    pub fn builder() -> VerifierBuilder {
        VerifierBuilder::default()
    }

    /// Verifies `token` for `request` with the keys that are available now.
    ///
    /// This method never fetches keys. If the keys come from a URL, the cached keys may be
    /// up to 24 h old. Use [`AssertionVerifier::verify_async`] to keep the keys fresh.
    ///
    /// # Errors
    ///
    /// The error of the first check that fails.
    pub fn verify(&self, token: &str, request: &RequestParts) -> Result<Assertion, VerifyError> {
        let jws = parse(token)?;
        let assertion = self.authenticate(&jws, &*self.keys.at_hand()?)?;
        self.accept(assertion, request)
    }

    /// Verifies `token` for `request`. If the keys are stale, or if they do not contain the
    /// token's key, this method fetches the keys once. Fetches are rate-limited. If another call
    /// is fetching already, this call waits for that fetch and uses its result. If the key
    /// server does not respond, the wait is at most 5 seconds, or 10 seconds with
    /// `VerifierBuilder::discover`.
    ///
    /// # Errors
    ///
    /// The error of the first check that fails. [`VerifyError::KeysUnavailable`] if the keys
    /// could not be fetched, or if too many calls wait for a fetch.
    pub async fn verify_async(
        &self,
        token: &str,
        request: &RequestParts,
    ) -> Result<Assertion, VerifyError> {
        let jws = parse(token)?;
        let keys = self.keys.for_header(jws.header()).await?;
        let assertion = self.authenticate(&jws, &keys)?;
        self.accept(assertion, request)
    }

    /// Fetches the keys now, so that the first request need not wait for them. If a service
    /// calls this method at its start, it notices early that the gateway cannot be reached. If a
    /// fetch is running already, this call waits for that fetch and returns its outcome.
    ///
    /// # Errors
    ///
    /// The reason why the fetch failed, or [`FetchProblem::Busy`] if too many calls wait for
    /// a fetch. The verifier stays usable and fetches again at the next verification.
    #[cfg(feature = "fetch")]
    pub async fn fetch_keys(&self) -> Result<(), FetchProblem> {
        match &self.keys {
            KeySource::Static(_) => Ok(()),
            KeySource::Remote(remote) => remote.fetch_now().await,
        }
    }

    /// Verifies a token without a request. The claims about the request and the body are not
    /// compared, and the replay cache is not used. This method is for tools that inspect a
    /// token. A service must not use it, because it would accept a stolen token in any request.
    ///
    /// # Errors
    ///
    /// The error of the first check that fails.
    pub fn verify_without_request(&self, token: &str) -> Result<Assertion, VerifyError> {
        let jws = parse(token)?;
        let assertion = self.authenticate(&jws, &*self.keys.at_hand()?)?;
        self.check_claims(&assertion)?;
        Ok(assertion)
    }

    /// Verifies the signature and returns the claims. Does not check the claims.
    fn authenticate(&self, jws: &CompactJws<'_>, keys: &JwkSet) -> Result<Assertion, VerifyError> {
        let key = keys.key_for(jws.header()).map_err(|reason| match reason {
            JoseError::AlgorithmMismatch => VerifyError::Algorithm,
            _ => VerifyError::UnknownKey,
        })?;
        let payload = jws.verify(key).map_err(|reason| match reason {
            JoseError::AlgorithmMismatch => VerifyError::Algorithm,
            _ => VerifyError::Signature,
        })?;
        jose::refuse_duplicate_members(payload, "payload").map_err(VerifyError::Malformed)?;
        serde_json::from_slice(payload).map_err(|_| VerifyError::Claims)
    }

    /// Checks the claims, the binding to the request and the replay cache.
    fn accept(
        &self,
        assertion: Assertion,
        request: &RequestParts,
    ) -> Result<Assertion, VerifyError> {
        self.check_claims(&assertion)?;
        if let (Some(method), Some(url)) = (&assertion.htm, &assertion.htu) {
            self.check_request(method, url, assertion.htq.as_deref(), request)?;
        }
        self.check_body(&assertion, request)?;
        // The replay cache is checked last, because a refused assertion must not use up its `jti`.
        if let (Some(cache), Some(identifier)) = (&self.replay_cache, &assertion.jti) {
            let until = assertion.exp.saturating_add(self.skew.as_secs());
            cache.admit(identifier, until, (self.clock)())?;
        }
        Ok(assertion)
    }

    fn check_claims(&self, assertion: &Assertion) -> Result<(), VerifyError> {
        if assertion.iss != self.issuer {
            return Err(VerifyError::Issuer);
        }
        if assertion.aud != self.audience {
            return Err(VerifyError::Audience);
        }
        self.check_time(assertion.iat, assertion.exp)?;
        self.check_binding(assertion)
    }

    fn check_time(&self, issued_at: u64, expires_at: u64) -> Result<(), VerifyError> {
        let lifetime = expires_at.checked_sub(issued_at);
        if !lifetime.is_some_and(|seconds| (1..=MAX_LIFETIME_SECONDS).contains(&seconds)) {
            return Err(VerifyError::Lifetime);
        }
        let (now, skew) = ((self.clock)(), self.skew.as_secs());
        if issued_at > now.saturating_add(skew) {
            return Err(VerifyError::NotYetValid);
        }
        // RFC 7519 section 4.1.4: a token is expired at `exp` and after it.
        if now >= expires_at.saturating_add(skew) {
            return Err(VerifyError::Expired);
        }
        Ok(())
    }

    /// Checks that the assertion has all of `htm`, `htu` and `jti`. If it has no claim about a
    /// request at all, it is bound only to its caller. The verifier accepts this only after
    /// `allow_caller_binding`.
    fn check_binding(&self, assertion: &Assertion) -> Result<(), VerifyError> {
        if assertion.is_request_bound() {
            return Ok(());
        }
        let claims = [
            &assertion.htm,
            &assertion.htu,
            &assertion.jti,
            &assertion.htq,
            &assertion.htb,
            &assertion.txn,
        ];
        if claims.iter().any(|claim| claim.is_some()) {
            Err(VerifyError::PartialBinding)
        } else if self.caller_binding_allowed {
            Ok(())
        } else {
            Err(VerifyError::NotRequestBound)
        }
    }

    /// Compares the assertion with the request byte by byte, without decoding. The scheme of
    /// `htu` is ignored, because it is always `https` and has no meaning.
    fn check_request(
        &self,
        method: &str,
        url: &str,
        query_hash: Option<&str>,
        request: &RequestParts,
    ) -> Result<(), VerifyError> {
        let (authority, path) = split_url(url).ok_or(VerifyError::Claims)?;
        if method != request.method {
            return Err(VerifyError::Method);
        }
        let expected_authority = match (&self.authority, &request.authority) {
            (Some(configured), _) => configured,
            (None, Authority::Known(received)) => received,
            (None, Authority::Unclear) => return Err(VerifyError::RequestUnclear),
        };
        if authority != expected_authority {
            return Err(VerifyError::Authority);
        }
        if path.strip_prefix(self.path_prefix.as_str()) != Some(request.path.as_str()) {
            return Err(VerifyError::Path);
        }
        let query_matches = match (query_hash, request.query.as_deref()) {
            (None, None) => true,
            (Some(claim), Some(query)) => {
                constant_time_equal(claim.as_bytes(), hash(query.as_bytes()).as_bytes())
            }
            (Some(_), None) | (None, Some(_)) => false,
        };
        if query_matches {
            Ok(())
        } else {
            Err(VerifyError::Query)
        }
    }

    fn check_body(&self, assertion: &Assertion, request: &RequestParts) -> Result<(), VerifyError> {
        match (&assertion.htb, &request.body_hash) {
            (Some(claim), Some(body)) => {
                if constant_time_equal(claim.as_bytes(), body.as_bytes()) {
                    Ok(())
                } else {
                    Err(VerifyError::Body)
                }
            }
            _ if self.body_binding_required => Err(VerifyError::BodyNotBound),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for AssertionVerifier {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("AssertionVerifier")
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

/// Returns the assertion if `values` has exactly one element.
///
/// `values` are the values of all `Countersign-Assertion` field lines of the request, as
/// received.
///
/// # Errors
///
/// [`VerifyError::Missing`], [`VerifyError::Duplicate`], or [`VerifyError::Malformed`] if
/// the value is not ASCII. This function does not detect a list of several assertions in
/// one field line. `verify` refuses such a list, because it is not a compact JWS.
pub fn only_assertion<'a>(
    values: impl IntoIterator<Item = &'a [u8]>,
) -> Result<&'a str, VerifyError> {
    let mut values = values.into_iter();
    let value = values.next().ok_or(VerifyError::Missing)?;
    if values.next().is_some() {
        return Err(VerifyError::Duplicate);
    }
    std::str::from_utf8(value)
        .ok()
        .filter(|text| text.is_ascii())
        .ok_or(VerifyError::Malformed(JoseError::NotCompact))
}

/// Checks the form, the type and the key identifier. These checks need no cryptography.
fn parse(token: &str) -> Result<CompactJws<'_>, VerifyError> {
    let jws = CompactJws::parse(token, MAX_ASSERTION_BYTES).map_err(|reason| match reason {
        JoseError::UnsupportedAlgorithm => VerifyError::Algorithm,
        _ => VerifyError::Malformed(reason),
    })?;
    check_header(jws.header())?;
    Ok(jws)
}

fn check_header(header: &Header) -> Result<(), VerifyError> {
    if header.token_type() != Some(TYP) {
        return Err(VerifyError::Type);
    }
    if EMBEDDED_KEY_MEMBERS
        .iter()
        .any(|name| header.members().contains_key(*name))
    {
        return Err(VerifyError::EmbeddedKey);
    }
    if header.key_id().is_none_or(str::is_empty) {
        return Err(VerifyError::KeyIdMissing);
    }
    // The feature `all-algorithms` enables further algorithms in [`jose`]. These algorithms are
    // only for tokens that are not assertions.
    if !matches!(header.algorithm(), Algorithm::Es256 | Algorithm::EdDsa) {
        return Err(VerifyError::Algorithm);
    }
    Ok(())
}
