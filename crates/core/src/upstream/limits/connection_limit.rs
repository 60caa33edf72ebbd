//! `ConnectionLimit`: limits the connections to an endpoint over all workers, and selects which
//! waiting request gets the next slot.
//!
//! A connection holds a slot until it is closed, even while it is idle. If all slots are taken, an
//! idle connection is closed for a request that waits. A returned slot goes to the waiting caller
//! that uses the fewest connections, so that a busy caller does not block the others. If a request
//! waits too long, one connection of the caller that uses the most connections has to *yield*: the
//! requests on this connection are ended, so that its slot goes to a waiting request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::preemption::PreemptionSignal;
use crate::identity::{ShareKey, ShareMap};
use crate::upstream::config::target::Target;

/// If a request waits this long for a slot, the caller that uses the most connections has to yield
/// a connection. Only a connection that has been in use for at least `MIN_USE` has to yield.
const WAIT_BEFORE_YIELD: Duration = Duration::from_millis(250);
const MIN_USE: Duration = Duration::from_secs(1);

/// A connection pool that may hold idle connections to the endpoint.
pub(in crate::upstream) trait IdleHolder: Send + Sync {
    /// Closes an idle connection to `target` that holds a slot of `limit`. Returns whether a
    /// connection was closed.
    fn close_idle(&self, target: &Target, limit: &ConnectionLimit) -> bool;
}

/// The slots for connections to one endpoint, and the requests that wait for a slot.
pub(in crate::upstream) struct ConnectionLimit {
    max: usize,
    queue: Mutex<Queue>,
    waiting: AtomicUsize,
    holders: Mutex<Vec<Weak<dyn IdleHolder>>>,
}

#[derive(Default)]
struct Queue {
    taken: usize,
    /// Connections in use, grouped by caller.
    in_use: ShareMap<Uses>,
    using: usize,
    waiters: Vec<Waiter>,
    next: u64,
}

/// The connections that a caller uses.
#[derive(Default)]
struct Uses {
    count: usize,
    /// The connections that may have to give their slots to waiting requests. These are the
    /// connections whose use began while more than half of the slots were in use.
    late: Vec<Use>,
}

impl Uses {
    /// Returns how many of the caller's connections have not been asked to yield.
    fn staying(&self) -> usize {
        let asked = self.late.iter().filter(|one| one.preemption.is_none());
        self.count.saturating_sub(asked.count())
    }

    /// Returns the connection in `late` that has been in use for the longest time. Skips
    /// connections that were already asked to yield, and connections in use for less than
    /// `MIN_USE`.
    fn oldest(&mut self, now: Instant) -> Option<&mut Use> {
        self.late
            .iter_mut()
            .filter(|one| one.preemption.is_some())
            .filter(|one| now.saturating_duration_since(one.since) >= MIN_USE)
            .min_by_key(|one| one.since)
    }
}

/// A connection in use that may have to give its slot to a waiting request.
struct Use {
    id: u64,
    since: Instant,
    /// The signal that asks the requests on the connection to end. `None` after the signal was
    /// sent.
    preemption: Option<Arc<PreemptionSignal>>,
}

/// A request that waits for a slot.
struct Waiter {
    key: ShareKey,
    slot: oneshot::Sender<Slot>,
}

/// Holds one slot until the value is dropped.
#[derive(Debug)]
pub(in crate::upstream) struct Slot(Option<Arc<ConnectionLimit>>);

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(limit) = self.0.take() {
            limit.give_back();
        }
    }
}

/// Counts a connection as in use by a caller until this value is dropped.
#[derive(Debug)]
pub(in crate::upstream) struct InUse {
    limit: Arc<ConnectionLimit>,
    key: ShareKey,
    id: u64,
    preemption: Option<Arc<PreemptionSignal>>,
}

impl InUse {
    /// Returns the signal that asks the requests on the connection to end, because the connection
    /// has to yield to another caller. Returns `None` if the connection never has to yield (see
    /// `begin_use`).
    pub(in crate::upstream) fn preemption(&self) -> Option<Arc<PreemptionSignal>> {
        self.preemption.clone()
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut queue = self.limit.queue();
        queue.using = queue.using.saturating_sub(1);
        if let Some(uses) = queue.in_use.get_mut(&self.key) {
            uses.count = uses.count.saturating_sub(1);
            if self.preemption.is_some() {
                uses.late.retain(|one| one.id != self.id);
            }
            if uses.count == 0 {
                queue.in_use.remove(&self.key);
            }
        }
    }
}

impl std::fmt::Debug for ConnectionLimit {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "ConnectionLimit({} of {})",
            self.queue().taken,
            self.max
        )
    }
}

impl Queue {
    fn uses(&self, key: ShareKey) -> usize {
        self.in_use.get(&key).map_or(0, |uses| uses.count)
    }

    /// Removes and returns the waiter whose caller uses the fewest connections. Among equals,
    /// returns the waiter that has waited longest.
    fn next_waiter(&mut self) -> Option<Waiter> {
        self.waiters.retain(|waiter| !waiter.slot.is_closed());
        let uses = |waiter: &Waiter| self.uses(waiter.key);
        let fewest = (self.waiters.iter().enumerate()).min_by_key(|(_, waiter)| uses(waiter));
        let index = fewest.map(|(index, _)| index)?;
        Some(self.waiters.remove(index))
    }

