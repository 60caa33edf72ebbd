//! `ConnectionSlots`: limits the connections of a listener. If there is no free slot, it decides
//! which connection is evicted for a new connection.
//!
//! A connection without a complete handshake costs a peer almost nothing. Such pending connections
//! are therefore evicted for newer connections. The evicted connection belongs to the address with
//! the most pending connections. From this address, connections that have sent no byte are evicted
//! before connections that have sent bytes. In both groups, the oldest connection is evicted first.
//! An established connection is evicted only if its listener has marked it as idle. While there is
//! a free slot, no connection is evicted.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::identity::ShareKey;

/// Maximum number of connections that were evicted and have not closed yet. Such connections occupy
/// no slot, but use file descriptors.
const MAX_LEAVING: usize = 64;
/// If there is no free slot, a new connection waits this long for PROXY headers on other
/// connections. Only after this wait may a connection be evicted whose load balancer has sent no
/// PROXY header.
const NAMING_TIMEOUT: Duration = Duration::from_millis(50);

/// The limits of a listener's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotLimits {
    /// Maximum number of all connections.
    pub total: usize,
    /// Maximum number of connections with an incomplete handshake.
    pub pending: usize,
}

/// The source of a connection. Connections of the same source are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// A source address. All its connections are counted together.
    Address(ShareKey),
    /// A single connection, which is counted alone because many peers share its address.
    Connection(u64),
}

/// The origin of a new connection, as far as the gateway knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The connection comes from an address whose connections are counted together.
    Address(ShareKey),
    /// The connection comes from an address that many peers share.
    Many,
    /// The connection comes from a load balancer, which has not sent the caller's address yet.
    Balancer,
}

impl From<Option<ShareKey>> for Origin {
    fn from(address: Option<ShareKey>) -> Self {
        address.map_or(Self::Many, Self::Address)
    }
}

/// The reason why a connection was evicted for a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Yielded {
    /// There was no free slot, and the evicted connection's address had more pending connections
    /// than one address may have.
    AddressShare,
    /// There was no free slot. The evicted connection was idle, or no address had more pending
    /// connections than one address may have.
    Full,
}

/// The connection slots of one listener.
#[derive(Debug)]
pub struct ConnectionSlots {
    limits: SlotLimits,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// A counter. Each new connection, and each connection that enters another [`Stage`], gets the
    /// next number.
    next: u64,
    entries: HashMap<u64, Entry>,
    /// Connections that have sent no byte.
    silent: Ranking,
    /// All connections with an incomplete handshake, including those in `silent`.
    pending: Ranking,
    /// Connections from load balancers that have not sent the caller's address for the connection
    /// yet.
    unnamed: Ranking,
    /// Established connections that the listener has marked as idle.
    idle: Ranking,
    /// Number of connections that were evicted and have not closed yet.
    leaving: usize,
}

#[derive(Debug)]
struct Entry {
    source: Source,
    stage: Stage,
    /// The number that the connection got when it entered its stage. Lower numbers are older.
    since: u64,
    /// Notified when the connection is evicted.
    leave: Arc<Notify>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Unnamed,
    Silent,
    Speaking,
    Established,
    Idle,
}

/// A set of connections, grouped by source. Finds the source with the most connections without a
/// search.
#[derive(Debug, Default)]
struct Ranking {
    /// The connections of each source, as (`Entry::since`, identifier) pairs.
    sources: HashMap<Source, BTreeSet<(u64, u64)>>,
    /// One entry for each source: the number of its connections, the age of its oldest connection,
    /// and the source. The last entry is the source with the most connections. If several sources
    /// have equally many, the last entry is the source with the oldest connection.
    order: BTreeSet<(usize, Reverse<u64>, Source)>,
    count: usize,
}

impl Ranking {
    fn add(&mut self, source: Source, since: u64, id: u64) {
        let own = self.sources.entry(source).or_default();
        if let Some(rank) = rank(source, own) {
            self.order.remove(&rank);
        }
        own.insert((since, id));
        self.order.extend(rank(source, own));
        self.count += 1;
    }

    fn remove(&mut self, source: Source, since: u64, id: u64) {
        let Some(own) = self.sources.get_mut(&source) else {
            return;
        };
        if let Some(rank) = rank(source, own) {
            self.order.remove(&rank);
        }
        self.count -= usize::from(own.remove(&(since, id)));
        match rank(source, own) {
            Some(rank) => {
                self.order.insert(rank);
            }
            None => {
                self.sources.remove(&source);
            }
        }
    }

    /// Returns the source with the most connections, and the number of its connections.
    fn busiest(&self) -> Option<(Source, usize)> {
        let (count, _, source) = self.order.last()?;
        Some((*source, *count))
    }

    /// Returns the identifier of the oldest connection of a source.
    fn oldest(&self, source: Source) -> Option<u64> {
        Some(self.sources.get(&source)?.first()?.1)
    }
}

