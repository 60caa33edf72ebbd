//! `ConnectionSlots`: how many connections a listener may have, and which of them yields
//! when there is no room for another one.
//!
//! A connection that has proven nothing costs its peer nothing. Such connections yield to
//! newer ones: those of the address that has the most of them first, of these the silent
//! ones before those whose handshake is under way, the oldest before the newer. An established
//! connection never yields to one of those, unless its listener says that it is idle. While
//! there is room, nothing yields.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::identity::ShareKey;

/// Most connections that were told to yield and are not gone yet: they still have their
/// descriptors.
const MAX_LEAVING: usize = 64;
/// How long a new connection waits at most for balancers to say for whom they connect,
/// before one of those connections yields.
const NAMING_TIMEOUT: Duration = Duration::from_millis(50);

/// How many connections a listener may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotLimits {
    /// All of them.
    pub total: usize,
    /// Those that are not established.
    pub pending: usize,
}

/// Who sends: for whom a connection counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// All connections of one address together.
    Address(ShareKey),
    /// Each connection by itself: the address stands for many peers.
    Connection(u64),
}

/// Where a new connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An address that is counted.
    Address(ShareKey),
    /// An address that stands for many peers.
    Many,
    /// A balancer, which has yet to say for whom it connects.
    Balancer,
}

impl From<Option<ShareKey>> for Origin {
    fn from(address: Option<ShareKey>) -> Self {
        address.map_or(Self::Many, Self::Address)
    }
}

/// Why another connection had to yield.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Yielded {
    /// Its address had more than its share.
    AddressShare,
    /// There was no room.
    Full,
}

/// The connections of one listener.
#[derive(Debug)]
pub struct ConnectionSlots {
    limits: SlotLimits,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    entries: HashMap<u64, Entry>,
    /// Connections that have sent nothing.
    silent: Ranking,
    /// Connections that are not established, silent or not.
    pending: Ranking,
    /// Connections of balancers that have not said for whom they are.
    unnamed: Ranking,
    /// Established connections on which nothing goes on.
    idle: Ranking,
    leaving: usize,
}

#[derive(Debug)]
struct Entry {
    source: Source,
    stage: Stage,
    /// When it came to this stage, as a number.
    since: u64,
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

/// Connections by their sources: the source with the most of them is found at once.
#[derive(Debug, Default)]
struct Ranking {
    sources: HashMap<Source, BTreeSet<(u64, u64)>>,
    /// Count, oldest connection, source; the last one has the most, of several the one
    /// with the oldest connection.
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

    /// The source with the most connections, and how many they are.
    fn busiest(&self) -> Option<(Source, usize)> {
        let (count, _, source) = self.order.last()?;
        Some((*source, *count))
    }

    /// A source's oldest connection.
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

    /// Takes a connection out of the rankings of its stage.
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

    /// Puts a connection into the rankings of its stage.
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

    /// The connection that yields, if one does.
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
            // Of sources with as many as each other, silence goes before what others have
            // begun. No source is spared for having said something.
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

    /// Whether a connection may yield of which it is known where it comes from.
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
    /// Slots without connections.
    #[must_use]
    pub fn new(limits: SlotLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Waits until there is room for another connection, free or because one yields.
    pub async fn room(&self) {
        self.until(|state| self.has_room(state)).await;
    }

    /// Takes a slot for a new connection that has sent nothing yet; waits until there is
    /// room. Says why another one had to yield, if one had. An address with
    /// more than `share` pending connections yields before all others.
    pub async fn take(
        self: &Arc<Self>,
        from: impl Into<Origin>,
        share: usize,
    ) -> (ConnectionSlot, Option<Yielded>) {
        let origin = from.into();
        if self.is_full(&self.state()) {
            // A burst is accepted faster than its connections are read: what they have
            // sent is to be seen before one is chosen.
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

    /// As [`Self::take`], if there is room at this moment.
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
        // While few are pending, it is established connections that take the room.
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

    /// Waits until all connections are gone.
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

/// One connection's slot, until it is dropped.
#[derive(Debug)]
pub struct ConnectionSlot {
    id: u64,
    leave: Arc<Notify>,
    slots: Arc<ConnectionSlots>,
}

impl ConnectionSlot {
    /// For whom the connection counts.
    #[must_use]
    pub fn source(&self) -> Source {
        let state = self.slots.state();
        let entry = state.entries.get(&self.id);
        entry.map_or(Source::Connection(self.id), |entry| entry.source)
    }

    /// A balancer has said whom the connection comes from.
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

    /// The peer has sent something.
    pub fn spoke(&self) {
        self.enter(Stage::Speaking, |stage| {
            matches!(stage, Stage::Unnamed | Stage::Silent)
        });
    }

    /// The connection is established: it does not yield any more. Returns false if it had
    /// to before.
    #[must_use]
    pub fn establish(&self) -> bool {
        self.enter(Stage::Established, |_| true)
    }

    /// Nothing goes on on an established connection: it yields again.
    pub fn rest(&self) {
        self.enter(Stage::Idle, |stage| stage == Stage::Established);
        self.slots.changed.notify_waiters();
    }

    /// Waits until the connection has to yield.
    pub async fn evicted(&self) {
        self.leave.notified().await;
    }

    /// Enters a stage, if it may from the one that it is in. Returns false if the
    /// connection has yielded.
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
