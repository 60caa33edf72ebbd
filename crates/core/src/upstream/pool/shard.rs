//! `PoolShard`: the connections of one worker.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::target_pool::{ConnectionMeta, IdleHttp1, TargetPool};
use crate::upstream::config::target::Target;
use crate::upstream::connection::addresses::Addresses;
use crate::upstream::limits::connection_limit::{ConnectionLimit, IdleHolder};
use crate::upstream::limits::descriptors::IdleConnections;

/// The connection pool of one worker. `B` is the type of request bodies.
pub struct PoolShard<B> {
    targets: Mutex<HashMap<Arc<Target>, TargetPool<B>>>,
}

impl<B> Default for PoolShard<B> {
    fn default() -> Self {
        Self {
            targets: Mutex::new(HashMap::new()),
        }
    }
}

impl<B> PoolShard<B> {
    pub(super) fn targets(&self) -> MutexGuard<'_, HashMap<Arc<Target>, TargetPool<B>>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take_idle(
        &self,
        target: &Arc<Target>,
        addresses: &Arc<Addresses>,
    ) -> Option<IdleHttp1<B>> {
        let mut targets = self.targets();
        let idle = &mut targets.get_mut(target)?.idle;
        while let Some(last) = idle.pop() {
            // The list is sorted by the last use. If even the most recently used connection was
            // idle for too long, all other connections were too.
            if last.since.elapsed() >= last.idle_timeout {
                idle.clear();
                return None;
            }
            if last.is_open() && last.meta.is_good() && addresses.still_has(last.meta.address) {
                return Some(last);
            }
        }
        None
    }

    /// Closes connections that were idle for too long, and removes connections that the service has
    /// closed.
    pub fn sweep(&self) {
        self.targets().retain(|_, pool| {
            pool.idle.retain_mut(|idle| {
                idle.driver.notice_end();
                idle.since.elapsed() < idle.idle_timeout && idle.is_open()
            });
            pool.remove_closed();
            !pool.idle.is_empty()
                || !pool.shared.is_empty()
                || !pool.opening.is_empty()
                || !pool.troubled.is_empty()
                || pool.waiters.waiting() > 0
        });
    }
}

impl<B: Send + 'static> IdleConnections for PoolShard<B> {
    fn close_any_idle(&self) -> bool {
        let mut targets = self.targets();
        targets.values_mut().any(|pool| {
            if !pool.idle.is_empty() {
                pool.idle.remove(0);
                return true;
            }
            pool.close_unused(|_| true)
        })
    }
}

impl<B: Send + 'static> IdleHolder for PoolShard<B> {
    fn close_idle(&self, target: &Target, limit: &ConnectionLimit) -> bool {
        // Not all connections to `target` count against `limit`. Some count against the limit of
        // another upstream with the same target. Others count against the limit that this upstream
        // had before a reload.
        let is_of = |meta: &ConnectionMeta| std::ptr::eq(Arc::as_ptr(&meta.limit), limit);
        self.targets().get_mut(target).is_some_and(|pool| {
            // Closes the connection that was idle for the longest time, or an h2 connection without
            // streams.
            if let Some(index) = pool.idle.iter().position(|idle| is_of(&idle.meta)) {
                pool.idle.remove(index);
                return true;
            }
            pool.close_unused(|one| one.has_slot && is_of(&one.meta))
        })
    }
}

impl<B> std::fmt::Debug for PoolShard<B> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PoolShard").finish_non_exhaustive()
    }
}
