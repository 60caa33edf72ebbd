//! Rate limits: the generic cell rate algorithm (GCRA, ITU-T I.371) over a table of fixed size.
//!
//! The state of a key is one number, the *theoretical arrival time* of its next conforming request.
//! The algorithm needs no timers and no counters for time windows. The table is allocated once and
//! consists of buckets, each with 8 slots and one lock. A key needs one slot, which takes 17 bytes
//! including its part of the lock. 1,000,000 slots need 17 MB. A table for 1,000,000 keys needs 36
//! MB, because [`RateTable::new`] doubles the number of slots and rounds it up to a power of two.
//!
//! If a bucket is full, a new key evicts the key that has used the least of its limit. An evicted
//! key gets its full limit again. An attacker who floods the table with keys can therefore only
//! evict keys that have hardly used their limit. Memory and time for each request do not grow.

use std::fmt;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Number of slots of one bucket.
const SLOTS: usize = 8;

/// A rate limit: the number of requests in a time window, and the size of a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RateLimit {
    requests: u32,
    window: Duration,
    burst: u32,
}

impl fmt::Display for RateLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} in {:?}", self.requests, self.window)?;
        if self.burst != self.requests {
            write!(formatter, ", burst {}", self.burst)?;
        }
        Ok(())
    }
}

/// The error for a limit that would refuse all requests, or that the algorithm cannot represent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLimit {
    /// The limit would never allow a request.
    #[error("requests and burst must be at least 1")]
    Zero,
    /// The window is too short or too long.
    #[error("the window must lie between 1 ms and 1 day")]
    Window,
    /// The interval between requests would be less than a nanosecond.
    #[error("more requests than nanoseconds in the window")]
    TooMany,
}

impl RateLimit {
    /// The default limit for failed authentications from one address.
    pub const FAILED_AUTHENTICATION: Self = Self {
        requests: 60,
        window: Duration::from_secs(60),
        burst: 60,
    };

    /// Creates a limit of `requests` in each `window`. Up to `burst` requests may come immediately
    /// after one another.
    ///
    /// # Errors
    /// Returns [`BadLimit`] if the limit would refuse all requests or cannot be represented.
    pub fn new(requests: u32, window: Duration, burst: u32) -> Result<Self, BadLimit> {
        if requests == 0 || burst == 0 {
            return Err(BadLimit::Zero);
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(86_400)).contains(&window) {
            return Err(BadLimit::Window);
        }
        let limit = Self {
            requests,
            window,
            burst,
        };
        if limit.interval() == 0 {
            return Err(BadLimit::TooMany);
        }
        Ok(limit)
    }

    /// Returns the time between two requests at the permitted rate, in nanoseconds.
    pub(super) fn interval(&self) -> u64 {
        nanoseconds(self.window) / u64::from(self.requests)
    }

    /// Returns how far the theoretical arrival time of a key may be in the future, in nanoseconds.
    /// It is the interval multiplied by the burst.
    pub(super) fn tolerance(&self) -> u64 {
        self.interval().saturating_mul(u64::from(self.burst))
    }
}

/// The decision about one request, and the state of the limit after the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the request is within the limit.
    pub allowed: bool,
    /// The number of further requests that would be allowed now.
    pub remaining: u32,
    /// The time until the full burst is available again.
    pub reset: Duration,
    /// The time until the next request is allowed. Zero if this request is allowed.
    pub retry_after: Duration,
}

impl Verdict {
    /// Returns the value of `Retry-After`: whole seconds, rounded up, at least one.
    #[must_use]
    pub fn retry_after_seconds(&self) -> u64 {
        seconds_up(self.retry_after).max(1)
    }

    /// Returns the value of the `RateLimit` field (draft-ietf-httpapi-ratelimit-headers). `policy`
    /// is the name of the limit.
    #[must_use]
    pub fn field(&self, policy: &str) -> String {
        let reset = seconds_up(self.reset);
        format!("\"{policy}\";r={};t={reset}", self.remaining)
    }
}

