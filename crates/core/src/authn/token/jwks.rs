//! `IssuerKeys`: the public keys of one token issuer, wherever they come from.
//!
//! Fetched keys are cached, refreshed in the background, and asked for again
//! when a token names one that is not there; by one task at a time, never more
//! often than [`MINIMUM_INTERVAL`], whatever is sent to the gateway. When the
//! issuer fails, the last good keys do for [`KeySettings::last_good`], and after
//! that none: there is no key of last resort.
//!
//! Addresses come from the configuration, or from the issuer's metadata on the
//! issuer's own origin; never from a token.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use countersign_verify::jose::JwkSet;
use http::header::ACCEPT;
use http::{Request, Uri};
use http_body_util::Full;
use tokio::sync::OwnedMutexGuard;

use super::key_location::{KeyLocation, freshness, key_set_in_metadata};
use crate::http_client::{FetchError, HttpClient};
use crate::{clock, crypto};

/// Seconds between two fetches that requests can cause.
pub const MINIMUM_INTERVAL: u64 = 5;

/// The same while there are no keys at all.
const MINIMUM_INTERVAL_WITHOUT_KEYS: u64 = 1;

/// Seconds for which a key identifier that a fetch did not find causes none.
const UNKNOWN_KEY_SECONDS: u64 = 30;

/// Unknown key identifiers that are remembered.
const UNKNOWN_KEYS: usize = 256;

/// How long keys are used and how often they are fetched.
#[derive(Debug, Clone, Copy)]
pub struct KeySettings {
    /// How long the last good keys may be used after they were last confirmed.
    pub last_good: Duration,
}

impl Default for KeySettings {
    fn default() -> Self {
        Self {
            last_good: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// Keys, and a number that changes whenever they do.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The keys.
    pub set: Arc<JwkSet>,
    /// Number of this key set, and a part of the key of each cached judgement: if the keys change,
    /// the judgements are void.
    pub generation: u64,
}

/// The keys of one issuer. A clone shares them.
#[derive(Debug, Clone)]
pub struct IssuerKeys(Source);

#[derive(Debug, Clone)]
enum Source {
    Fixed(Keys),
    Remote(Arc<Remote>),
}

#[derive(Debug)]
struct Remote {
    location: KeyLocation,
    client: HttpClient,
    last_good: u64,
    now: fn() -> u64,
    /// The state that requests read, without a lock.
    cached: ArcSwapOption<Cached>,
    state: Mutex<State>,
    /// Held by the task that fetches; the others wait for the outcome.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Whether a task refreshes the keys.
    kept_fresh: AtomicBool,
}

#[derive(Debug)]
struct Cached {
    keys: Keys,
    confirmed_at: u64,
    fresh_until: u64,
}

#[derive(Debug, Default)]
struct State {
    last_attempt: Option<u64>,
    last_error: Option<FetchError>,
    /// Hashed identifiers that were not found, and until when that counts.
    unknown: HashMap<[u8; 32], u64>,
}

/// The result of looking up a key identifier in the cache.
enum Lookup {
    /// Fresh, and it has the key or need not be asked again for it.
    Settled(Keys),
    /// Past its freshness, but it has the key.
    Stale(Keys),
    /// A fetch could help.
    Unsettled,
}

impl IssuerKeys {
    /// Keys that never change: those of `jwks_file`, until the next reload.
    #[must_use]
    pub fn fixed(set: JwkSet) -> Self {
        Self(Source::Fixed(Keys {
            set: Arc::new(set),
            generation: 0,
        }))
    }

    /// Keys that are fetched. Nothing is fetched yet.
    #[must_use]
    pub fn remote(location: KeyLocation, client: HttpClient, settings: KeySettings) -> Self {
        Self::remote_with_clock(location, client, settings, clock::unix_now)
    }

    fn remote_with_clock(
        location: KeyLocation,
        client: HttpClient,
        settings: KeySettings,
        now: fn() -> u64,
    ) -> Self {
        Self(Source::Remote(Arc::new(Remote {
            location,
            client,
            last_good: settings.last_good.as_secs(),
            now,
            cached: ArcSwapOption::empty(),
            state: Mutex::default(),
            turn: Arc::default(),
            kept_fresh: AtomicBool::new(false),
        })))
    }

    /// Returns the keys that may be used now, without fetching. None if there are none.
    #[must_use]
    pub fn at_hand(&self) -> Option<Keys> {
        match &self.0 {
            Source::Fixed(keys) => Some(keys.clone()),
            Source::Remote(remote) => remote
                .usable((remote.now)())
                .map(|cached| cached.keys.clone()),
        }
    }

    /// Returns why there are no keys. None while there are keys.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let Source::Remote(remote) = &self.0 else {
            return None;
        };
        if remote.usable((remote.now)()).is_some() {
            return None;
        }
        Some(match remote.state().last_error {
            Some(error) => format!("its keys cannot be fetched, {error}"),
            None => "its keys have not been fetched yet".to_owned(),
        })
    }