    /// Selects the connection that has to yield to the caller `key`, and returns its signal. The
    /// connection belongs to the caller with the most connections in use. This caller must use more
    /// than an equal part of the slots, and at least two connections more than `key`. Returns
    /// `None` if no connection has to yield.
    fn select_to_yield(
        &mut self,
        key: ShareKey,
        max: usize,
        now: Instant,
    ) -> Option<Arc<PreemptionSignal>> {
        let own = self.uses(key);
        let callers = self.in_use.len() + usize::from(own == 0);
        let part = max / callers.max(1);
        let (_, oldest) = (self.in_use.iter_mut())
            .filter(|(holder, _)| **holder != key)
            .map(|(_, uses)| (uses.staying(), uses))
            .filter(|(staying, _)| *staying > part && *staying > own + 1)
            .filter_map(|(staying, uses)| Some((staying, uses.oldest(now)?)))
            .max_by_key(|(staying, _)| *staying)?;
        oldest.preemption.take()
    }
}

impl ConnectionLimit {
    pub(in crate::upstream) fn new(max: usize) -> Self {
        Self {
            max,
            queue: Mutex::default(),
            waiting: AtomicUsize::new(0),
            holders: Mutex::default(),
        }
    }

    pub(in crate::upstream) const fn max(&self) -> usize {
        self.max
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot if a slot is free. While requests wait, a returned slot goes to one of them and
    /// does not become free.
    pub(in crate::upstream) fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut queue = self.queue();
        if queue.taken >= self.max {
            return None;
        }
        queue.taken += 1;
        Some(Slot(Some(Arc::clone(self))))
    }

    /// Counts a connection as in use by a caller.
    pub(in crate::upstream) fn begin_use(self: &Arc<Self>, key: ShareKey) -> InUse {
        let mut queue = self.queue();
        queue.using += 1;
        // A connection that all callers share never has to yield. A connection also never has to
        // yield if at most half of the slots are in use when its use begins. This count includes
        // its own slot.
        let may_have_to_yield = key != ShareKey::EVERYBODY && queue.using > self.max / 2;
        let preemption = may_have_to_yield.then(|| Arc::new(PreemptionSignal::default()));
        queue.next += 1;
        let id = queue.next;
        let uses = queue.in_use.entry(key).or_default();
        uses.count += 1;
        if preemption.is_some() {
            uses.late.push(Use {
                id,
                since: Instant::now(),
                preemption: preemption.clone(),
            });
        }
        InUse {
            limit: Arc::clone(self),
            key,
            id,
            preemption,
        }
    }

    /// Gives a returned slot to the next waiting request. If no request waits, the slot becomes
    /// free.
    fn give_back(self: &Arc<Self>) {
        let mut queue = self.queue();
        while let Some(waiter) = queue.next_waiter() {
            match waiter.slot.send(Slot(Some(Arc::clone(self)))) {
                Ok(()) => return,
                // This request does not wait any more, so the slot goes to the next waiting
                // request. The slot is set to `None`, because dropping it would otherwise return it
                // a second time.
                Err(mut slot) => slot.0 = None,
            }
        }
        queue.taken = queue.taken.saturating_sub(1);
    }

    /// Returns how many requests wait for a slot.
    pub(in crate::upstream) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Whether any request waits for a slot.
    pub(in crate::upstream) fn has_waiters(&self) -> bool {
        self.waiting() > 0
    }

    /// Registers a pool that may hold idle connections to the endpoint.
    pub(in crate::upstream) fn register(&self, holder: Weak<dyn IdleHolder>) {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        holders.retain(|known| known.strong_count() > 0);
        if !holders.iter().any(|known| known.ptr_eq(&holder)) {
            holders.push(holder);
        }
    }

    /// Waits until the caller `key` gets a slot.
    pub(in crate::upstream) async fn wait(
        self: &Arc<Self>,
        target: &Target,
        key: ShareKey,
    ) -> Option<Slot> {
        let _waiting = Waiting::begin(&self.waiting);
        let mut slot = {
            let (give, slot) = oneshot::channel();
            self.queue().waiters.push(Waiter { key, slot: give });
            slot
        };
        // This request is in the queue now, so a slot that is returned from now on can go to it. A
        // slot that was returned earlier may still be free. If such a slot is taken and dropped, it
        // goes to a waiting request.
        if let Some(free) = self.take() {
            drop(free);
        } else {
            self.close_idle(target);
        }
        loop {
            match tokio::time::timeout(WAIT_BEFORE_YIELD, &mut slot).await {
                Ok(slot) => return slot.ok(),
                Err(_) => {
                    // A connection may have become idle, although no slot was returned.
                    self.close_idle(target);
                    self.request_yield(key);
                }
            }
        }
    }

