//! Remembers the `jti` of accepted assertions, so that each assertion is
//! accepted only once.
//!
//! The size is limited, but an entry that could still be replayed is never
//! removed. If the cache is full of such entries, new assertions are refused.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::sync::{Mutex, PoisonError};

use crate::VerifyError;
use crate::crypto;

/// Identifiers of accepted assertions. They are hashed, so that all entries
/// have the same size.
#[derive(Debug)]
pub(crate) struct ReplayCache {
    capacity: usize,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    seen: HashSet<[u8; 32]>,
    /// The same entries; the first to expire is on top.
    by_expiry: BinaryHeap<Reverse<(u64, [u8; 32])>>,
}

impl ReplayCache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            entries: Mutex::default(),
        }
    }

    /// Remembers `identifier` until `expiry`, or refuses it.
    pub(crate) fn admit(&self, identifier: &str, expiry: u64, now: u64) -> Result<(), VerifyError> {
        let entry = crypto::sha256(identifier.as_bytes());
        // A poisoned lock is usable, because a panic cannot leave the entries
        // partly changed.
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.forget_expired(now);
        if entries.seen.contains(&entry) {
            return Err(VerifyError::Replayed);
        }
        if entries.seen.len() >= self.capacity {
            return Err(VerifyError::ReplayCacheFull);
        }
        entries.seen.insert(entry);
        entries.by_expiry.push(Reverse((expiry, entry)));
        Ok(())
    }
}

impl Entries {
    fn forget_expired(&mut self, now: u64) {
        while let Some(Reverse((expiry, entry))) = self.by_expiry.peek() {
            if *expiry > now {
                break;
            }
            self.seen.remove(entry);
            self.by_expiry.pop();
        }
    }
}