    /// Returns the keys for a token that names `key_id`, fetched if that could help.
    ///
    /// # Errors
    /// [`FetchError`] when there are no keys that could be used.
    pub async fn for_key(&self, key_id: Option<&str>) -> Result<Keys, FetchError> {
        match &self.0 {
            Source::Fixed(keys) => Ok(keys.clone()),
            Source::Remote(remote) => remote.for_key(key_id).await,
        }
    }

    /// Returns the number of the key set that may be used now. Cached judgements with another
    /// number are void. None if no keys may be used: then judgements with earlier keys are void
    /// too.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        match &self.0 {
            Source::Fixed(keys) => Some(keys.generation),
            Source::Remote(remote) => {
                let cached = remote.cached.load();
                let cached = cached.as_ref()?;
                let usable = remote.is_usable(cached, (remote.now)());
                usable.then_some(cached.keys.generation)
            }
        }
    }

    /// Fetches the keys now. Used for `required_at_start`, and if an operator asks for it.
    ///
    /// # Errors
    /// [`FetchError`]; the earlier keys stay in use.
    pub async fn fetch(&self) -> Result<(), FetchError> {
        match &self.0 {
            Source::Fixed(_) => Ok(()),
            Source::Remote(remote) => {
                let turn = Arc::clone(&remote.turn).lock_owned().await;
                remote.fetch(turn).await
            }
        }
    }

    /// Fetches on this runtime from now on, and keeps the keys fresh there, in a
    /// task that ends when the keys are dropped. Requests do not wait for it.
    pub fn refresh_in_background(&self, runtime: &tokio::runtime::Handle) {
        let Source::Remote(remote) = &self.0 else {
            return;
        };
        remote.client.run_on(runtime);
        if remote.kept_fresh.swap(true, Ordering::Relaxed) {
            return;
        }
        let remote = Arc::downgrade(remote);
        runtime.spawn(async move {
            loop {
                let Some(strong) = remote.upgrade() else {
                    return;
                };
                let wait = strong.seconds_until_refresh();
                if wait == 0 {
                    let turn = Arc::clone(&strong.turn).lock_owned().await;
                    if let Err(error) = strong.fetch(turn).await {
                        tracing::warn!(%error, "the keys of a token issuer cannot be fetched");
                    }
                }
                drop(strong);
                let seconds = wait.clamp(MINIMUM_INTERVAL, 60);
                tokio::time::sleep(Duration::from_secs(seconds)).await;
            }
        });
    }
}

impl Remote {
    async fn for_key(self: &Arc<Self>, key_id: Option<&str>) -> Result<Keys, FetchError> {
        let turn = match self.look_up(key_id) {
            Lookup::Settled(keys) => return Ok(keys),
            Lookup::Stale(keys) => {
                // No request waits for a slow issuer while its old keys may be used.
                if self.may_fetch()
                    && let Ok(turn) = Arc::clone(&self.turn).try_lock_owned()
                {
                    let remote = Arc::clone(self);
                    tokio::spawn(async move { remote.fetch(turn).await });
                }
                return Ok(keys);
            }
            Lookup::Unsettled => Arc::clone(&self.turn).lock_owned().await,
        };
        // Another task may have fetched while this call waited for its turn.
        if let Lookup::Settled(keys) | Lookup::Stale(keys) = self.look_up(key_id) {
            return Ok(keys);
        }
        let fetched = self.may_fetch() && self.fetch(turn).await.is_ok();
        self.after_turn(key_id, fetched)
    }

    fn look_up(&self, key_id: Option<&str>) -> Lookup {
        let now = (self.now)();
        let Some(cached) = self.usable(now) else {
            return Lookup::Unsettled;
        };
        let keys = cached.keys.clone();
        let fresh = now < cached.fresh_until;
        match (has_key(&keys.set, key_id), fresh) {
            (true, true) => Lookup::Settled(keys),
            (true, false) => Lookup::Stale(keys),
            (false, true) if self.is_known_unknown(key_id, now) => Lookup::Settled(keys),
            (false, _) => Lookup::Unsettled,
        }
    }

    /// Returns the keys after this request's turn, or why there are none.
    fn after_turn(&self, key_id: Option<&str>, fetched: bool) -> Result<Keys, FetchError> {
        let now = (self.now)();
        let Some(cached) = self.usable(now) else {
            return Err(self.state().last_error.unwrap_or(FetchError::Unreachable));
        };
        if !has_key(&cached.keys.set, key_id) {
            if now >= cached.fresh_until {
                // The token may be signed with a newer key, which cannot be known without a fetch.
                return Err(self.state().last_error.unwrap_or(FetchError::Unreachable));
            }
            if fetched {
                self.remember_unknown(key_id, now);
            }
        }
        Ok(cached.keys.clone())
    }

