//! Assertions bound to the caller only, kept for one connection.

use std::sync::{Arc, Mutex, PoisonError};

use crate::assertion::SignedAssertion;
use crate::assertion::signer::SignError;
use crate::identity::{ApiKeyUse, Principal};
use crate::policy::Permit;
use crate::route::Route;
use crate::snapshot::Snapshot;

/// Most assertions kept per connection.
const MOST: usize = 16;

/// Re-usable assertions of one connection: its certificate never changes, so the
/// route, the other credentials of the request, the signing key and the snapshot
/// are what they depend on.
#[derive(Debug, Default)]
pub(crate) struct CallerAssertions {
    kept: Mutex<Vec<Kept>>,
}

#[derive(Debug)]
struct Kept {
    route: Arc<Route>,
    generation: u64,
    kid: Box<str>,
    fresh_until: u64,
    basis: Basis,
    assertion: SignedAssertion,
}

/// What a caller brought along beside the connection's certificate.
#[derive(Debug)]
struct Basis {
    token: Option<String>,
    api_key: Option<ApiKeyUse>,
    certified: bool,
}

impl Basis {
    fn of(principal: &Principal) -> Self {
        Self {
            token: principal.token().map(|token| token.hash.clone()),
            api_key: principal.api_key().cloned(),
            certified: principal.peer().is_some(),
        }
    }

    fn is_that_of(&self, principal: &Principal) -> bool {
        self.token.as_ref() == principal.token().map(|token| &token.hash)
            && self.api_key.as_ref() == principal.api_key()
            && self.certified == principal.peer().is_some()
    }
}

impl CallerAssertions {
    /// The assertion for a route: a kept one until half its lifetime has passed.
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
        let principal = permit.principal().ok_or(SignError::Nobody)?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|entry| entry.generation == snapshot.generation && entry.fresh_until > now);
        if let Some(entry) = kept.iter().find(|entry| {
            Arc::ptr_eq(&entry.route, route)
                && *entry.kid == *kid
                && entry.basis.is_that_of(principal)
        }) {
            return Ok(entry.assertion.clone());
        }
        let assertion = snapshot.signer.sign_caller(permit, &route.audience, now)?;
        if kept.len() >= MOST {
            kept.remove(0);
        }
        kept.push(Kept {
            route: Arc::clone(route),
            generation: snapshot.generation,
            kid: kid.into(),
            basis: Basis::of(principal),
            fresh_until: now + assertion.expires().saturating_sub(now) / 2,
            assertion: assertion.clone(),
        });
        Ok(assertion)
    }
}
