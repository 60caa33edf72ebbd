//! `ConcurrencyLimit`: limits how many requests of one kind are in progress at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of [`InFlightGuard`]s that exist.
#[derive(Debug, Default)]
pub(in crate::upstream) struct ConcurrencyLimit(AtomicUsize);

/// Counts one request as in progress until the guard is dropped.
#[derive(Debug)]
pub(in crate::upstream) struct InFlightGuard(Arc<ConcurrencyLimit>);

impl ConcurrencyLimit {
    /// Counts a request as in progress until the returned guard is dropped. Returns `None` if `max`
    /// requests are in progress already.
    pub(in crate::upstream) fn acquire(self: &Arc<Self>, max: usize) -> Option<InFlightGuard> {
        let guard = InFlightGuard(Arc::clone(self));
        (self.0.fetch_add(1, Ordering::Relaxed) < max).then_some(guard)
    }

    /// Returns how many requests are in progress.
    #[cfg(test)]
    fn in_flight(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_are_in_flight() {
        let limit = Arc::new(ConcurrencyLimit::default());
        let first = limit.acquire(2).unwrap();
        let _second = limit.acquire(2).unwrap();
        assert!(limit.acquire(2).is_none());
        assert_eq!(limit.in_flight(), 2);
        drop(first);
        assert!(limit.acquire(2).is_some());
        assert_eq!(limit.in_flight(), 1);
    }
}
