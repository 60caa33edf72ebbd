//! Remembers the `jti` of accepted assertions, so that each assertion is
//! accepted only once.
//!
//! The cache has a limited size. It removes only entries that have expired. If the cache is full of
//! entries that have not expired, it refuses new assertions.
//!
//! If the system clock is set back, a removed entry may belong to an assertion that is valid
//! again. Therefore the cache remembers the latest expiry of all removed entries. It refuses
//! every assertion that does not expire after that time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::sync::{Mutex, PoisonError};

use crate::VerifyError;
use crate::crypto;

/// The `jti` of accepted assertions. The cache stores hashes, so that all entries have
/// the same size.
#[derive(Debug)]
pub(crate) struct ReplayCache {
    capacity: usize,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    seen: HashSet<[u8; 32]>,
    /// The same entries as `seen`, with the earliest expiry on top.
    by_expiry: BinaryHeap<Reverse<(u64, [u8; 32])>>,
    /// The latest expiry of all entries that were removed. It never decreases.
    removed_until: u64,
}

impl ReplayCache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            entries: Mutex::default(),
        }
    }

    /// Stores `identifier` until `expiry`, or refuses it. `expiry` and `now` are seconds
    /// since 1970, and `expiry` includes the skew.
    ///
    /// # Errors
    ///
    /// [`VerifyError::Replayed`] if the cache contains the identifier,
    /// [`VerifyError::Expired`] if the cache may have removed the identifier, and
    /// [`VerifyError::ReplayCacheFull`] if there is no space.
    pub(crate) fn admit(&self, identifier: &str, expiry: u64, now: u64) -> Result<(), VerifyError> {
        let entry = crypto::sha256(identifier.as_bytes());
        // A poisoned lock is usable, because a panic cannot leave the entries
        // partly changed.
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.forget_expired(now);
        if entries.seen.contains(&entry) {
            return Err(VerifyError::Replayed);
        }
        // Compares with `removed_until`, and not with the latest time that the clock has shown. If
        // the clock was ahead for a while, this refuses only assertions whose entries may have been
        // removed.
        if expiry <= entries.removed_until {
            return Err(VerifyError::Expired);
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
            self.removed_until = self.removed_until.max(*expiry);
            self.seen.remove(entry);
            self.by_expiry.pop();
        }
    }
}
