//! `Share`: the part of a limited resource that one caller may hold, and `Places`, which counts it
//! by caller.
//!
//! A share is not a fixed limit. While more than half of a bound is free, every caller gets as much
//! as it requests, and a caller that is alone gets nearly all of it. Only when several callers hold
//! more than half together does the share count, and it shrinks with the free part: even if many
//! callers request as much as possible, a part stays free for the next one.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::identity::{ShareKey, ShareMap};

/// A caller that is alone leaves one part in this many free for the next caller.
const RESERVED_PART: u64 = 8;

/// How often a waiting request checks whether its caller's share has grown.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Locks that the counts are spread over.
const SHARDS: usize = 16;

/// The part of a bound that one caller may hold if several callers need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// A percentage, from 1 to 100.
    Percent(u8),
    /// A fixed number that does not depend on the bound.
    Number(u64),
}

impl Share {
    /// The default.
    pub const QUARTER: Self = Self::Percent(25);

    /// Reads a percentage: `25%`.
    #[must_use]
    pub fn parse_percent(text: &str) -> Option<Self> {
        let digits = text.strip_suffix('%')?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
        let percent = digits.parse().ok().filter(|percent| *percent <= 100)?;
        plain.then_some(Self::Percent(percent))
    }

    /// Returns the share of this bound; at least one, so that no caller is locked out.
    #[must_use]
    pub fn of(self, bound: u64) -> u64 {
        match self {
            Self::Percent(percent) => part(bound, u64::from(percent), 100),
            Self::Number(number) => number,
        }
        .max(1)
    }

    /// Whether a caller may hold `own` while all other callers hold `others`.
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

/// A limit that one caller can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerLimit {
    /// Connections to the gateway.
    Connections,
    /// Requests in progress at one upstream.
    RequestsInFlight,
    /// Tunnels.
    Tunnels,
    /// The memory of bodies that are read whole.
    BufferedBodies,
    /// Connections to one upstream.
    UpstreamConnections,
    /// Introspection requests to one token issuer.
    Introspection,
}

impl CallerLimit {
    /// Returns the key of the limit in the configuration.
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

/// The number of places, and how callers share them.
#[derive(Debug, Clone, Copy)]
pub struct PlaceLimits {
    /// Maximum number of places of all callers together.
    pub max: usize,
    /// The number from which shares are computed. Less than `max` if the resource behind the places
    /// is scarcer than the places.
    pub shared: usize,
    /// The part of `shared` that one caller may hold.
    pub share: Share,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// The caller holds as much as it may.
    Caller,
    /// All places are taken by other callers.
    Full,
}

/// Counts places by caller.
#[derive(Default)]
pub struct Places {
    total: AtomicUsize,
    shards: [Mutex<ShareMap<Held>>; SHARDS],
}

/// The places that one caller holds.
#[derive(Default)]
struct Held {
    count: usize,
    /// Requests of the caller that wait for one of its places.
    waiting: VecDeque<(PlaceLimits, oneshot::Sender<Place>)>,
}

/// One place. Dropping it frees the place.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    key: ShareKey,
    /// Whether the place is still counted. False after it was handed over.
    is_counted: bool,
}

impl Places {
    /// Takes a place.
    ///
    /// # Errors
    /// Why there is none.
    pub fn enter(self: &Arc<Self>, key: ShareKey, limits: PlaceLimits) -> Result<Place, NoPlace> {
        let mut shard = self.shard(key);
        self.take(&mut shard, key, limits)
    }

    /// Takes a place unless the caller has `max` of them already, even if others are free.
    ///
    /// # Errors
    /// [`NoPlace::Caller`] if it has.
    pub fn enter_below(self: &Arc<Self>, key: ShareKey, max: usize) -> Result<Place, NoPlace> {
        let mut shard = self.shard(key);
        if shard.get(&key).map_or(0, |held| held.count) >= max {
            return Err(NoPlace::Caller);
        }
        shard.entry(key).or_default().count += 1;
        self.total.fetch_add(1, Ordering::Relaxed);
        Ok(self.place(key))
    }

    /// Takes a place. If the caller holds its maximum, waits until one of its own places is free.
    ///
    /// # Errors
    /// Why there is no place: at once if all places are taken or `max_waiting` requests of the
    /// caller already wait, otherwise after `timeout`.
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
            // A caller without a place has no place whose release it could wait for.
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
            // If other callers free places, this caller's share grows without a notification.
            let pause = LOOK_AGAIN.min(deadline.saturating_duration_since(Instant::now()));
            match tokio::time::timeout(pause, &mut receiver).await {
                Ok(Ok(place)) => return Ok(place),
                Ok(Err(_)) => return Err(NoPlace::Caller),
                Err(_) => {}
            }
            let taken = {
                let mut shard = self.shard(key);
                // A place that another task sends at this moment is not received. It is given back
                // when it is dropped.
                self.take(&mut shard, key, limits)
            };
            match taken {
                Err(NoPlace::Caller) if Instant::now() < deadline => {}
                taken => return taken,
            }
        }
    }

    /// Returns the number of places that are taken.
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
        // A caller's first place needs no share, only a free place.
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

    /// Gives a place back, or passes it on to a request of the same caller that waits.
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
                            // Dropping the senders ends the wait.
                            shard.remove(&key);
                        }
                        self.total.fetch_sub(1, Ordering::Relaxed);
                        return;
                    }
                }
            };
            // Sent without the lock, because the place is dropped at once if the request is gone,
            // and dropping it takes the lock.
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
    // If there are so few places, none is kept free: a caller that is alone may use all of them.
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
