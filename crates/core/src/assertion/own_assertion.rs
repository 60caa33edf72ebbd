//! Verifies assertions of this gateway. A service that calls another service through the gateway
//! presents the assertion that it received.

use countersign_verify::Assertion;
use countersign_verify::claims::{MAX_ASSERTION_BYTES, MAX_LIFETIME_SECONDS, TYP};
use countersign_verify::jose::{CompactJws, refuse_duplicate_members};

use super::AssertionSigner;

/// Maximum time in seconds that the clock of another gateway instance with the same keys may be
/// ahead.
const SKEW_SECONDS: u64 = 30;

impl AssertionSigner {
    /// Returns the claims of an assertion about one request. Returns `None` unless a key that is
    /// published at `now` (seconds since the Unix epoch) has signed it and it has not expired.
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
