//! `Share`: the part of a limited resource that one caller may hold. `Places`: counts how many
//! units of the resource each caller holds.
//!
//! A share is not a fixed limit. While at least half of the resource is free, every caller gets as
//! much as it requests. If only one caller needs the resource, it can get nearly all of it. A
//! caller is limited to its share only if several callers together hold more than half of the
//! resource. The less of the resource is free, the smaller the share becomes. Even if many callers
//! request as much as possible, a part therefore stays free for the next caller.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::identity::{ShareKey, ShareMap};

/// The divisor for the reserved part: if only one caller holds the resource, one eighth of the
/// resource stays free for the next caller.
const RESERVED_PART: u64 = 8;

/// The interval at which a waiting request checks whether the share of its caller has grown.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Number of locks that protect the counts of callers. The caller's key selects the lock.
const SHARDS: usize = 16;

/// The part of a resource that one caller may hold if several callers need the resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// A percentage, from 1 to 100.
    Percent(u8),
    /// A fixed number that does not depend on the size of the resource.
    Number(u64),
}

impl Share {
    /// The default share: 25 %.
    pub const QUARTER: Self = Self::Percent(25);

    /// Parses a percentage, for example `25%`.
    #[must_use]
    pub fn parse_percent(text: &str) -> Option<Self> {
        let digits = text.strip_suffix('%')?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
        let percent = digits.parse().ok().filter(|percent| *percent <= 100)?;
        plain.then_some(Self::Percent(percent))
    }

    /// Returns how much of a resource with the size `bound` the share is. The result is at least 1,
    /// so that no caller is excluded.
    #[must_use]
    pub fn of(self, bound: u64) -> u64 {
        match self {
            Self::Percent(percent) => part(bound, u64::from(percent), 100),
            Self::Number(number) => number,
        }
        .max(1)
    }

    /// Whether a caller may hold `own` units of a resource with the size `bound`, while all other
    /// callers together hold `others` units.
    #[must_use]
    pub fn allows(self, bound: u64, own: u64, others: u64) -> bool {
        let total = own.saturating_add(others);
        if total <= bound / 2 {
            return true;
        }
        let Some(free) = bound.checked_sub(total) else {
            return false;
        };
        if others == 0 {
            return free >= bound / RESERVED_PART;
        }
        own <= self
            .of(bound)
            .min(part(self.of(bound), 2 * free, bound).max(1))
    }
}

/// Computes `value` × `numerator` / `denominator` without overflow.
fn part(value: u64, numerator: u64, denominator: u64) -> u64 {
    let product = u128::from(value) * u128::from(numerator);
    let quotient = product.checked_div(u128::from(denominator));
    u64::try_from(quotient.unwrap_or(0)).unwrap_or(u64::MAX)
}

/// The kinds of limits that one caller can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerLimit {
    /// The number of connections to the gateway.
    Connections,
    /// The number of requests in progress at one upstream.
    RequestsInFlight,
    /// The number of tunnels.
    Tunnels,
    /// The memory for bodies that are read whole.
    BufferedBodies,
    /// The number of connections to one upstream.
    UpstreamConnections,
    /// The number of introspection requests to one token issuer.
    Introspection,
}

impl CallerLimit {
    /// Returns the configuration key of the limit.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "limits.caller.connections",
            Self::RequestsInFlight => "limits.caller.requests_in_flight",
            Self::Tunnels => "limits.caller.tunnels",
            Self::BufferedBodies => "limits.caller.buffered_bodies",
            Self::UpstreamConnections => "upstream.max_connections",
            Self::Introspection => "token_issuer.introspection",
        }
    }
}

/// How many places there are, and how callers share them. A place is one unit of a limited
/// resource, for example one request in progress.
#[derive(Debug, Clone, Copy)]
pub struct PlaceLimits {
    /// Maximum number of places of all callers together.
    pub max: usize,
    /// The number of places of which `share` is a part. It is less than `max` if each place also
    /// needs another, scarcer resource, for example a connection.
    pub shared: usize,
    /// The part of `shared` that one caller may hold.
    pub share: Share,
}

/// The reason why a caller gets no place, which is one unit of a limited resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// The caller already holds as many places as its share allows.
    Caller,
    /// All places are taken, although the caller has not used up its share.
    Full,
}

/// Counts the places that each caller holds.
#[derive(Default)]
pub struct Places {
    total: AtomicUsize,
    shards: [Mutex<ShareMap<Held>>; SHARDS],
}

/// The places that one caller holds, and its waiting requests.
#[derive(Default)]
struct Held {
    count: usize,
    /// Requests of the caller that wait until the caller frees one of its places.
    waiting: VecDeque<(PlaceLimits, oneshot::Sender<Place>)>,
}

/// One place of a caller. Dropping it frees the place.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    key: ShareKey,
    /// Whether dropping the place frees it. False if the place was offered to a waiting request
    /// that did not take it. In this case `leave` offers it to the next request.
    is_counted: bool,
}

impl Places {
    /// Takes one place for the caller `key`.
    ///
    /// # Errors
    /// Returns the reason why there is no place.
    pub fn enter(self: &Arc<Self>, key: ShareKey, limits: PlaceLimits) -> Result<Place, NoPlace> {
        let mut shard = self.shard(key);
        self.take(&mut shard, key, limits)
    }

