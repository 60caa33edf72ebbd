//! `RetryBudget`: limits retries to a share of all requests, so that a failing service does not
//! get twice as many.

use std::sync::atomic::{AtomicU64, Ordering};

/// Initial and maximum budget, in hundredths of a request. A quiet service may be retried a few
/// times; a busy one saves up no more than this.
const INITIAL: u64 = 10 * ONE;
const MAX_SAVED: u64 = 100 * ONE;
const ONE: u64 = 100;

/// Limits the retries of requests to an upstream. All workers share it.
#[derive(Debug)]
pub(in crate::upstream) struct RetryBudget {
    saved: AtomicU64,
    /// Hundredths of a request that each request adds to the budget.
    percent: u64,
}

impl RetryBudget {
    /// Creates a budget of so many retries for each hundred requests.
    pub(in crate::upstream) fn new(percent: u32) -> Self {
        Self {
            saved: AtomicU64::new(INITIAL),
            percent: u64::from(percent),
        }
    }

    /// Adds the part for one request to the budget.
    pub(in crate::upstream) fn earn(&self) {
        // Reading is cheap while no other thread writes, and the budget is full nearly always.
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
