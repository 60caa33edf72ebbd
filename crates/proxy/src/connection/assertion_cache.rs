//! `AssertionCache`: reusable assertions of one connection, for routes with `binding = "caller"`.

use std::sync::{Arc, Mutex, PoisonError};

use crate::assertion::SignedAssertion;
use crate::assertion::signer::SignError;
use crate::identity::{ApiKeyUse, PeerIdentity, Principal};
use crate::policy::Permit;
use crate::route::Route;
use crate::snapshot::Snapshot;

/// Maximum number of cached assertions of one connection. If the cache is full, a new assertion
/// evicts the oldest one.
const MAX_ENTRIES: usize = 16;

/// Reusable assertions of one connection. The certificate of a connection never changes. An
/// assertion therefore depends only on the following: the last verification of the certificate, the
/// route, the request's token or API key, the signing key, and the snapshot.
#[derive(Debug, Default)]
pub(crate) struct AssertionCache {
    entries: Mutex<Vec<CachedAssertion>>,
}

#[derive(Debug)]
struct CachedAssertion {
    route: Arc<Route>,
    /// Generation of the snapshot under which the assertion was signed.
    generation: u64,
    /// Identifier of the signing key.
    kid: Box<str>,
    /// The time until which the assertion may be reused, in seconds since the Unix epoch.
    fresh_until: u64,
    caller: CallerKey,
    assertion: SignedAssertion,
}

/// The credentials that an assertion describes. Requests with equal keys can use the same
/// assertion.
#[derive(Debug)]
struct CallerKey {
    token: Option<String>,
    api_key: Option<ApiKeyUse>,
    peer: Option<Arc<PeerIdentity>>,
}

impl CallerKey {
    fn of(principal: &Principal) -> Self {
        Self {
            token: principal.token().map(|token| token.hash.clone()),
            api_key: principal.api_key().cloned(),
            peer: principal.peer().cloned(),
        }
    }

    fn matches(&self, principal: &Principal) -> bool {
        self.token.as_ref() == principal.token().map(|token| &token.hash)
            && self.api_key.as_ref() == principal.api_key()
            && match (&self.peer, principal.peer()) {
                // Compares pointers, because each verification makes a new `PeerIdentity`. The
                // certificate is the same, but the new verification may have found another
                // revocation status.
                (Some(peer), Some(other)) => Arc::ptr_eq(peer, other),
                (peer, other) => peer.is_none() && other.is_none(),
            }
    }
}

impl AssertionCache {
    /// Returns an assertion for a route. Reuses a cached assertion until half of its lifetime has
    /// passed. Otherwise signs a new assertion.
    pub(crate) fn get(
        &self,
        snapshot: &Snapshot,
        route: &Arc<Route>,
        permit: &Permit,
        now: u64,
    ) -> Result<SignedAssertion, SignError> {
        let kid = snapshot
            .signer
            .keys()
            .current(now)
            .ok_or(SignError::NoKey)?
            .kid();
        let principal = permit.principal().ok_or(SignError::NoCaller)?;
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|entry| entry.generation == snapshot.generation && entry.fresh_until > now);
        if let Some(entry) = entries.iter().find(|entry| {
            Arc::ptr_eq(&entry.route, route)
                && *entry.kid == *kid
                && entry.caller.matches(principal)
        }) {
            return Ok(entry.assertion.clone());
        }
        let assertion = snapshot
            .signer
            .sign_caller(permit, route.recipient(), now)?;
        if entries.len() >= MAX_ENTRIES {
            entries.remove(0);
        }
        entries.push(CachedAssertion {
            route: Arc::clone(route),
            generation: snapshot.generation,
            kid: kid.into(),
            caller: CallerKey::of(principal),
            fresh_until: now + assertion.expires().saturating_sub(now) / 2,
            assertion: assertion.clone(),
        });
        Ok(assertion)
    }
}

#[cfg(test)]
mod tests {
    use countersign_testkit::TestCa;
    use rustls_pki_types::UnixTime;

    use super::*;
    use crate::clock;
    use crate::trust::fixture::{config, trust};

    #[test]
    fn what_was_said_of_a_caller_ends_when_it_is_verified_again() {
        let ca = TestCa::new("example.org");
        let now = UnixTime::since_unix_epoch(clock::since_epoch());
        let trust = trust(config(&ca, &[]));
        let caller = ca.client("/a");
        let (leaf, rest) = caller.chain.split_first().unwrap();
        let verified = || {
            let peer = trust.verify(leaf, rest, now).unwrap();
            Principal::from_certificate(peer, 0, false)
        };
        let principal = verified();
        let key = CallerKey::of(&principal);
        assert!(key.matches(&principal.clone()));
        assert!(!key.matches(&verified()));
    }
}
