//! Assertions bound to the caller only, kept for one connection.

use std::sync::{Arc, Mutex, PoisonError};

use crate::assertion::SignedAssertion;
use crate::assertion::signer::SignError;
use crate::policy::Permit;
use crate::route::Route;
use crate::snapshot::Snapshot;

/// Most assertions kept per connection.
const MOST: usize = 16;

/// Re-usable assertions of one connection: its identity never changes, so the
/// route, the signing key and the snapshot are what they depend on.
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
    assertion: SignedAssertion,
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
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|entry| entry.generation == snapshot.generation && entry.fresh_until > now);
        if let Some(entry) = kept
            .iter()
            .find(|entry| Arc::ptr_eq(&entry.route, route) && *entry.kid == *kid)
        {
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
            fresh_until: now + assertion.expires().saturating_sub(now) / 2,
            assertion: assertion.clone(),
        });
        Ok(assertion)
    }
}