impl RateLimit {
    /// Returns the value of the `RateLimit-Policy` field. `policy` is the name of the limit.
    #[must_use]
    pub fn policy_field(&self, policy: &str) -> String {
        let window = seconds_up(self.window).max(1);
        format!("\"{policy}\";q={};w={window}", self.requests)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// The hash of the key, computed with a secret of this process. 0 if the slot is free.
    key: u64,
    /// The theoretical arrival time of the key, in nanoseconds since `RateTable::origin`.
    arrival: u64,
}

/// A table with the state of many keys.
#[derive(Debug)]
pub struct RateTable {
    buckets: Box<[Mutex<[Slot; SLOTS]>]>,
    /// Hashes keys with a random secret, so that callers cannot choose keys that share a bucket.
    hasher: RandomState,
    origin: Instant,
}

impl RateTable {
    /// Creates a table for `keys` keys. The table has at least two slots for each key, so that a
    /// bucket is rarely full.
    #[must_use]
    pub fn new(keys: usize) -> Self {
        Self {
            buckets: (0..Self::capacity_for(keys) / SLOTS)
                .map(|_| Mutex::default())
                .collect(),
            hasher: RandomState::new(),
            origin: Instant::now(),
        }
    }

    /// Returns the number of slots of a table for `keys` keys.
    #[must_use]
    pub fn capacity_for(keys: usize) -> usize {
        let buckets = (keys.saturating_mul(2) / SLOTS).max(1).next_power_of_two();
        buckets.saturating_mul(SLOTS)
    }

    /// Returns the number of slots.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.buckets.len().saturating_mul(SLOTS)
    }

    /// Returns the memory of the table in bytes. It never changes.
    #[must_use]
    pub const fn memory(&self) -> usize {
        size_of::<Mutex<[Slot; SLOTS]>>().saturating_mul(self.buckets.len())
    }

    /// Counts one request of `key` against `limit`. The calling code chooses the parts of the key,
    /// for example a limit's identifier and a caller. Keys of different limits must differ.
    pub fn take(&self, key: &impl Hash, limit: &RateLimit) -> Verdict {
        self.decide(key, limit, self.now(), true)
    }

    /// Returns the result that [`Self::take`] would return, but counts no request. A limit on
    /// failures uses this method to check whether a further attempt is allowed.
    pub fn peek(&self, key: &impl Hash, limit: &RateLimit) -> Verdict {
        self.decide(key, limit, self.now(), false)
    }

    fn now(&self) -> u64 {
        nanoseconds(self.origin.elapsed())
    }

    fn decide(&self, key: &impl Hash, limit: &RateLimit, now: u64, count: bool) -> Verdict {
        let hash = self.hasher.hash_one(key);
        let index = (hash >> 32) as usize & (self.buckets.len() - 1);
        let Some(bucket) = self.buckets.get(index) else {
            return verdict(now, now, limit, false);
        };
        // A poisoned lock is safe to use, because every change is complete before the lock is
        // released.
        let mut slots = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        // Zero marks a free slot, so the hash 0 becomes 1. One key in 2^64 therefore shares a slot
        // with another key.
        let key = hash.max(1);
        let found = slots.iter().position(|slot| slot.key == key);
        let arrival = found
            .and_then(|at| slots.get(at))
            .map_or(now, |slot| slot.arrival.max(now));
        let (allowed, next) = conforms(arrival, now, limit.interval(), limit.tolerance());
        if !allowed || !count {
            return verdict(arrival, now, limit, allowed);
        }
        let victim = || {
            slots
                .iter()
                .enumerate()
                .min_by_key(|(_, slot)| slot.arrival)
        };
        let at = found.or_else(|| victim().map(|(at, _)| at));
        if let Some(slot) = at.and_then(|at| slots.get_mut(at)) {
            *slot = Slot { key, arrival: next };
        }
        verdict(next, now, limit, true)
    }
}

/// Returns whether a request conforms to its limit, and the key's theoretical arrival time after
/// the request. All arguments must have the same unit.
#[must_use]
pub const fn conforms(arrival: u64, now: u64, interval: u64, tolerance: u64) -> (bool, u64) {
    let from = if arrival > now { arrival } else { now };
    let next = from.saturating_add(interval);
    (next.saturating_sub(now) <= tolerance, next)
}

