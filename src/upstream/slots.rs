//! `Slots`: how many connections an endpoint gets, from all workers together, and whose
//! turn it is where they do not suffice.
//!
//! A connection holds its slot until it is closed, idle ones too. Where all are taken,
//! idle connections are closed for requests that wait; then callers wait in the order of how
//! many connections they use, so that one with many requests does not go before one that
//! has none. Where that takes too long, the caller that uses the most gives one up.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::balance::Target;
use super::give_way::GiveWay;
use crate::identity::ShareKey;

/// How long a request waits before the caller that uses the most has to give way, and how
/// long a connection must have been in use for that.
const PATIENCE: Duration = Duration::from_millis(250);
const LONG_USE: Duration = Duration::from_secs(1);

/// A pool that may hold idle connections to the endpoint.
pub(super) trait Holder: Send + Sync {
    /// Closes one of them that holds one of these slots, where there is one.
    fn let_go(&self, target: &Target, slots: &Slots) -> bool;
}

/// The connections that one endpoint gets.
pub(super) struct Slots {
    most: usize,
    queue: Mutex<Queue>,
    waiting: AtomicUsize,
    holders: Mutex<Vec<Weak<dyn Holder>>>,
}

#[derive(Default)]
struct Queue {
    taken: usize,
    /// Connections in use, by caller.
    in_use: HashMap<ShareKey, Uses>,
    using: usize,
    waiters: Vec<Waiter>,
    next: u64,
}

/// The connections that a caller uses.
#[derive(Default)]
struct Uses {
    count: usize,
    /// Those that may have to give way: they began when there were few left.
    late: Vec<Use>,
}

impl Uses {
    /// How many stay: those that were not told to give way.
    fn staying(&self) -> usize {
        let told = self.late.iter().filter(|one| one.give_way.is_none());
        self.count.saturating_sub(told.count())
    }

    /// The one that has been in use for longest, and long enough, of those that may be told
    /// to give way.
    fn longest(&mut self, now: Instant) -> Option<&mut Use> {
        self.late
            .iter_mut()
            .filter(|one| one.give_way.is_some())
            .filter(|one| now.saturating_duration_since(one.since) >= LONG_USE)
            .min_by_key(|one| one.since)
    }
}

/// One connection in use.
struct Use {
    id: u64,
    since: Instant,
    /// Tells its user that it has to give way. Gone once it was told.
    give_way: Option<Arc<GiveWay>>,
}

/// A request that waits for a slot.
struct Waiter {
    key: ShareKey,
    slot: oneshot::Sender<Slot>,
}

/// A connection's slot, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot(Option<Arc<Slots>>);

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = self.0.take() {
            slots.give_back();
        }
    }
}

/// One connection in use by a caller, until it is dropped.
#[derive(Debug)]
pub(super) struct InUse {
    slots: Arc<Slots>,
    key: ShareKey,
    id: u64,
    give_way: Option<Arc<GiveWay>>,
}

impl InUse {
    /// Tells when another caller needs the connection more. Absent where the use began
    /// while there were connections enough: it stays undisturbed.
    pub(super) fn give_way(&self) -> Option<Arc<GiveWay>> {
        self.give_way.clone()
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut queue = self.slots.queue();
        queue.using = queue.using.saturating_sub(1);
        if let Some(uses) = queue.in_use.get_mut(&self.key) {
            uses.count = uses.count.saturating_sub(1);
            if self.give_way.is_some() {
                uses.late.retain(|one| one.id != self.id);
            }
            if uses.count == 0 {
                queue.in_use.remove(&self.key);
            }
        }
    }
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Slots({} of {})", self.queue().taken, self.most)
    }
}

impl Queue {
    fn uses(&self, key: ShareKey) -> usize {
        self.in_use.get(&key).map_or(0, |uses| uses.count)
    }

    /// Takes the waiter out whose caller uses the fewest connections; of several the one
    /// that has waited longest.
    fn next_waiter(&mut self) -> Option<Waiter> {
        self.waiters.retain(|waiter| !waiter.slot.is_closed());
        let uses = |waiter: &Waiter| self.uses(waiter.key);
        let fewest = (self.waiters.iter().enumerate()).min_by_key(|(_, waiter)| uses(waiter));
        let index = fewest.map(|(index, _)| index)?;
        Some(self.waiters.remove(index))
    }

