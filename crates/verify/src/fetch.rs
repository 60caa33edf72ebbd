//! Fetches the gateway's keys over HTTP when they are needed, and caches them.
//!
//! The URL is fixed when the verifier is built, and a token cannot change it. However many tokens
//! name unknown keys, they cause at most one fetch per [`MINIMUM_INTERVAL`]. There is no background
//! task: a call that finds stale keys fetches new keys. If a fetch is running already, other calls
//! that need keys wait for its outcome and share it, even if the fetch fails. Therefore a server
//! that does not respond delays each call by at most one fetch. [`client`] implements HTTP, and
//! this file decides when to fetch.

mod client;
mod location;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderValue, Uri};
use tokio::sync::{Semaphore, watch};

use self::client::{Answer, HttpClient};
pub(crate) use self::location::Location;
use crate::clock::Clock;
use crate::crypto;
use crate::jose::JwkSet;
use crate::{BuildError, FetchProblem, VerifyError};

/// The minimum time between the end of a fetch and the start of the next fetch, in
/// seconds, while there are usable keys.
const MINIMUM_INTERVAL: u64 = 5;

/// The minimum time between two fetches while there are no usable keys, in seconds. Replaces
/// [`MINIMUM_INTERVAL`].
const MINIMUM_INTERVAL_WITHOUT_KEYS: u64 = 1;

/// The maximum age of usable keys, in seconds. The age counts from the last fetch that
/// confirmed the keys.
const LAST_GOOD_SECONDS: u64 = 24 * 60 * 60;

/// If a newly fetched key set does not contain a key identifier, the identifier is remembered for
/// this number of seconds. Tokens with this identifier then cause no fetch.
const UNKNOWN_KEY_SECONDS: u64 = 30;

/// The maximum number of unknown key identifiers that [`State::unknown`] remembers.
const UNKNOWN_KEYS: usize = 256;

/// The maximum number of calls that wait for a fetch that another call started.
const MAX_WAITING: usize = 1024;

/// The maximum time that a call waits for a fetch. A fetch makes at most two requests,
/// one for metadata and one for keys, and normally ends earlier. A fetch takes longer
/// only if its tokio runtime does not run tasks any more.
const WAIT_TIMEOUT: Duration = Duration::from_secs(2 * client::TIMEOUT.as_secs() + 1);

/// Fetches and caches the keys of one gateway.
pub(crate) struct RemoteKeys {
    location: Location,
    client: HttpClient,
    clock: Clock,
    state: Mutex<State>,
    /// One permit for each call that may wait for another call's fetch.
    waiting: Semaphore,
}

#[derive(Default)]
struct State {
    cached: Option<Cached>,
    /// The `jwks_uri` of the metadata. `None` until the metadata was fetched.
    key_set_url: Option<Uri>,
    running: Option<RunningFetch>,
    /// The number of fetches that were started.
    fetches: u64,
    /// The time at which a fetch last started or ended, in seconds since 1970.
    last_attempt: Option<u64>,
    last_problem: Option<FetchProblem>,
    /// The hashes of key identifiers that were not in a key set that was just fetched. The value
    /// is the time until which the identifier is remembered, in seconds since 1970.
    unknown: HashMap<[u8; 32], u64>,
}

struct Cached {
    keys: Arc<JwkSet>,
    entity_tag: Option<HeaderValue>,
    confirmed_at: u64,
    fresh_until: u64,
}

type Outcome = Result<(), FetchProblem>;

/// A fetch that has not ended.
#[derive(Clone)]
struct RunningFetch {
    /// Identifies the fetch among all fetches of one [`RemoteKeys`].
    number: u64,
    /// `None` until the fetch ends.
    outcome: watch::Receiver<Option<Outcome>>,
}

/// A fetch that is recorded in `State::running`, but whose task has not started.
struct NewFetch {
    running: RunningFetch,
    sender: watch::Sender<Option<Outcome>>,
}

/// Records the outcome of a fetch and sends it to the waiting calls when it is dropped.
/// The drop also happens if the task panics or if its runtime ends.
struct FetchEnd {
    remote: Arc<RemoteKeys>,
    number: u64,
    sender: watch::Sender<Option<Outcome>>,
    outcome: Outcome,
}

