//! Counts requests and faults, and assigns a unique identifier to each request.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The maximum number of fault descriptions that are stored.
const MAX_FAULTS: usize = 40;

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) stop: AtomicBool,
    next: AtomicU64,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    answered: Mutex<HashSet<String>>,
    faults: Mutex<Vec<String>>,
}

impl Ledger {
    pub(crate) fn over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Returns a new unique identifier for a request.
    pub(crate) fn id(&self) -> String {
        format!("{:012x}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn count(&self, what: &'static str) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(what).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Records that the request for this path got a complete response.
    pub(crate) fn answered(&self, path: &str) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.insert(path.to_owned());
    }

    /// Returns the paths of all requests that got a complete response.
    pub(crate) fn all_answered(&self) -> HashSet<String> {
        self.answered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn fault(&self, what: String) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.len() < MAX_FAULTS {
            eprintln!("fault: {what}");
            faults.push(what);
        }
    }

    pub(crate) fn faults(&self) -> Vec<String> {
        self.faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
