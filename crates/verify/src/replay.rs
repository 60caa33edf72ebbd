//! Remembers the `jti` of accepted assertions, so that each assertion is
//! accepted only once.
//!
//! The size is limited, but an entry that could still be replayed is never
//! removed. If the cache is full of such entries, new assertions are refused.
//!
//! The clock may be set back. An entry that was removed would then be unknown
//! although its assertion is valid again. Therefore the cache refuses every
//! assertion that expires no later than an entry that it removed.

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

    /// Remembers `identifier` until `expiry`, or refuses it. `expiry` and `now` are
    /// seconds since 1970, and `expiry` includes the skew.
    ///
    /// # Errors
    ///
    /// [`VerifyError::Replayed`] if the identifier is remembered,
    /// [`VerifyError::Expired`] if it could have been removed, and
    /// [`VerifyError::ReplayCacheFull`].
    pub(crate) fn admit(&self, identifier: &str, expiry: u64, now: u64) -> Result<(), VerifyError> {
        let entry = crypto::sha256(identifier.as_bytes());
        // A poisoned lock is usable, because a panic cannot leave the entries
        // partly changed.
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.forget_expired(now);
        if entries.seen.contains(&entry) {
            return Err(VerifyError::Replayed);
        }
        // This depends on what was removed, not on the latest time seen: after the
        // clock was ahead, new assertions are refused only if they cannot be
        // distinguished from removed ones.
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
