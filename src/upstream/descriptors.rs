//! How many connections to services there may be, whatever their upstream: the process
//! has only so many descriptors, and some are kept for the operator.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long closing a connection at rest may take.
const GIVEN_BACK: Duration = Duration::from_millis(250);

/// A pool that may hold connections at rest.
pub(super) trait Reserve: Send + Sync {
    /// Closes a connection at rest, wherever it leads. Returns whether there was one.
    fn close_idle(&self) -> bool;
}

/// A connection's descriptor, until it is dropped.
pub(super) type Descriptor = OwnedSemaphorePermit;

struct Budget {
    free: Arc<Semaphore>,
    pools: Mutex<Vec<Weak<dyn Reserve>>>,
}

fn budget() -> &'static Budget {
    static BUDGET: OnceLock<Budget> = OnceLock::new();
    BUDGET.get_or_init(|| Budget {
        free: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        pools: Mutex::default(),
    })
}

/// Bounds the connections to services. To be called once, before there are any.
pub fn limit_connections(most: usize) {
    let free = &budget().free;
    free.forget_permits(Semaphore::MAX_PERMITS.saturating_sub(most));
}

/// Makes a pool known that may hold connections at rest.
pub(super) fn register(pool: Weak<dyn Reserve>) {
    let mut pools = budget()
        .pools
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    pools.retain(|known| known.strong_count() > 0);
    if !pools.iter().any(|known| known.ptr_eq(&pool)) {
        pools.push(pool);
    }
}

/// A descriptor for a new connection; if all are taken, that of a connection at rest.
pub(super) async fn take() -> Option<Descriptor> {
    let budget = budget();
    if let Ok(descriptor) = Arc::clone(&budget.free).try_acquire_owned() {
        return Some(descriptor);
    }
    let pools: Vec<Arc<dyn Reserve>> = {
        let pools = budget.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.iter().filter_map(Weak::upgrade).collect()
    };
    if !pools.iter().any(|pool| pool.close_idle()) {
        return None;
    }
    // A connection gives its descriptor back a moment after it was closed.
    let given_back = Arc::clone(&budget.free).acquire_owned();
    tokio::time::timeout(GIVEN_BACK, given_back)
        .await
        .ok()?
        .ok()
}