    fn usable(&self, now: u64) -> Option<Arc<Cached>> {
        self.cached
            .load_full()
            .filter(|cached| self.is_usable(cached, now))
    }

    const fn is_usable(&self, cached: &Cached, now: u64) -> bool {
        now < cached.confirmed_at.saturating_add(self.last_good)
    }

    fn may_fetch(&self) -> bool {
        let now = (self.now)();
        let interval = match self.usable(now) {
            Some(_) => MINIMUM_INTERVAL,
            None => MINIMUM_INTERVAL_WITHOUT_KEYS,
        };
        // A clock that was set back must not stop fetching.
        self.state()
            .last_attempt
            .is_none_or(|last| now.abs_diff(last) >= interval)
    }

    /// Returns the time until the next refresh: shortly before the keys become stale, so that no
    /// request has to wait.
    fn seconds_until_refresh(&self) -> u64 {
        let now = (self.now)();
        self.usable(now).map_or(0, |cached| {
            let lifetime = cached.fresh_until.saturating_sub(cached.confirmed_at);
            cached
                .fresh_until
                .saturating_sub(lifetime / 5)
                .saturating_sub(now)
        })
    }

    /// Fetches in a separate task: if the caller disconnects, the next one must not have to start
    /// again.
    async fn fetch(self: &Arc<Self>, turn: OwnedMutexGuard<()>) -> Result<(), FetchError> {
        let remote = Arc::clone(self);
        tokio::spawn(async move {
            let outcome = remote.fetch_once().await;
            remote.state().last_error = outcome.err();
            drop(turn);
            outcome
        })
        .await
        .unwrap_or(Err(FetchError::Unreachable))
    }

    async fn fetch_once(&self) -> Result<(), FetchError> {
        self.state().last_attempt = Some((self.now)());
        let url = self.key_set_url().await?;
        let response = self.client.send(get(&url)?, ()).await?;
        let set = JwkSet::from_json(&response.body).map_err(|_| FetchError::NotJson)?;
        let now = (self.now)();
        let earlier = self.cached.load_full();
        let keys = match earlier {
            // The same keys again leave cached judgements as they are.
            Some(earlier) if *earlier.keys.set == set => earlier.keys.clone(),
            earlier => Keys {
                set: Arc::new(set),
                generation: earlier.map_or(0, |earlier| earlier.keys.generation) + 1,
            },
        };
        self.state().unknown.clear();
        // Limits the freshness that the issuer states, so that another attempt is possible before
        // the keys must not be used any more.
        let fresh = freshness(&response.headers).min(self.last_good / 2);
        self.cached.store(Some(Arc::new(Cached {
            keys,
            confirmed_at: now,
            fresh_until: now.saturating_add(fresh),
        })));
        Ok(())
    }

    /// Returns the address of the key set; metadata are read each time, since an issuer may move
    /// its keys.
    async fn key_set_url(&self) -> Result<Uri, FetchError> {
        let (issuer, urls) = match &self.location {
            KeyLocation::KeySet(url) => return Ok(url.clone()),
            KeyLocation::Metadata { issuer, urls } => (issuer, urls),
        };
        let mut outcome = Err(FetchError::Unreachable);
        for url in urls {
            outcome = match self.client.send(get(url)?, ()).await {
                Ok(response) => key_set_in_metadata(issuer, url, &response.body),
                Err(error) => Err(error),
            };
            // Tries the next address only if the response is 404.
            if !matches!(outcome, Err(FetchError::Status(404))) {
                break;
            }
        }
        outcome
    }

    fn is_known_unknown(&self, key_id: Option<&str>, now: u64) -> bool {
        self.state()
            .unknown
            .get(&crypto::sha256(key_id.unwrap_or_default().as_bytes()))
            .is_some_and(|until| now < *until)
    }

    fn remember_unknown(&self, key_id: Option<&str>, now: u64) {
        let mut state = self.state();
        state.unknown.retain(|_, until| now < *until);
        // When the map is full the minimum interval still bounds the fetches.
        if state.unknown.len() < UNKNOWN_KEYS {
            state.unknown.insert(
                crypto::sha256(key_id.unwrap_or_default().as_bytes()),
                now.saturating_add(UNKNOWN_KEY_SECONDS),
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before the lock is released.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn has_key(keys: &JwkSet, key_id: Option<&str>) -> bool {
    match key_id {
        Some(key_id) => keys.keys().iter().any(|key| key.is_named(key_id)),
        None => !keys.is_empty(),
    }
}

fn get(url: &Uri) -> Result<Request<Full<Bytes>>, FetchError> {
    Request::get(url.clone())
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .body(Full::default())
        .map_err(|_| FetchError::Unreachable)
}

#[cfg(test)]
#[path = "jwks_tests.rs"]
mod tests;
