//! Fetches the gateway's keys over HTTP when they are needed, and caches them
//! within limits.
//!
//! The address is fixed when the verifier is built, and a token cannot change it.
//! A flood of unknown key identifiers causes at most one fetch per
//! [`MINIMUM_INTERVAL`]. There is no background task: if a request finds that the
//! keys are stale, it fetches them. [`client`] implements HTTP, and this file
//! decides when to fetch.

mod client;
mod location;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderValue, Uri};
use tokio::sync::OwnedMutexGuard;

use self::client::{Answer, HttpClient};
pub(crate) use self::location::Location;
use crate::clock::Clock;
use crate::crypto;
use crate::jose::JwkSet;
use crate::{BuildError, FetchProblem, VerifyError};

/// Minimum number of seconds between two fetches for unknown or stale keys.
const MINIMUM_INTERVAL: u64 = 5;

/// Minimum number of seconds between two fetches while there are no keys at all.
const MINIMUM_INTERVAL_WITHOUT_KEYS: u64 = 1;

/// How many seconds the last good keys may be used after they were last
/// confirmed.
const LAST_GOOD_SECONDS: u64 = 24 * 60 * 60;

/// If a fetch did not find a key identifier, the identifier causes no fetch for
/// this number of seconds.
const UNKNOWN_KEY_SECONDS: u64 = 30;

/// Maximum number of unknown key identifiers that are remembered.
const UNKNOWN_KEYS: usize = 256;

/// The keys at one address.
pub(crate) struct RemoteKeys {
    location: Location,
    client: HttpClient,
    clock: Clock,
    state: Mutex<State>,
    /// Held by the call that fetches. Other calls wait for its result.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct State {
    cached: Option<Cached>,
    /// The `jwks_uri` of the metadata, if it is known.
    key_set_url: Option<Uri>,
    last_attempt: Option<u64>,
    last_problem: Option<FetchProblem>,
    /// Hashes of identifiers that were not found, and the time until which they
    /// are remembered.
    unknown: HashMap<[u8; 32], u64>,
}

struct Cached {
    keys: Arc<JwkSet>,
    entity_tag: Option<HeaderValue>,
    confirmed_at: u64,
    fresh_until: u64,
}

/// The result of a look-up of one key identifier in the cache.
enum Lookup {
    /// The set is fresh, and either has the key or did not have it at a recent
    /// fetch.
    Settled(Arc<JwkSet>),
    /// The set is stale but has the key.
    Stale(Arc<JwkSet>),
    /// A fetch is needed.
    Unsettled,
}

impl RemoteKeys {
    pub(crate) fn new(
        location: Location,
        root_certificates: Option<&[u8]>,
        clock: Clock,
    ) -> Result<Self, BuildError> {
        Ok(Self {
            client: HttpClient::new(location.url(), root_certificates)?,
            location,
            clock,
            state: Mutex::default(),
            turn: Arc::default(),
        })
    }

    /// Returns the cached keys, unless they are too old.
    pub(crate) fn at_hand(&self) -> Result<Arc<JwkSet>, VerifyError> {
        let state = self.state();
        state
            .usable((self.clock)())
            .map(|cached| Arc::clone(&cached.keys))
            .ok_or_else(|| state.unavailable())
    }

    /// Returns the keys for a token that names `key_id`. Fetches them if
    /// necessary.
    pub(crate) async fn for_key(
        self: &Arc<Self>,
        key_id: &str,
    ) -> Result<Arc<JwkSet>, VerifyError> {
        let turn = match self.look_up(key_id) {
            Lookup::Settled(keys) => return Ok(keys),
            // If another call already fetches, the stale keys are used. No call
            // waits for a slow server while the old keys may be used.
            Lookup::Stale(keys) => match Arc::clone(&self.turn).try_lock_owned() {
                Ok(turn) => turn,
                Err(_) => return Ok(keys),
            },
            Lookup::Unsettled => Arc::clone(&self.turn).lock_owned().await,
        };
        // Another call may have fetched while this call waited for its turn.
        if let Lookup::Settled(keys) = self.look_up(key_id) {
            return Ok(keys);
        }
        // An error is recorded in the state. The last good keys may still be
        // usable.
        let fetched = self.may_fetch() && self.fetch(turn).await.is_ok();
        self.after_turn(key_id, fetched)
    }