fn rank(source: Source, own: &BTreeSet<(u64, u64)>) -> Option<(usize, Reverse<u64>, Source)> {
    let (since, _) = own.first()?;
    Some((own.len(), Reverse(*since), source))
}

impl State {
    fn number(&mut self) -> u64 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    /// Removes a connection from `silent`, `pending` and the other rankings in which it is, and
    /// returns its entry.
    fn unrank(&mut self, id: u64) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(&id)?;
        let (source, since) = (entry.source, entry.since);
        match entry.stage {
            Stage::Silent => {
                self.silent.remove(source, since, id);
                self.pending.remove(source, since, id);
            }
            Stage::Unnamed => self.unnamed.remove(source, since, id),
            Stage::Speaking => self.pending.remove(source, since, id),
            Stage::Idle => self.idle.remove(source, since, id),
            Stage::Established => {}
        }
        Some(entry)
    }

    /// Adds a connection to all rankings that contain connections of its stage.
    fn rank(&mut self, id: u64) {
        let Some(entry) = self.entries.get(&id) else {
            return;
        };
        let (source, since) = (entry.source, entry.since);
        match entry.stage {
            Stage::Silent => {
                self.silent.add(source, since, id);
                self.pending.add(source, since, id);
            }
            Stage::Unnamed => self.unnamed.add(source, since, id),
            Stage::Speaking => self.pending.add(source, since, id),
            Stage::Idle => self.idle.add(source, since, id),
            Stage::Established => {}
        }
    }

    /// Returns the identifier of the connection to evict, and the reason. If an address has more
    /// than `share` pending connections, one of these is evicted first. If `idle_first` is true, an
    /// idle connection is evicted before all others. Returns `None` if no connection can be
    /// evicted.
    fn chosen(&self, share: usize, idle_first: bool) -> Option<(u64, Yielded)> {
        let of_idle = || {
            let (source, _) = self.idle.busiest()?;
            Some((self.idle.oldest(source)?, Yielded::Full))
        };
        if idle_first && let Some(idle) = of_idle() {
            return Some(idle);
        }
        let of = |source| {
            let silent = self.silent.oldest(source);
            silent.or_else(|| self.pending.oldest(source))
        };
        if let Some((source, count)) = self.pending.busiest() {
            if count > share {
                return Some((of(source)?, Yielded::AddressShare));
            }
            // Several sources may have this number of connections. A source whose connections have
            // all sent no byte is then selected first.
            let silent = self.silent.busiest().filter(|(_, silent)| *silent >= count);
            let (source, _) = silent.unwrap_or((source, count));
            return Some((of(source)?, Yielded::Full));
        }
        let rest = [&self.idle, &self.unnamed];
        rest.into_iter().find_map(|ranking| {
            let (source, _) = ranking.busiest()?;
            Some((ranking.oldest(source)?, Yielded::Full))
        })
    }

    /// Returns whether a pending or idle connection can be evicted. Connections in `unnamed` do not
    /// count, because their callers' addresses are unknown.
    const fn has_named(&self) -> bool {
        self.pending.count > 0 || self.idle.count > 0
    }

    fn evict(&mut self, share: usize, idle_first: bool) -> Option<Yielded> {
        let (id, why) = self.chosen(share, idle_first)?;
        self.unrank(id);
        let entry = self.entries.remove(&id)?;
        self.leaving += 1;
        entry.leave.notify_one();
        Some(why)
    }
}

