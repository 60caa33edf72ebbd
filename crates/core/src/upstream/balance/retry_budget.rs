//! `RetryBudget`: limits retries to a percentage of all requests, so that retries do not double the
//! load of a failing service.

use std::sync::atomic::{AtomicU64, Ordering};

/// The budget in hundredths of a retry: `INITIAL` at the start, and at most `MAX_SAVED`. A new
/// upstream can therefore retry ten times before it has earned any retries, and no upstream saves
/// up more than a hundred.
const INITIAL: u64 = 10 * ONE;
const MAX_SAVED: u64 = 100 * ONE;
const ONE: u64 = 100;

/// Limits the retries of requests to an upstream. All workers share it.
#[derive(Debug)]
pub(in crate::upstream) struct RetryBudget {
    saved: AtomicU64,
    /// How much each request adds to the budget, in hundredths of a retry.
    percent: u64,
}

impl RetryBudget {
    /// Creates a budget that allows `percent` retries for each hundred requests.
    pub(in crate::upstream) fn new(percent: u32) -> Self {
        Self {
            saved: AtomicU64::new(INITIAL),
            percent: u64::from(percent),
        }
    }

    /// Adds what one request earns: `percent` hundredths of a retry.
    pub(in crate::upstream) fn earn(&self) {
        // The load avoids a store for most requests, because the budget is nearly always full.
        if self.saved.load(Ordering::Relaxed) < MAX_SAVED {
            self.saved.fetch_add(self.percent, Ordering::Relaxed);
        }
    }

    /// Takes one retry from the budget. Returns false if the budget is used up.
    pub(in crate::upstream) fn spend(&self) -> bool {
        self.saved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| {
                saved.checked_sub(ONE)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_requests_stay_a_share_of_all() {
        let budget = RetryBudget::new(20);
        let mut spent = 0;
        for _ in 0..10_000 {
            budget.earn();
            spent += usize::from(budget.spend());
        }
        assert!((2000..=2011).contains(&spent), "{spent}");
        for _ in 0..10_000 {
            budget.earn();
        }
        let saved = (0..10_000).filter(|_| budget.spend()).count();
        assert!((100..=101).contains(&saved), "{saved}");
    }
}
