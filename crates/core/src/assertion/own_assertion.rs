//! Verifies assertions of this gateway. A service that has received such an assertion may send it
//! again when it calls another service through the gateway.

use countersign_verify::Assertion;
use countersign_verify::claims::{MAX_ASSERTION_BYTES, MAX_LIFETIME_SECONDS, TYP};
use countersign_verify::jose::{CompactJws, refuse_duplicate_members};

use super::AssertionSigner;

/// Maximum number of seconds by which the clock of another gateway with the same keys may be ahead
/// of this gateway's clock.
const SKEW_SECONDS: u64 = 30;

impl AssertionSigner {
    /// Returns the claims of `token`, an assertion about one request. Returns `None` if it has
    /// expired, or if no key that is published at `now` (seconds since the Unix epoch) has signed
    /// it.
    #[must_use]
    pub fn verify_own(&self, token: &str, now: u64) -> Option<Assertion> {
        let jws = CompactJws::parse(token, MAX_ASSERTION_BYTES).ok()?;
        if jws.header().token_type() != Some(TYP) {
            return None;
        }
        let kid = jws.header().key_id()?;
        let key = self.keys().published(now).find(|key| key.kid() == kid)?;
        let payload = jws.verify(key.public()).ok()?;
        refuse_duplicate_members(payload, "payload").ok()?;
        let claims: Assertion = serde_json::from_slice(payload).ok()?;
        let lifetime = claims.exp.checked_sub(claims.iat)?;
        let holds = claims.iss == self.settings().issuer
            && claims.is_request_bound()
            && (1..=MAX_LIFETIME_SECONDS).contains(&lifetime)
            && claims.iat <= now.saturating_add(SKEW_SECONDS)
            && now < claims.exp;
        holds.then_some(claims)
    }
}
