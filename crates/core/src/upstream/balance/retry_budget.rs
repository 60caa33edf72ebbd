//! `RetryBudget`: limits retries to a percentage of all requests, so that retries do not double the
//! load of a failing service.

use std::sync::atomic::{AtomicU64, Ordering};

/// Amounts of the budget, in hundredths of a retry. `INITIAL` allows ten retries before a new
/// upstream has received requests. If the budget has reached `MAX_SAVED`, which allows a hundred
/// retries, requests add nothing to it.
const INITIAL: u64 = 10 * ONE;
const MAX_SAVED: u64 = 100 * ONE;
const ONE: u64 = 100;

/// Limits the retries of requests to one upstream. All workers share the budget.
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

    /// Called for each request. Adds `percent` hundredths of a retry to the budget.
    pub(in crate::upstream) fn earn(&self) {
        // The budget is nearly always full, so this check saves the write for most requests.
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