/// How a call gets the outcome of a fetch.
enum Step {
    /// No fetch is running, so this call starts a fetch.
    Start(NewFetch),
    /// A fetch of another call is running, so this call waits for that fetch.
    Join(RunningFetch),
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
            waiting: Semaphore::new(MAX_WAITING),
        })
    }

    /// Returns the cached keys. Fails if there are none, or if they are older than
    /// [`LAST_GOOD_SECONDS`].
    pub(crate) fn at_hand(&self) -> Result<Arc<JwkSet>, VerifyError> {
        let now = (self.clock)();
        let mut state = self.state();
        state.follow_clock(now);
        state
            .usable(now)
            .map(|cached| Arc::clone(&cached.keys))
            .ok_or_else(|| state.unavailable())
    }

    /// Returns the keys for a token that names `key_id`. Fetches the keys if the cache is
    /// stale or does not contain `key_id`.
    pub(crate) async fn for_key(
        self: &Arc<Self>,
        key_id: &str,
    ) -> Result<Arc<JwkSet>, VerifyError> {
        // If the fetch fails, `keys_for` below returns the error, or the cached keys if they are
        // still usable. Therefore a failed fetch does not end this function.
        let fetched = match self.next_step(key_id) {
            ControlFlow::Break(result) => return result,
            ControlFlow::Continue(Step::Start(fetch)) => self.start(fetch).await.is_ok(),
            ControlFlow::Continue(Step::Join(fetch)) => {
                if self.join(fetch).await == Err(FetchProblem::Busy) {
                    return Err(VerifyError::KeysUnavailable(FetchProblem::Busy));
                }
                // The fetch began before this call, and the gateway may have published the key
                // since then. Only a fetch that began after this call shows that the key is not
                // published.
                false
            }
        };
        let now = (self.clock)();
        self.state().keys_for(key_id, now, fetched)
    }

    /// Fetches the keys, even if the cached keys are fresh. If a fetch is running already,
    /// waits for it and returns its outcome.
    pub(crate) async fn fetch_now(self: &Arc<Self>) -> Outcome {
        let now = (self.clock)();
        let step = self.state().join_or_begin(now);
        match step {
            Step::Start(fetch) => self.start(fetch).await,
            Step::Join(fetch) => self.join(fetch).await,
        }
    }

    /// Returns whether this call starts a fetch or waits for a running fetch. Breaks with the
    /// result if no fetch is needed, or if the minimum interval forbids a fetch.
    fn next_step(&self, key_id: &str) -> ControlFlow<Result<Arc<JwkSet>, VerifyError>, Step> {
        let now = (self.clock)();
        let mut state = self.state();
        state.follow_clock(now);
        if let Some(keys) = state.settled(key_id, now) {
            ControlFlow::Break(Ok(keys))
        } else if state.running.is_some() || state.may_fetch(now) {
            ControlFlow::Continue(state.join_or_begin(now))
        } else {
            ControlFlow::Break(state.keys_for(key_id, now, false))
        }
    }

    /// Fetches in a separate task, so that the fetch continues even if the call is
    /// cancelled.
    async fn start(self: &Arc<Self>, fetch: NewFetch) -> Outcome {
        let running = fetch.running;
        let mut end = FetchEnd {
            remote: Arc::clone(self),
            number: running.number,
            sender: fetch.sender,
            outcome: Err(FetchProblem::Unreachable),
        };
        tokio::spawn(async move {
            let outcome = end.remote.fetch_once(end.number).await;
            end.outcome = outcome;
            // The minimum interval begins when the fetch ends. Otherwise the next call could
            // fetch again immediately after a slow failure.
            let now = (end.remote.clock)();
            end.remote.state().last_attempt = Some(now);
        });
        self.wait(running, WAIT_TIMEOUT).await
    }

    /// Waits for a fetch that another call started. Fails if too many calls wait.
    async fn join(&self, fetch: RunningFetch) -> Outcome {
        let _permit = self.waiting.try_acquire().map_err(|_| FetchProblem::Busy)?;
        self.wait(fetch, WAIT_TIMEOUT).await
    }

    /// Waits for a fetch and returns its outcome. After `limit`, the fetch no longer counts
    /// as running, so that the next call can start another fetch.
    async fn wait(&self, mut fetch: RunningFetch, limit: Duration) -> Outcome {
        let ended = async {
            let outcome = fetch.outcome.wait_for(Option::is_some).await;
            outcome.ok().and_then(|outcome| *outcome)
        };
        match tokio::time::timeout(limit, ended).await {
            Ok(outcome) => outcome.unwrap_or(Err(FetchProblem::Unreachable)),
            Err(_) => {
                let outcome = Err(FetchProblem::TimedOut);
                self.state().end(fetch.number, outcome);
                outcome
            }
        }
    }

    async fn fetch_once(&self, number: u64) -> Outcome {
        let entity_tag = self
            .state()
            .cached
            .as_ref()
            .and_then(|cached| cached.entity_tag.clone());
        let url = self.key_set_url().await?;
        let answer = self.client.get(&url, entity_tag.as_ref()).await?;
        self.store(answer, number)
    }

    fn store(&self, answer: Answer, number: u64) -> Outcome {
        let now = (self.clock)();
        match answer {
            Answer::NotModified { fresh_for } => {
                let mut state = self.lock_for(number)?;
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
                let mut state = self.lock_for(number)?;
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

    /// Returns the URL of the key set. After one successful fetch of the metadata, this URL
    /// comes from the cache.
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

    /// Locks the state so that the fetch with this number can change it. Fails if that fetch timed
    /// out, because a later fetch may have stored newer keys.
    fn lock_for(&self, number: u64) -> Result<MutexGuard<'_, State>, FetchProblem> {
        let state = self.state();
        if state.is_running(number) {
            Ok(state)
        } else {
            Err(FetchProblem::TimedOut)
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is usable, because no code that changes several fields can panic
        // between these changes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns the cached keys if no fetch is needed for a token that names `key_id`.
    fn settled(&self, key_id: &str, now: u64) -> Option<Arc<JwkSet>> {
        let cached = self.usable(now)?;
        let settled = match (has_key(&cached.keys, key_id), now < cached.fresh_until) {
            (true, true) => true,
            // The keys are stale. While a fetch is running, calls use these keys and do not wait
            // for new ones, because the key server may be slow.
            (true, false) => self.running.is_some(),
            (false, true) => self.is_known_unknown(key_id, now),
            (false, false) => false,
        };
        settled.then(|| Arc::clone(&cached.keys))
    }

    fn may_fetch(&self, now: u64) -> bool {
        let interval = if self.usable(now).is_some() {
            MINIMUM_INTERVAL
        } else {
            MINIMUM_INTERVAL_WITHOUT_KEYS
        };
        // After the clock was set back, `last` may be far in the future. `abs_diff` makes sure that
        // fetches are then still possible.
        self.last_attempt
            .is_none_or(|last| now.abs_diff(last) >= interval)
    }

    fn join_or_begin(&mut self, now: u64) -> Step {
        match &self.running {
            Some(fetch) => Step::Join(fetch.clone()),
            None => Step::Start(self.begin(now)),
        }
    }

    /// Records that a fetch is running. The code that calls `begin` must then start this fetch.
    fn begin(&mut self, now: u64) -> NewFetch {
        let (sender, outcome) = watch::channel(None);
        self.fetches = self.fetches.wrapping_add(1);
        self.last_attempt = Some(now);
        let running = RunningFetch {
            number: self.fetches,
            outcome,
        };
        self.running = Some(running.clone());
        NewFetch { running, sender }
    }

    fn is_running(&self, number: u64) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| running.number == number)
    }

    /// Records the outcome of a fetch, unless the fetch timed out before.
    fn end(&mut self, number: u64, outcome: Outcome) {
        if self.is_running(number) {
            self.running = None;
            self.last_problem = outcome.err();
        }
    }

    /// Returns the keys, or the error, for a call that does not fetch again. `fetched` is
    /// true if the keys were fetched after the call began.
    fn keys_for(
        &mut self,
        key_id: &str,
        now: u64,
        fetched: bool,
    ) -> Result<Arc<JwkSet>, VerifyError> {
        let Some(cached) = self.usable(now) else {
            return Err(self.unavailable());
        };
        let (keys, fresh) = (Arc::clone(&cached.keys), now < cached.fresh_until);
        if !has_key(&keys, key_id) {
            if !fresh {
                // The cached keys are stale. The gateway may have published the key since the
                // last fetch, so that "unknown key" could be wrong.
                return Err(self.unavailable());
            }
            if fetched {
                self.remember_unknown(key_id, now);
            }
        }
        Ok(keys)
    }

    /// If the clock was set back, counts the age of the keys from the new time. Otherwise
    /// keys that were fetched while the clock was ahead would stay fresh until the clock
    /// reaches that time again.
    fn follow_clock(&mut self, now: u64) {
        if let Some(cached) = &mut self.cached
            && now < cached.confirmed_at
        {
            let fresh_for = cached.fresh_until.saturating_sub(cached.confirmed_at);
            cached.confirmed_at = now;
            cached.fresh_until = now.saturating_add(fresh_for);
        }
    }

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
            .is_some_and(|until| is_remembered(*until, now))
    }

    fn remember_unknown(&mut self, key_id: &str, now: u64) {
        self.unknown.retain(|_, until| is_remembered(*until, now));
        // If the table is full, `MINIMUM_INTERVAL` still limits the number of fetches.
        if self.unknown.len() < UNKNOWN_KEYS {
            self.unknown.insert(
                crypto::sha256(key_id.as_bytes()),
                now.saturating_add(UNKNOWN_KEY_SECONDS),
            );
        }
    }
}

impl Drop for FetchEnd {
    fn drop(&mut self) {
        self.remote.state().end(self.number, self.outcome);
        self.sender.send_replace(Some(self.outcome));
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

/// Returns whether an unknown key identifier is still remembered. If `until` is more than
/// [`UNKNOWN_KEY_SECONDS`] after `now`, the entry was stored before the clock was set back, and
/// is ignored.
fn is_remembered(until: u64, now: u64) -> bool {
    now < until && until - now <= UNKNOWN_KEY_SECONDS
}

fn has_key(keys: &JwkSet, key_id: &str) -> bool {
    keys.keys().iter().any(|key| key.is_named(key_id))
}