    /// The connection that has to be given up for a caller: of the one that uses the most,
    /// if that is more than its part, the one that has been in use for longest.
    fn gives_way_to(&mut self, key: ShareKey, most: usize, now: Instant) -> Option<Arc<GiveWay>> {
        let own = self.uses(key);
        let callers = self.in_use.len() + usize::from(own == 0);
        let part = most / callers.max(1);
        let (_, longest) = (self.in_use.iter_mut())
            .filter(|(holder, _)| **holder != key)
            .map(|(_, uses)| (uses.staying(), uses))
            .filter(|(staying, _)| *staying > part && *staying > own + 1)
            .filter_map(|(staying, uses)| Some((staying, uses.longest(now)?)))
            .max_by_key(|(staying, _)| *staying)?;
        longest.give_way.take()
    }
}

impl Slots {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            queue: Mutex::default(),
            waiting: AtomicUsize::new(0),
            holders: Mutex::default(),
        }
    }

    pub(super) const fn most(&self) -> usize {
        self.most
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot, where one is free and no request waits for it.
    pub(super) fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut queue = self.queue();
        if queue.taken >= self.most {
            return None;
        }
        queue.taken += 1;
        Some(Slot(Some(Arc::clone(self))))
    }

    /// Counts a connection among those that a caller uses.
    pub(super) fn begin_use(self: &Arc<Self>, key: ShareKey) -> InUse {
        let mut queue = self.queue();
        queue.using += 1;
        // What all callers share is given up for none of them.
        let may_have_to = key != ShareKey::EVERYBODY && queue.using > self.most / 2;
        let give_way = may_have_to.then(|| Arc::new(GiveWay::default()));
        queue.next += 1;
        let id = queue.next;
        let uses = queue.in_use.entry(key).or_default();
        uses.count += 1;
        if give_way.is_some() {
            uses.late.push(Use {
                id,
                since: Instant::now(),
                give_way: give_way.clone(),
            });
        }
        InUse {
            slots: Arc::clone(self),
            key,
            id,
            give_way,
        }
    }

    /// A slot is free: it goes to the next request.
    fn give_back(self: &Arc<Self>) {
        let mut queue = self.queue();
        while let Some(waiter) = queue.next_waiter() {
            match waiter.slot.send(Slot(Some(Arc::clone(self)))) {
                Ok(()) => return,
                // It goes to another request, and must not be given back twice.
                Err(mut slot) => slot.0 = None,
            }
        }
        queue.taken = queue.taken.saturating_sub(1);
    }

    /// How many wait for one.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Whether a request waits for one.
    pub(super) fn are_wanted(&self) -> bool {
        self.waiting() > 0
    }

    /// Makes a pool known that holds connections to the endpoint.
    pub(super) fn register(&self, holder: Weak<dyn Holder>) {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        holders.retain(|known| known.strong_count() > 0);
        if !holders.iter().any(|known| known.ptr_eq(&holder)) {
            holders.push(holder);
        }
    }

    /// Waits until there is a slot for this caller.
    pub(super) async fn wait(self: &Arc<Self>, target: &Target, key: ShareKey) -> Option<Slot> {
        let _waiting = Waiting::begin(&self.waiting);
        let mut slot = {
            let (give, slot) = oneshot::channel();
            self.queue().waiters.push(Waiter { key, slot: give });
            slot
        };
        // A slot that is given back from now on goes to a request that waits. One may have
        // come free just before.
        if let Some(free) = self.take() {
            drop(free);
        } else {
            self.make_room(target);
        }
        loop {
            match tokio::time::timeout(PATIENCE, &mut slot).await {
                Ok(slot) => return slot.ok(),
                Err(_) => {
                    // One may have come to rest while its end went unnoticed.
                    self.make_room(target);
                    self.ask_to_give_way(key);
                }
            }
        }
    }

    /// Has the caller that uses the most give one of its connections up for this one.
    fn ask_to_give_way(&self, key: ShareKey) {
        let mut queue = self.queue();
        if let Some(give_way) = queue.gives_way_to(key, self.most, Instant::now()) {
            give_way.tell();
        }
    }

    /// Has a connection that is at rest closed, wherever there is one.
    pub(super) fn make_room(&self, target: &Target) {
        let holders: Vec<Arc<dyn Holder>> = {
            let holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
            holders.iter().filter_map(Weak::upgrade).collect()
        };
        let _ = holders.iter().any(|holder| holder.let_go(target, self));
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    /// Holds slots as idle connections do.
    struct Idle(Mutex<Vec<Slot>>);

    impl Holder for Idle {
        fn let_go(&self, _target: &Target, _slots: &Slots) -> bool {
            let slot = self.0.lock().unwrap().pop();
            slot.is_some()
        }
    }

    fn caller(number: u8) -> ShareKey {
        ShareKey::of_address(IpAddr::from([192, 0, 2, number]))
    }

    async fn until(slots: &Slots, waiting: usize) {
        while slots.waiting() != waiting {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_waits_gets_the_slot_of_an_idle_connection() {
        let slots = Arc::new(Slots::new(2));
        let idle = Arc::new(Idle(Mutex::new(vec![slots.take().unwrap()])));
        let holder: Arc<dyn Holder> = Arc::clone(&idle) as Arc<dyn Holder>;
        slots.register(Arc::downgrade(&holder));
        slots.register(Arc::downgrade(&holder));
        assert_eq!(slots.holders.lock().unwrap().len(), 1);
        let busy = slots.take().unwrap();
        assert!(slots.take().is_none() && !slots.are_wanted());
        let target = Target::plain("service", 80);
        let third = slots.wait(&target, caller(1)).await.unwrap();
        assert!(idle.0.lock().unwrap().is_empty());
        // Nothing is idle any more: the next one waits for one that ends.
        let (fourth, ()) = tokio::join!(slots.wait(&target, caller(1)), async {
            until(&slots, 1).await;
            drop(busy);
        });
        assert!(fourth.is_some() && !slots.are_wanted());
        drop((third, fourth));
        assert_eq!(slots.queue().taken, 0);
    }

    #[tokio::test]
    async fn who_uses_the_fewest_is_next() {
        let slots = Arc::new(Slots::new(2));
        let taken = [slots.take().unwrap(), slots.take().unwrap()];
        let _uses = [slots.begin_use(caller(1)), slots.begin_use(caller(1))];
        let waiting = |number| {
            let (slots, target) = (Arc::clone(&slots), Target::plain("service", 80));
            tokio::spawn(async move { slots.wait(&target, caller(number)).await })
        };
        // The first caller waits already when the second one comes.
        let more = waiting(1);
        until(&slots, 1).await;
        let other = waiting(2);
        until(&slots, 2).await;
        let [first, second] = taken;
        drop(first);
        let other = other.await.unwrap();
        assert!(other.is_some() && slots.waiting() == 1);
        // One that has stopped waiting is passed over.
        more.abort();
        let _ = more.await;
        drop(second);
        assert_eq!(slots.queue().taken, 1);
        assert!(slots.take().is_some());
    }

    #[test]
    fn who_uses_the_most_gives_way_to_one_with_less() {
        let slots = Arc::new(Slots::new(4));
        let uses = [1, 1, 1, 2].map(|number| slots.begin_use(caller(number)));
        let mut queue = slots.queue();
        let later = Instant::now() + LONG_USE;
        // Not a use that has just begun, and not for oneself.
        assert!(queue.gives_way_to(caller(3), 4, Instant::now()).is_none());
        assert!(queue.gives_way_to(caller(1), 4, later).is_none());
        // The first two began while there were enough.
        assert!(uses[0].give_way.is_none() && uses[1].give_way.is_none());
        let told = queue.gives_way_to(caller(3), 4, later).unwrap();
        assert!(Arc::ptr_eq(&told, uses[2].give_way.as_ref().unwrap()));
        // Once.
        assert!(queue.gives_way_to(caller(3), 4, later).is_none());
        drop(queue);
        // With equal parts none gives way.
        let slots = Arc::new(Slots::new(4));
        let uses = [1, 2, 1, 2].map(|number| slots.begin_use(caller(number)));
        let later = Instant::now() + LONG_USE;
        assert!(slots.queue().gives_way_to(caller(1), 4, later).is_none());
        // A newcomer's part is one.
        assert!(slots.queue().gives_way_to(caller(3), 4, later).is_some());
        drop(uses);
        assert!(slots.queue().in_use.is_empty() && slots.queue().using == 0);
    }
}