    /// If a connection of another caller has to yield to the caller `key`, asks the requests on
    /// this connection to end.
    fn request_yield(&self, key: ShareKey) {
        let mut queue = self.queue();
        if let Some(preemption) = queue.select_to_yield(key, self.max, Instant::now()) {
            preemption.request();
        }
    }

    /// Closes an idle connection to `target`, if a registered pool has such a connection.
    pub(in crate::upstream) fn close_idle(&self, target: &Target) {
        let holders: Vec<Arc<dyn IdleHolder>> = {
            let holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
            holders.iter().filter_map(Weak::upgrade).collect()
        };
        let _ = holders.iter().any(|holder| holder.close_idle(target, self));
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

    /// A pool for tests. Its idle connections consist only of their slots.
    struct Idle(Mutex<Vec<Slot>>);

    impl IdleHolder for Idle {
        fn close_idle(&self, _target: &Target, _limit: &ConnectionLimit) -> bool {
            let slot = self.0.lock().unwrap().pop();
            slot.is_some()
        }
    }

    fn caller(number: u8) -> ShareKey {
        ShareKey::of_address(IpAddr::from([192, 0, 2, number]))
    }

    async fn until(limit: &ConnectionLimit, waiting: usize) {
        while limit.waiting() != waiting {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_waits_gets_the_slot_of_an_idle_connection() {
        let limit = Arc::new(ConnectionLimit::new(2));
        let idle = Arc::new(Idle(Mutex::new(vec![limit.take().unwrap()])));
        let holder: Arc<dyn IdleHolder> = Arc::clone(&idle) as Arc<dyn IdleHolder>;
        limit.register(Arc::downgrade(&holder));
        limit.register(Arc::downgrade(&holder));
        assert_eq!(limit.holders.lock().unwrap().len(), 1);
        let busy = limit.take().unwrap();
        assert!(limit.take().is_none() && !limit.has_waiters());
        let target = Target::plain("service", 80);
        let third = limit.wait(&target, caller(1)).await.unwrap();
        assert!(idle.0.lock().unwrap().is_empty());
        // No connection is idle now, so the next request has to wait until a connection ends.
        let (fourth, ()) = tokio::join!(limit.wait(&target, caller(1)), async {
            until(&limit, 1).await;
            drop(busy);
        });
        assert!(fourth.is_some() && !limit.has_waiters());
        drop((third, fourth));
        assert_eq!(limit.queue().taken, 0);
    }

    #[tokio::test]
    async fn who_uses_the_fewest_is_next() {
        let limit = Arc::new(ConnectionLimit::new(2));
        let taken = [limit.take().unwrap(), limit.take().unwrap()];
        let _uses = [limit.begin_use(caller(1)), limit.begin_use(caller(1))];
        let waiting = |number| {
            let (limit, target) = (Arc::clone(&limit), Target::plain("service", 80));
            tokio::spawn(async move { limit.wait(&target, caller(number)).await })
        };
        // Caller 1 holds both connections and waits for a third. Then caller 2 starts to wait.
        let more = waiting(1);
        until(&limit, 1).await;
        let other = waiting(2);
        until(&limit, 2).await;
        let [first, second] = taken;
        drop(first);
        let other = other.await.unwrap();
        assert!(other.is_some() && limit.waiting() == 1);
        // A request that has stopped waiting gets no slot.
        more.abort();
        let _ = more.await;
        drop(second);
        assert_eq!(limit.queue().taken, 1);
        assert!(limit.take().is_some());
    }

    #[test]
    fn the_caller_that_uses_the_most_yields_to_one_with_less() {
        let limit = Arc::new(ConnectionLimit::new(4));
        let uses = [1, 1, 1, 2].map(|number| limit.begin_use(caller(number)));
        let mut queue = limit.queue();
        let later = Instant::now() + MIN_USE;
        // Immediately after `begin_use` no connection has to yield, because none has been in use
        // for `MIN_USE`. A caller never has to yield to itself.
        assert!(
            queue
                .select_to_yield(caller(3), 4, Instant::now())
                .is_none()
        );
        assert!(queue.select_to_yield(caller(1), 4, later).is_none());
        // The first two connections never have to yield: when they came into use, at most half of
        // the slots were in use.
        assert!(uses[0].preemption.is_none() && uses[1].preemption.is_none());
        let told = queue.select_to_yield(caller(3), 4, later).unwrap();
        assert!(Arc::ptr_eq(&told, uses[2].preemption.as_ref().unwrap()));
        // A connection is asked to yield only once.
        assert!(queue.select_to_yield(caller(3), 4, later).is_none());
        drop(queue);
        // If all callers use equal parts, no caller has to yield.
        let limit = Arc::new(ConnectionLimit::new(4));
        let uses = [1, 2, 1, 2].map(|number| limit.begin_use(caller(number)));
        let later = Instant::now() + MIN_USE;
        assert!(limit.queue().select_to_yield(caller(1), 4, later).is_none());
        // If a new caller waits, one of the other callers has to yield a connection to the new
        // caller.
        assert!(limit.queue().select_to_yield(caller(3), 4, later).is_some());
        drop(uses);
        assert!(limit.queue().in_use.is_empty() && limit.queue().using == 0);
    }
}
