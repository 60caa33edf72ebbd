//! Limits the connections to the services of all upstreams together. This is needed because the
//! process has a limited number of file descriptors, and keeps some of them free for operators'
//! connections.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Maximum time until a closed connection has returned its file descriptor.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(250);

/// A connection pool that may hold idle connections.
pub(in crate::upstream) trait IdleConnections: Send + Sync {
    /// Closes an idle connection to any target. Returns whether a connection was closed.
    fn close_any_idle(&self) -> bool;
}

/// Reserves the file descriptor of one connection until the permit is dropped.
pub(in crate::upstream) type Descriptor = OwnedSemaphorePermit;

struct Budget {
    free: Arc<Semaphore>,
    pools: Mutex<Vec<Weak<dyn IdleConnections>>>,
}

fn budget() -> &'static Budget {
    static BUDGET: OnceLock<Budget> = OnceLock::new();
    BUDGET.get_or_init(|| Budget {
        free: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        pools: Mutex::default(),
    })
}

/// Sets the limit on connections to services. Must be called once, before the first connection.
pub fn limit_connections(max: usize) {
    let free = &budget().free;
    free.forget_permits(Semaphore::MAX_PERMITS.saturating_sub(max));
}

/// Registers a connection pool that may hold idle connections.
pub(in crate::upstream) fn register(pool: Weak<dyn IdleConnections>) {
    let mut pools = budget()
        .pools
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    pools.retain(|known| known.strong_count() > 0);
    if !pools.iter().any(|known| known.ptr_eq(&pool)) {
        pools.push(pool);
    }
}

/// Reserves a file descriptor for a new connection. If all descriptors are reserved, closes an idle
/// connection. Returns `None` if no descriptor becomes free.
pub(in crate::upstream) async fn take() -> Option<Descriptor> {
    let budget = budget();
    if let Ok(descriptor) = Arc::clone(&budget.free).try_acquire_owned() {
        return Some(descriptor);
    }
    let pools: Vec<Arc<dyn IdleConnections>> = {
        let pools = budget.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.iter().filter_map(Weak::upgrade).collect()
    };
    if !pools.iter().any(|pool| pool.close_any_idle()) {
        return None;
    }
    // A closed connection returns its descriptor only after a short time.
    let given_back = Arc::clone(&budget.free).acquire_owned();
    tokio::time::timeout(CLOSE_TIMEOUT, given_back)
        .await
        .ok()?
        .ok()
}
