//! `UnansweredRequests`: counts the requests that an endpoint has left without a response, for each
//! caller. When the endpoint sends a response, all counts become zero.
//!
//! A caller can send requests that a service cannot handle, even on purpose. Such a caller may be
//! the cause of broken connections and missing responses. Failures of one caller therefore eject an
//! endpoint for that caller only. Failures of several callers eject the endpoint for all callers.
//! One response to any caller ends all ejections.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::identity::CallerName;

/// If requests of this many callers got no response, the endpoint is ejected for all callers.
const CALLERS: usize = 3;
/// If this many requests of one caller got no response, the endpoint is ejected for that caller.
const REQUESTS: u32 = 3;

/// Requests that an endpoint left without a response, with one entry for each caller.
#[derive(Debug, Default)]
pub(super) struct UnansweredRequests {
    /// Computes the tags of callers. The hash has a random key, so that a caller cannot choose a
    /// name whose tag equals another caller's tag.
    hasher: RandomState,
    callers: [CallerFailures; CALLERS],
}

/// The requests of one caller that an endpoint left without a response.
#[derive(Debug, Default)]
pub(super) struct CallerFailures {
    /// The hash of the caller's name; zero if the entry is free.
    tag: AtomicU64,
    requests: AtomicU32,
    /// The end of the ejection for this caller, in milliseconds after `since` of the endpoint.
    pub(super) ejected_until: AtomicU64,
}

/// The callers for which an endpoint has to be ejected after a request without a response.
#[derive(Debug)]
pub(super) enum EjectionScope<'a> {
    None,
    /// The endpoint is ejected for this caller only. The number says how often the endpoint was
    /// ejected for this caller before.
    Caller(&'a CallerFailures, u32),
    AllCallers,
}

impl UnansweredRequests {
    /// Returns the tag of a caller. All callers without a name share one tag. Otherwise one caller
    /// without a name could count as several callers.
    fn tag(&self, caller: Option<&CallerName>) -> u64 {
        self.hasher.hash_one(caller).max(1)
    }

    /// Counts one more request of this caller that got no response. Returns for which callers the
    /// endpoint has to be ejected.
    pub(super) fn note(&self, caller: Option<&CallerName>) -> EjectionScope<'_> {
        let tag = self.tag(caller);
        let takes = |entry: &&CallerFailures| {
            let taken = (entry.tag).compare_exchange(0, tag, Ordering::Relaxed, Ordering::Relaxed);
            taken.is_ok() || taken == Err(tag)
        };
        let own = self.callers.iter().find(takes);
        let [.., last] = &self.callers;
        if last.tag.load(Ordering::Relaxed) != 0 {
            return EjectionScope::AllCallers;
        }
        let counted = own.map(|own| (own, own.requests.fetch_add(1, Ordering::Relaxed) + 1));
        match counted {
            Some((own, requests)) if requests >= REQUESTS => {
                EjectionScope::Caller(own, requests - REQUESTS)
            }
            _ => EjectionScope::None,
        }
    }

    /// Returns the entry of `caller`. Returns `None` if there is no entry, because no missing
    /// response to this caller was counted.
    pub(super) fn of(&self, caller: Option<&CallerName>) -> Option<&CallerFailures> {
        let is_known = |entry: &&CallerFailures| entry.tag.load(Ordering::Relaxed) != 0;
        self.callers.iter().find(is_known)?;
        let tag = self.tag(caller);
        let mut entries = self.callers.iter();
        entries.find(|entry| entry.tag.load(Ordering::Relaxed) == tag)
    }

    /// Removes all entries, because the endpoint has sent a response.
    pub(super) fn clear(&self) {
        for entry in &self.callers {
            entry.ejected_until.store(0, Ordering::Relaxed);
            entry.requests.store(0, Ordering::Relaxed);
            entry.tag.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_counts_for_itself_and_three_for_all() {
        let [one, two, three] = ["one", "two", "three"].map(|name| CallerName::Dns(name.into()));
        let unanswered = UnansweredRequests::default();
        // A caller with a name and a caller without a name are counted separately. Each reaches the
        // limit `REQUESTS` by its own requests.
        for caller in [Some(&one), None] {
            for _ in 1..REQUESTS {
                assert!(matches!(unanswered.note(caller), EjectionScope::None));
            }
            for time in 0..5 {
                let scope = unanswered.note(caller);
                assert!(matches!(scope, EjectionScope::Caller(_, nth) if nth == time));
            }
        }
        assert!(unanswered.of(Some(&one)).is_some() && unanswered.of(Some(&two)).is_none());
        for caller in [Some(&two), Some(&three), Some(&one), None] {
            let scope = unanswered.note(caller);
            assert!(matches!(scope, EjectionScope::AllCallers));
        }
        unanswered.clear();
        assert!(unanswered.of(Some(&one)).is_none());
        assert!(matches!(unanswered.note(Some(&two)), EjectionScope::None));
    }
}
