//! The gateway's keys over HTTP: fetched when needed, cached, and bounded.
//!
//! What it fetches is fixed when the verifier is built; nothing in a token can
//! choose an address, and a flood of unknown key identifiers causes one request
//! per [`MINIMUM_INTERVAL`]. There is no background task: a request that finds
//! the keys stale refreshes them. [`client`] speaks HTTP, this file decides when.

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

/// Seconds between two fetches that unknown or stale keys cause.
const MINIMUM_INTERVAL: u64 = 5;

/// Seconds between two fetches while there are no keys at all.
const MINIMUM_INTERVAL_WITHOUT_KEYS: u64 = 1;

/// Seconds that the last good keys may be used after they were last confirmed.
const LAST_GOOD_SECONDS: u64 = 24 * 60 * 60;

/// Seconds for which a key identifier that a fetch did not find causes none.
const UNKNOWN_KEY_SECONDS: u64 = 30;

/// Unknown key identifiers that are remembered.
const UNKNOWN_KEYS: usize = 256;

/// The keys behind one address.
pub(crate) struct RemoteKeys {
    location: Location,
    client: HttpClient,
    clock: Clock,
    state: Mutex<State>,
    /// Held by whoever fetches; the others wait for the outcome.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct State {
    cached: Option<Cached>,
    /// The `jwks_uri` of the metadata, once known.
    key_set_url: Option<Uri>,
    last_attempt: Option<u64>,
    last_problem: Option<FetchProblem>,
    /// Hashed identifiers that were not found, and until when that counts.
    unknown: HashMap<[u8; 32], u64>,
}

struct Cached {
    keys: Arc<JwkSet>,
    entity_tag: Option<HeaderValue>,
    confirmed_at: u64,
    fresh_until: u64,
}

/// What the cache can say about one key identifier.
enum Lookup {
    /// The set is fresh and has it, or need not be asked again for it.
    Settled(Arc<JwkSet>),
    /// The set is past its freshness but has the key.
    Stale(Arc<JwkSet>),
    /// A fetch could help.
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

    /// The cached keys, unless they are too old to be used.
    pub(crate) fn at_hand(&self) -> Result<Arc<JwkSet>, VerifyError> {
        let state = self.state();
        state
            .usable((self.clock)())
            .map(|cached| Arc::clone(&cached.keys))
            .ok_or_else(|| state.unavailable())
    }

    /// The keys for a token that names `key_id`, fetched if that could help.
    pub(crate) async fn for_key(
        self: &Arc<Self>,
        key_id: &str,
    ) -> Result<Arc<JwkSet>, VerifyError> {
        let turn = match self.look_up(key_id) {
            Lookup::Settled(keys) => return Ok(keys),
            // Whoever fetches already will do; nobody waits for a slow server
            // while the old keys may be used.
            Lookup::Stale(keys) => match Arc::clone(&self.turn).try_lock_owned() {
                Ok(turn) => turn,
                Err(_) => return Ok(keys),
            },
            Lookup::Unsettled => Arc::clone(&self.turn).lock_owned().await,
        };
        // Somebody may have fetched while this call waited for its turn.
        if let Lookup::Settled(keys) = self.look_up(key_id) {
            return Ok(keys);
        }
        // A problem is in the state, and the last good keys may still do.
        let fetched = self.may_fetch() && self.fetch(turn).await.is_ok();
        self.after_turn(key_id, fetched)
    }

    /// Fetches regardless of what is cached.
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
        // A clock that was set back must not stop fetching.
        state
            .last_attempt
            .is_none_or(|last| now.abs_diff(last) >= interval)
    }

    /// What is known once the turn is over.
    fn after_turn(&self, key_id: &str, fetched: bool) -> Result<Arc<JwkSet>, VerifyError> {
        let now = (self.clock)();
        let mut state = self.state();
        let Some(cached) = state.usable(now) else {
            return Err(state.unavailable());
        };
        let (keys, fresh) = (Arc::clone(&cached.keys), now < cached.fresh_until);
        if !has_key(&keys, key_id) {
            if !fresh {
                // The key may be newer than these keys: nobody can tell.
                return Err(state.unavailable());
            }
            if fetched {
                state.remember_unknown(key_id, now);
            }
        }
        Ok(keys)
    }

    /// Fetches in a task of its own: a caller that goes away must not make the
    /// next one start again.
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

    /// The address of the key set; for metadata, asked for once.
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
        // Every change is complete before the lock is released.
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
        // When there is no room the minimum interval still bounds the fetches.
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