/// Returns the verdict for a key whose theoretical arrival time is `arrival`.
pub(super) fn verdict(arrival: u64, now: u64, limit: &RateLimit, allowed: bool) -> Verdict {
    let (ahead, interval, tolerance) = (
        arrival.saturating_sub(now),
        limit.interval(),
        limit.tolerance(),
    );
    let remaining = tolerance.saturating_sub(ahead) / interval.max(1);
    let wait = if allowed {
        0
    } else {
        ahead.saturating_add(interval).saturating_sub(tolerance)
    };
    Verdict {
        allowed,
        remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
        reset: Duration::from_nanos(ahead),
        retry_after: Duration::from_nanos(wait),
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn seconds_up(duration: Duration) -> u64 {
    let whole = duration.as_secs();
    if duration.subsec_nanos() == 0 {
        whole
    } else {
        whole.saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn limit(requests: u32, seconds: u64, burst: u32) -> RateLimit {
        RateLimit::new(requests, Duration::from_secs(seconds), burst).unwrap()
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let table = RateTable::new(100);
        let limit = limit(10, 1, 5);
        let at = |now| table.decide(&"a", &limit, now, true);
        for left in (0..5).rev() {
            let verdict = at(0);
            assert!(verdict.allowed);
            assert_eq!(verdict.remaining, left);
        }
        let refused = at(0);
        assert!(!refused.allowed);
        assert_eq!(refused.retry_after, Duration::from_millis(100));
        assert_eq!(refused.retry_after_seconds(), 1);
        assert!(!at(SECOND / 10 - 1).allowed);
        assert!(at(SECOND / 10).allowed);
        assert!(!at(SECOND / 10).allowed);
        // Refused requests do not count. Therefore the full burst is available again after two
        // seconds.
        assert_eq!(at(2 * SECOND).remaining, 4);
        assert!(table.decide(&"b", &limit, 0, true).allowed);
    }

    #[test]
    fn the_rate_is_kept_over_time() {
        let table = RateTable::new(100);
        let limit = limit(100, 1, 20);
        let allowed = (0..100_000)
            .filter(|step| {
                table
                    .decide(&1, &limit, step * SECOND / 10_000, true)
                    .allowed
            })
            .count();
        assert!((1000..=1021).contains(&allowed), "{allowed}");
    }

    #[test]
    fn asking_counts_nothing() {
        let table = RateTable::new(100);
        let limit = limit(1, 60, 1);
        for _ in 0..10 {
            assert!(table.peek(&"a", &limit).allowed);
        }
        assert!(table.take(&"a", &limit).allowed);
        assert!(!table.peek(&"a", &limit).allowed);
        assert!(!table.take(&"a", &limit).allowed);
    }

    #[test]
    fn fields_are_as_the_draft_writes_them() {
        let limit = limit(100, 1, 200);
        assert_eq!(limit.policy_field("caller"), "\"caller\";q=100;w=1");
        let verdict = RateTable::new(1).decide(&"a", &limit, 0, true);
        assert_eq!(verdict.field("caller"), "\"caller\";r=199;t=1");
    }

    #[test]
    fn senseless_limits_are_refused() {
        let new = |requests, window, burst| RateLimit::new(requests, window, burst).unwrap_err();
        let second = Duration::from_secs(1);
        assert_eq!(new(0, second, 1), BadLimit::Zero);
        assert_eq!(new(1, second, 0), BadLimit::Zero);
        assert_eq!(new(1, Duration::ZERO, 1), BadLimit::Window);
        assert_eq!(new(1, second * 100_000, 1), BadLimit::Window);
        assert_eq!(new(u32::MAX, second, 1), BadLimit::TooMany);
    }

    #[test]
    fn a_million_keys_take_the_memory_that_is_stated() {
        let table = RateTable::new(1_000_000);
        assert!(table.memory() <= 36_000_000, "{}", table.memory());
        let limit = limit(1, 3600, 1);
        let started = Instant::now();
        let refused = (0..1_000_000_u32)
            .filter(|key| !table.take(key, &limit).allowed)
            .count();
        let each = started.elapsed() / 1_000_000;
        assert_eq!(refused, 0);
        // Only few of the keys were evicted, so nearly all are still refused.
        let forgotten = (0..1_000_000_u32)
            .filter(|key| table.peek(key, &limit).allowed)
            .count();
        assert!(forgotten < 30_000, "{forgotten}");
        // The goal for an optimized build is 0.5 µs. This limit also holds for test builds.
        assert!(each < Duration::from_micros(20), "{each:?}");
    }

    #[test]
    fn a_flood_of_keys_does_not_free_a_busy_one() {
        let table = RateTable::new(8);
        let busy = limit(1, 3600, 100);
        while table.take(&"busy", &busy).allowed {}
        let light = limit(1000, 1, 1000);
        for key in 0..100_000_u32 {
            table.take(&key, &light);
        }
        assert!(!table.take(&"busy", &busy).allowed);
    }

    #[test]
    fn threads_share_one_allowance() {
        let table = RateTable::new(100);
        let limit = limit(1, 3600, 1000);
        let allowed: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..1000)
                            .filter(|_| table.take(&"a", &limit).allowed)
                            .count()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(allowed, 1000);
    }
}