    /// Takes a place for the caller `key`, unless this caller already holds `max` places. Ignores
    /// the places of other callers.
    ///
    /// # Errors
    /// Returns [`NoPlace::Caller`] if the caller already holds `max` places.
    pub fn enter_below(self: &Arc<Self>, key: ShareKey, max: usize) -> Result<Place, NoPlace> {
        let mut shard = self.shard(key);
        if shard.get(&key).map_or(0, |held| held.count) >= max {
            return Err(NoPlace::Caller);
        }
        shard.entry(key).or_default().count += 1;
        self.total.fetch_add(1, Ordering::Relaxed);
        Ok(self.place(key))
    }

    /// Takes a place for the caller `key`. If this caller holds as many places as its share allows,
    /// waits until it frees one of its places, or until its share has grown.
    ///
    /// # Errors
    /// Fails immediately if all places are taken, or if `max_waiting` requests of the caller
    /// already wait. Otherwise fails after `timeout`.
    pub async fn enter_within(
        self: &Arc<Self>,
        key: ShareKey,
        limits: PlaceLimits,
        timeout: Duration,
        max_waiting: usize,
    ) -> Result<Place, NoPlace> {
        let receiver = {
            let mut shard = self.shard(key);
            match self.take(&mut shard, key, limits) {
                Err(NoPlace::Caller) => {}
                outcome => return outcome,
            }
            // A caller without a place cannot wait, because none of its places will be freed.
            let Some(held) = shard.get_mut(&key) else {
                return Err(NoPlace::Caller);
            };
            held.waiting.retain(|(_, sender)| !sender.is_closed());
            if held.waiting.len() >= max_waiting {
                return Err(NoPlace::Caller);
            }
            let (sender, receiver) = oneshot::channel();
            held.waiting.push_back((limits, sender));
            receiver
        };
        let mut receiver = receiver;
        let deadline = Instant::now() + timeout;
        loop {
            // The caller's share also grows if other callers free their places. This task is not
            // notified of that, so it checks the share at intervals.
            let pause = LOOK_AGAIN.min(deadline.saturating_duration_since(Instant::now()));
            match tokio::time::timeout(pause, &mut receiver).await {
                Ok(Ok(place)) => return Ok(place),
                Ok(Err(_)) => return Err(NoPlace::Caller),
                Err(_) => {}
            }
            let taken = {
                let mut shard = self.shard(key);
                // Another task may send a place through the channel at this moment. This place is
                // freed when the channel is dropped.
                self.take(&mut shard, key, limits)
            };
            match taken {
                Err(NoPlace::Caller) if Instant::now() < deadline => {}
                taken => return taken,
            }
        }
    }

    /// Returns the number of places that all callers hold.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    fn take(
        self: &Arc<Self>,
        shard: &mut ShareMap<Held>,
        key: ShareKey,
        limits: PlaceLimits,
    ) -> Result<Place, NoPlace> {
        let before = shard.get(&key).map_or(0, |held| held.count);
        let total = self.total.fetch_add(1, Ordering::Relaxed) + 1;
        let others = total.saturating_sub(before + 1);
        // For its first place, a caller needs only a free place. The share does not matter.
        let is_allowed = before == 0 || is_allowed(limits, before + 1, others);
        if total > limits.max || !is_allowed {
            self.total.fetch_sub(1, Ordering::Relaxed);
            let share = limits.share.of(to_u64(limits.shared));
            let took_its_share = others > 0 && to_u64(before) >= share;
            return Err(match is_allowed && !took_its_share {
                true => NoPlace::Full,
                false => NoPlace::Caller,
            });
        }
        shard.entry(key).or_default().count = before + 1;
        Ok(self.place(key))
    }

    fn place(self: &Arc<Self>, key: ShareKey) -> Place {
        Place {
            places: Arc::clone(self),
            key,
            is_counted: true,
        }
    }

    /// Frees a place of the caller `key`, or passes it to a waiting request of this caller.
    fn leave(self: &Arc<Self>, key: ShareKey) {
        loop {
            let sender = {
                let mut shard = self.shard(key);
                let Some(held) = shard.get_mut(&key) else {
                    return;
                };
                let others = self.taken().saturating_sub(held.count);
                let may_keep = |limits: &PlaceLimits| is_allowed(*limits, held.count, others);
                match held.waiting.pop_front_if(|(limits, _)| may_keep(limits)) {
                    Some((_, sender)) => sender,
                    None => {
                        held.count = held.count.saturating_sub(1);
                        if held.count == 0 {
                            // If the caller has no place left, its entry is removed. This drops the
                            // senders of its waiting requests, which ends their wait.
                            shard.remove(&key);
                        }
                        self.total.fetch_sub(1, Ordering::Relaxed);
                        return;
                    }
                }
            };
            // The place is sent only after the lock was released. If the receiver is gone, this
            // thread drops the place, and the drop takes the same lock.
            match sender.send(self.place(key)) {
                Ok(()) => return,
                Err(mut unclaimed) => unclaimed.is_counted = false,
            }
        }
    }

    fn shard(&self, key: ShareKey) -> MutexGuard<'_, ShareMap<Held>> {
        let [first, rest @ ..] = &self.shards;
        let index = key.index(SHARDS);
        let shard = index.checked_sub(1).and_then(|index| rest.get(index));
        shard
            .unwrap_or(first)
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_allowed(limits: PlaceLimits, own: usize, others: usize) -> bool {
    // If there are fewer than 8 places, an eighth of them is less than one place, so no place is
    // reserved. A caller may then take all places if no other caller holds a place.
    let is_alone_on_few = others == 0 && limits.shared < 8;
    let shared = to_u64(limits.shared);
    is_alone_on_few || limits.share.allows(shared, to_u64(own), to_u64(others))
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_counted {
            self.places.leave(self.key);
        }
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Places({} taken)", self.taken())
    }
}

#[cfg(test)]
#[path = "share_tests.rs"]
mod tests;
