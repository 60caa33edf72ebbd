//! `IssuerKeys`: the public keys of one token issuer, fixed or fetched.
//!
//! Fetched keys are cached and refreshed in the background. The keys are also fetched if a token
//! names an unknown key. Only one task fetches at a time, and requests cause at most one fetch in
//! [`MINIMUM_INTERVAL`]. If fetching fails, the last good keys may be used for
//! [`KeySettings::last_good`]. After that there are no keys, and tokens cannot be checked.
//!
//! The address of the keys comes from the configuration, or from the issuer's metadata on the
//! issuer's own origin. It never comes from a token.

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

/// Minimum time in seconds between two fetches that requests cause.
pub const MINIMUM_INTERVAL: u64 = 5;

/// Minimum time in seconds between two fetches that requests cause, while there are no usable keys.
const MINIMUM_INTERVAL_WITHOUT_KEYS: u64 = 1;

/// If a fetch did not find a key identifier, that identifier causes no further fetch for this
/// number of seconds.
const UNKNOWN_KEY_SECONDS: u64 = 30;

/// Maximum number of unknown key identifiers that are remembered.
const UNKNOWN_KEYS: usize = 256;

/// How long fetched keys may be used.
#[derive(Debug, Clone, Copy)]
pub struct KeySettings {
    /// How long keys may be used after the last successful fetch.
    pub last_good: Duration,
}

impl Default for KeySettings {
    fn default() -> Self {
        Self {
            last_good: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// A key set, and a number that changes with the keys.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The keys themselves.
    pub set: Arc<JwkSet>,
    /// The number of this key set. The key of each cached judgement contains it, so that a change
    /// of the keys invalidates the judgements.
    pub generation: u64,
}

/// The keys of one issuer. Clones share the same keys.
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
    /// The fetched keys. Requests read them without a lock.
    cached: ArcSwapOption<Cached>,
    state: Mutex<State>,
    /// The lock of the task that fetches the keys. Other tasks wait for the lock and then use the
    /// fetched keys.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Whether a background task refreshes the keys.
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
    /// Hashes of key identifiers that were not found, and the times until which they cause no
    /// fetch.
    unknown: HashMap<[u8; 32], u64>,
}

/// The result of looking up a key identifier in the fetched keys.
enum Lookup {
    /// No fetch is needed: the key set is fresh, and contains the key or is known not to contain
    /// it.
    Settled(Keys),
    /// The key set contains the key, but is not fresh any more.
    Stale(Keys),
    /// There is no usable key set, or a newer key set may contain the key. A fetch may find the
    /// key.
    Unsettled,
}

impl IssuerKeys {
    /// Creates keys from `jwks_file`. They do not change until the next reload.
    #[must_use]
    pub fn fixed(set: JwkSet) -> Self {
        Self(Source::Fixed(Keys {
            set: Arc::new(set),
            generation: 0,
        }))
    }

    /// Creates keys that are fetched from `location`. Fetches nothing yet.
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

    /// Returns the keys that may be used now, without fetching. Returns `None` if there are none.
    #[must_use]
    pub fn at_hand(&self) -> Option<Keys> {
        match &self.0 {
            Source::Fixed(keys) => Some(keys.clone()),
            Source::Remote(remote) => remote
                .usable((remote.now)())
                .map(|cached| cached.keys.clone()),
        }
    }

    /// Returns the reason why there are no usable keys. Returns `None` if there are keys.
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

    /// Returns the keys for a token that names `key_id`. Fetches them if the key may be in a newer
    /// key set.
    ///
    /// # Errors
    /// [`FetchError`] if there are no usable keys.
    pub async fn for_key(&self, key_id: Option<&str>) -> Result<Keys, FetchError> {
        match &self.0 {
            Source::Fixed(keys) => Ok(keys.clone()),
            Source::Remote(remote) => remote.for_key(key_id).await,
        }
    }

    /// Returns the number of the key set that may be used now. Cached judgements with another
    /// number are invalid. Returns `None` if there are no usable keys. In this case, all cached
    /// judgements are invalid.
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

    /// Fetches the keys now. Used for `required_at_start`, and if an operator requests it.
    ///
    /// # Errors
    /// [`FetchError`]. The earlier keys then stay in use.
    pub async fn fetch(&self) -> Result<(), FetchError> {
        match &self.0 {
            Source::Fixed(_) => Ok(()),
            Source::Remote(remote) => {
                let turn = Arc::clone(&remote.turn).lock_owned().await;
                remote.fetch(turn).await
            }
        }
    }

    /// Sets the runtime on which keys are fetched. Also starts a task on this runtime that keeps
    /// the keys fresh until they are dropped. Requests do not wait for that task.
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
                // While the old keys may be used, no request waits for a slow issuer.
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
        // Another task may have fetched the keys while this task waited for `turn`.
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

    /// Returns the keys after this task has tried to fetch them. Returns an error if there are no
    /// usable keys. `fetched` is true if the fetch succeeded.
    fn after_turn(&self, key_id: Option<&str>, fetched: bool) -> Result<Keys, FetchError> {
        let now = (self.now)();
        let Some(cached) = self.usable(now) else {
            return Err(self.state().last_error.unwrap_or(FetchError::Unreachable));
        };
        if !has_key(&cached.keys.set, key_id) {
            if now >= cached.fresh_until {
                // The keys are not fresh, and could not be fetched now. The issuer may have a newer
                // key set with this key, so the key is not reported as unknown.
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
        // If the clock was set back, `last` is in the future. The absolute difference allows
        // fetches in that case too.
        self.state()
            .last_attempt
            .is_none_or(|last| now.abs_diff(last) >= interval)
    }

    /// Returns the time in seconds until the next refresh. The refresh comes shortly before the
    /// keys stop being fresh, so that no request has to wait.
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

    /// Fetches in a separate task. If the caller disconnects, the fetch continues, and the next
    /// request can use its result.
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
            // If the fetched keys are equal to the earlier keys, `generation` does not change.
            // Cached judgements therefore stay valid.
            Some(earlier) if *earlier.keys.set == set => earlier.keys.clone(),
            earlier => Keys {
                set: Arc::new(set),
                generation: earlier.map_or(0, |earlier| earlier.keys.generation) + 1,
            },
        };
        self.state().unknown.clear();
        // Keys count as fresh for at most half of `last_good`. If the refresh after that fails,
        // there is time for a second attempt before the keys become unusable.
        let fresh = freshness(&response.headers).min(self.last_good / 2);
        self.cached.store(Some(Arc::new(Cached {
            keys,
            confirmed_at: now,
            fresh_until: now.saturating_add(fresh),
        })));
        Ok(())
    }

    /// Returns the address of the key set. Reads the metadata for each fetch, because an issuer may
    /// change the address of its keys.
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
            // Tries the next address only if the response has status 404.
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
        // If `unknown` is full, `MINIMUM_INTERVAL` still limits the fetches.
        if state.unknown.len() < UNKNOWN_KEYS {
            state.unknown.insert(
                crypto::sha256(key_id.unwrap_or_default().as_bytes()),
                now.saturating_add(UNKNOWN_KEY_SECONDS),
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is safe to use, because every change is complete before the lock is
        // released.
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