    /// Fetches the keys, whatever is cached.
    pub(crate) async fn fetch_now(self: &Arc<Self>) -> Result<(), FetchProblem> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        self.fetch(turn).await
    }

    fn look_up(&self, key_id: &str) -> Lookup {
        let now = (self.clock)();
        let state = self.state();
        let Some(cached) = state.usable(now) else {
            return Lookup::Unsettled;
        };
        let keys = Arc::clone(&cached.keys);
        match (has_key(&keys, key_id), now < cached.fresh_until) {
            (true, true) => Lookup::Settled(keys),
            (true, false) => Lookup::Stale(keys),
            (false, true) if state.is_known_unknown(key_id, now) => Lookup::Settled(keys),
            (false, _) => Lookup::Unsettled,
        }
    }

    fn may_fetch(&self) -> bool {
        let now = (self.clock)();
        let state = self.state();
        let interval = if state.usable(now).is_some() {
            MINIMUM_INTERVAL
        } else {
            MINIMUM_INTERVAL_WITHOUT_KEYS
        };
        // If the clock was set to an earlier time, fetching must not stop.
        state
            .last_attempt
            .is_none_or(|last| now.abs_diff(last) >= interval)
    }

    /// Returns the keys or the error after the turn.
    fn after_turn(&self, key_id: &str, fetched: bool) -> Result<Arc<JwkSet>, VerifyError> {
        let now = (self.clock)();
        let mut state = self.state();
        let Some(cached) = state.usable(now) else {
            return Err(state.unavailable());
        };
        let (keys, fresh) = (Arc::clone(&cached.keys), now < cached.fresh_until);
        if !has_key(&keys, key_id) {
            if !fresh {
                // The key may be newer than the cached keys, so that the result
                // is unknown.
                return Err(state.unavailable());
            }
            if fetched {
                state.remember_unknown(key_id, now);
            }
        }
        Ok(keys)
    }

    /// Fetches in a separate task, so that the fetch continues if the calling
    /// request is cancelled.
    async fn fetch(self: &Arc<Self>, turn: OwnedMutexGuard<()>) -> Result<(), FetchProblem> {
        let remote = Arc::clone(self);
        tokio::spawn(async move {
            let outcome = remote.fetch_once().await;
            remote.state().last_problem = outcome.err();
            drop(turn);
            outcome
        })
        .await
        .unwrap_or(Err(FetchProblem::Unreachable))
    }

    async fn fetch_once(&self) -> Result<(), FetchProblem> {
        let entity_tag = {
            let mut state = self.state();
            state.last_attempt = Some((self.clock)());
            state
                .cached
                .as_ref()
                .and_then(|cached| cached.entity_tag.clone())
        };
        let url = self.key_set_url().await?;
        let answer = self.client.get(&url, entity_tag.as_ref()).await?;
        let now = (self.clock)();
        match answer {
            Answer::NotModified { fresh_for } => {
                let mut state = self.state();
                let cached = state.cached.as_mut().ok_or(FetchProblem::Status(304))?;
                cached.confirmed_at = now;
                cached.fresh_until = now.saturating_add(fresh_for);
            }
            Answer::Body {
                octets,
                entity_tag,
                fresh_for,
            } => {
                let keys = JwkSet::from_json(&octets).map_err(FetchProblem::NotKeySet)?;
                let mut state = self.state();
                state.unknown.clear();
                state.cached = Some(Cached {
                    keys: Arc::new(keys),
                    entity_tag,
                    confirmed_at: now,
                    fresh_until: now.saturating_add(fresh_for),
                });
            }
        }
        Ok(())
    }

    /// Returns the address of the key set. Metadata is fetched only once.
    async fn key_set_url(&self) -> Result<Uri, FetchProblem> {
        if let Location::KeySet(url) = &self.location {
            return Ok(url.clone());
        }
        if let Some(url) = &self.state().key_set_url {
            return Ok(url.clone());
        }
        match self.client.get(self.location.url(), None).await? {
            Answer::Body { octets, .. } => {
                let url = self.location.key_set_in_metadata(&octets)?;
                self.state().key_set_url = Some(url.clone());
                Ok(url)
            }
            Answer::NotModified { .. } => Err(FetchProblem::Status(304)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is usable, because changes that belong together are
        // complete before a panic is possible.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn usable(&self, now: u64) -> Option<&Cached> {
        self.cached
            .as_ref()
            .filter(|cached| now < cached.confirmed_at.saturating_add(LAST_GOOD_SECONDS))
    }

    fn unavailable(&self) -> VerifyError {
        VerifyError::KeysUnavailable(self.last_problem.unwrap_or(FetchProblem::NotFetched))
    }

    fn is_known_unknown(&self, key_id: &str, now: u64) -> bool {
        self.unknown
            .get(&crypto::sha256(key_id.as_bytes()))
            .is_some_and(|until| now < *until)
    }

    fn remember_unknown(&mut self, key_id: &str, now: u64) {
        self.unknown.retain(|_, until| now < *until);
        // If the table is full, the minimum interval still limits the fetches.
        if self.unknown.len() < UNKNOWN_KEYS {
            self.unknown.insert(
                crypto::sha256(key_id.as_bytes()),
                now.saturating_add(UNKNOWN_KEY_SECONDS),
            );
        }
    }
}

impl std::fmt::Debug for RemoteKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("RemoteKeys")
            .field("location", &self.location)
            .finish_non_exhaustive()
    }
}

fn has_key(keys: &JwkSet, key_id: &str) -> bool {
    keys.keys().iter().any(|key| key.is_named(key_id))
}