impl ConnectionSlots {
    /// Creates the slots of a listener. All slots are free.
    #[must_use]
    pub fn new(limits: SlotLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Waits until there is a free slot, or until the eviction of a connection can free a slot.
    pub async fn room(&self) {
        self.until(|state| self.has_room(state)).await;
    }

    /// Takes a slot for a new connection that has sent no byte yet. Waits until there is a slot. If
    /// another connection was evicted for the new connection, also returns the reason. If an
    /// address has more than `share` pending connections, one of these is evicted first.
    pub async fn take(
        self: &Arc<Self>,
        from: impl Into<Origin>,
        share: usize,
    ) -> (ConnectionSlot, Option<Yielded>) {
        let origin = from.into();
        if self.is_full(&self.state()) {
            // In a burst, connections are accepted faster than their first bytes are read. A
            // connection could then be evicted because it has sent no byte, although its bytes are
            // not read yet. Therefore `yield_now` lets other tasks read these bytes first.
            tokio::task::yield_now().await;
            let named = self.until(|state| !self.is_full(state) || state.has_named());
            let _ = tokio::time::timeout(NAMING_TIMEOUT, named).await;
        }
        loop {
            if let Some(taken) = self.try_take(origin, share) {
                return taken;
            }
            self.room().await;
        }
    }

    /// Does the same as [`Self::take`], but returns `None` instead of waiting for a slot.
    #[must_use]
    pub fn try_take(
        self: &Arc<Self>,
        from: impl Into<Origin>,
        share: usize,
    ) -> Option<(ConnectionSlot, Option<Yielded>)> {
        let origin = from.into();
        let mut state = self.state();
        if !self.has_room(&state) {
            return None;
        }
        // If fewer connections are pending than the limit allows, the listener can be full only
        // because of established connections. In this case an idle established connection is
        // evicted first.
        let few_pending = state.pending.count < self.limits.pending;
        let is_full = state.entries.len() >= self.limits.total || !few_pending;
        let yielded = match is_full {
            true => state.evict(share, few_pending),
            false => None,
        };
        let id = state.number();
        let leave = Arc::new(Notify::new());
        let entry = Entry {
            source: source(origin, id),
            stage: match origin {
                Origin::Balancer => Stage::Unnamed,
                Origin::Address(_) | Origin::Many => Stage::Silent,
            },
            since: id,
            leave: Arc::clone(&leave),
        };
        state.entries.insert(id, entry);
        state.rank(id);
        drop(state);
        let slot = ConnectionSlot {
            id,
            leave,
            slots: Arc::clone(self),
        };
        Some((slot, yielded))
    }

    /// Waits until all connections have closed, including evicted connections.
    pub async fn emptied(&self) {
        self.until(|state| state.entries.is_empty() && state.leaving == 0)
            .await;
    }

    fn is_full(&self, state: &State) -> bool {
        state.entries.len() >= self.limits.total
            || state.pending.count + state.unnamed.count >= self.limits.pending
    }

    fn has_room(&self, state: &State) -> bool {
        let can_yield = state.has_named() || state.unnamed.count > 0;
        state.entries.len() < self.limits.total || can_yield && state.leaving < MAX_LEAVING
    }

    async fn until(&self, holds: impl Fn(&State) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if holds(&self.state()) {
                return;
            }
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn source(origin: Origin, id: u64) -> Source {
    match origin {
        Origin::Address(key) => Source::Address(key),
        Origin::Many | Origin::Balancer => Source::Connection(id),
    }
}

/// The slot of one connection. The slot is freed on drop.
#[derive(Debug)]
pub struct ConnectionSlot {
    id: u64,
    leave: Arc<Notify>,
    slots: Arc<ConnectionSlots>,
}

impl ConnectionSlot {
    /// Returns the source under which the connection is counted.
    #[must_use]
    pub fn source(&self) -> Source {
        let state = self.slots.state();
        let entry = state.entries.get(&self.id);
        entry.map_or(Source::Connection(self.id), |entry| entry.source)
    }

    /// Records that the load balancer has sent the caller's address. `from` is the key of this
    /// address. It is `None` if many peers share the address: the connection is then counted alone.
    pub fn comes_from(&self, from: Option<ShareKey>) {
        let mut state = self.slots.state();
        if let Some(entry) = state.unrank(self.id) {
            entry.source = source(from.into(), self.id);
            if entry.stage == Stage::Unnamed {
                entry.stage = Stage::Silent;
            }
            state.rank(self.id);
        }
        drop(state);
        self.slots.changed.notify_waiters();
    }

    /// Records that the peer has sent bytes.
    pub fn spoke(&self) {
        self.enter(Stage::Speaking, |stage| {
            matches!(stage, Stage::Unnamed | Stage::Silent)
        });
    }

    /// Records that the connection is established. From this call until a call of [`Self::rest`],
    /// it cannot be evicted. Returns `false` if it was evicted before this call.
    #[must_use]
    pub fn establish(&self) -> bool {
        self.enter(Stage::Established, |_| true)
    }

    /// Records that an established connection is idle. After this call, it may be evicted.
    pub fn rest(&self) {
        self.enter(Stage::Idle, |stage| stage == Stage::Established);
        self.slots.changed.notify_waiters();
    }

    /// Waits until the connection is evicted.
    pub async fn evicted(&self) {
        self.leave.notified().await;
    }

    /// Changes the connection's stage to `stage`, if `may` returns `true` for the current stage.
    /// Returns `false` if the connection was evicted before.
    fn enter(&self, stage: Stage, may: impl Fn(Stage) -> bool) -> bool {
        let mut state = self.slots.state();
        let since = state.number();
        match state.entries.get(&self.id) {
            None => return false,
            Some(entry) if !may(entry.stage) => return true,
            Some(_) => {}
        }
        if let Some(entry) = state.unrank(self.id) {
            (entry.stage, entry.since) = (stage, since);
        }
        state.rank(self.id);
        true
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut state = self.slots.state();
        state.unrank(self.id);
        if state.entries.remove(&self.id).is_none() {
            state.leaving -= 1;
        }
        drop(state);
        self.slots.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
