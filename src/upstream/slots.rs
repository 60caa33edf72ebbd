//! `Slots`: how many connections an endpoint gets, from all workers together.
//!
//! A connection holds its slot until it is closed, idle ones too. Where all are
//! taken, idle connections of other workers are closed for whoever waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::balance::Target;

/// A pool that may hold idle connections to the endpoint.
pub(super) trait Holder: Send + Sync {
    /// Closes one of them that holds one of these slots, where there is one.
    fn let_go(&self, target: &Target, slots: &Slots) -> bool;
}

/// The connections that one endpoint gets.
pub(super) struct Slots {
    most: usize,
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
    holders: Mutex<Vec<Weak<dyn Holder>>>,
}

/// A connection's slot, until it is dropped.
pub(super) type Slot = OwnedSemaphorePermit;

impl std::fmt::Debug for Slots {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "Slots({} of {})",
            self.free.available_permits(),
            self.most
        )
    }
}

impl Slots {
    pub(super) fn new(most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self {
            most,
            free: Arc::new(Semaphore::new(most)),
            waiting: AtomicUsize::new(0),
            holders: Mutex::default(),
        }
    }

    pub(super) const fn most(&self) -> usize {
        self.most
    }

    /// A slot, where one is free.
    pub(super) fn take(&self) -> Option<Slot> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// How many wait for one.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Whether somebody waits for one.
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

    /// Waits until there is a slot.
    pub(super) async fn wait(&self, target: &Target) -> Option<Slot> {
        let _waiting = Waiting::begin(&self.waiting);
        // Whoever gives one back from now on sees that somebody waits.
        self.make_room(target);
        Arc::clone(&self.free).acquire_owned().await.ok()
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
    use super::*;

    /// Holds slots as idle connections do.
    struct Idle(Mutex<Vec<Slot>>);

    impl Holder for Idle {
        fn let_go(&self, _target: &Target, _slots: &Slots) -> bool {
            self.0.lock().unwrap().pop().is_some()
        }
    }

    #[tokio::test]
    async fn who_waits_gets_the_slot_of_an_idle_connection() {
        let slots = Slots::new(2);
        let idle = Arc::new(Idle(Mutex::new(vec![slots.take().unwrap()])));
        let holder: Arc<dyn Holder> = Arc::clone(&idle) as Arc<dyn Holder>;
        slots.register(Arc::downgrade(&holder));
        slots.register(Arc::downgrade(&holder));
        assert_eq!(slots.holders.lock().unwrap().len(), 1);
        let busy = slots.take().unwrap();
        assert!(slots.take().is_none() && !slots.are_wanted());
        let target = Target::plain("service", 80);
        let third = slots.wait(&target).await.unwrap();
        assert!(idle.0.lock().unwrap().is_empty());
        // Nothing is idle any more: the next one waits for one that ends.
        let (fourth, ()) = tokio::join!(slots.wait(&target), async {
            while !slots.are_wanted() {
                tokio::task::yield_now().await;
            }
            drop(busy);
        });
        assert!(fourth.is_some() && !slots.are_wanted());
        drop(third);
    }
}
