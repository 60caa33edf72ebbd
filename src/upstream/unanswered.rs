//! `Unanswered`: whom an endpoint has left without an answer since it last gave one.
//!
//! A caller may ask for what a service cannot give, on purpose too: connections that
//! break and answers that do not come are then that caller's, and the endpoint is there
//! for all others. So what one caller meets, however often, is held against an endpoint
//! for that caller alone, and only several callers are believed for everybody. An answer
//! to anybody ends all of it.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::identity::CallerName;

/// Callers that an endpoint has to leave without an answer before it is passed over for
/// everybody.
const CALLERS: usize = 3;
/// Requests of one caller that it has to leave so before it is passed over for that one.
const REQUESTS: u32 = 3;

/// Room for as many callers as it takes.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    /// Nobody outside knows which names would pass for each other.
    hasher: RandomState,
    callers: [Waiting; CALLERS],
}

/// One of those callers.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Stands for its name; zero for nobody.
    tag: AtomicU64,
    requests: AtomicU32,
    /// Until when the endpoint is passed over for it, as the endpoint counts time.
    pub(super) paused_until: AtomicU64,
}

/// For whom an endpoint is to be passed over.
#[derive(Debug)]
pub(super) enum PassedOverFor<'a> {
    Nobody,
    /// For this caller, for the time after that which says how often already.
    One(&'a Waiting, u32),
    Everybody,
}

impl Unanswered {
    /// Those that nothing names count as one: they could be as many as they like.
    fn tag(&self, caller: Option<&CallerName>) -> u64 {
        self.hasher.hash_one(caller).max(1)
    }

    /// One more request of this caller got no answer.
    pub(super) fn note(&self, caller: Option<&CallerName>) -> PassedOverFor<'_> {
        let tag = self.tag(caller);
        let takes = |place: &&Waiting| {
            let taken = (place.tag).compare_exchange(0, tag, Ordering::Relaxed, Ordering::Relaxed);
            taken.is_ok() || taken == Err(tag)
        };
        let own = self.callers.iter().find(takes);
        let [.., last] = &self.callers;
        if last.tag.load(Ordering::Relaxed) != 0 {
            return PassedOverFor::Everybody;
        }
        let counted = own.map(|own| (own, own.requests.fetch_add(1, Ordering::Relaxed) + 1));
        match counted {
            Some((own, requests)) if requests >= REQUESTS => {
                PassedOverFor::One(own, requests - REQUESTS)
            }
            _ => PassedOverFor::Nobody,
        }
    }

    /// What is known of this caller.
    pub(super) fn of(&self, caller: Option<&CallerName>) -> Option<&Waiting> {
        let is_known = |place: &&Waiting| place.tag.load(Ordering::Relaxed) != 0;
        self.callers.iter().find(is_known)?;
        let tag = self.tag(caller);
        let mut places = self.callers.iter();
        places.find(|place| place.tag.load(Ordering::Relaxed) == tag)
    }

    /// There was an answer.
    pub(super) fn forget(&self) {
        for place in &self.callers {
            place.paused_until.store(0, Ordering::Relaxed);
            place.requests.store(0, Ordering::Relaxed);
            place.tag.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_speaks_for_itself_and_three_for_everybody() {
        let [one, two, three] = ["one", "two", "three"].map(|name| CallerName::Dns(name.into()));
        let unanswered = Unanswered::default();
        // With one that nothing names.
        for caller in [Some(&one), None] {
            for _ in 1..REQUESTS {
                assert!(matches!(unanswered.note(caller), PassedOverFor::Nobody));
            }
            for time in 0..5 {
                let passed_over = unanswered.note(caller);
                assert!(matches!(passed_over, PassedOverFor::One(_, nth) if nth == time));
            }
        }
        assert!(unanswered.of(Some(&one)).is_some() && unanswered.of(Some(&two)).is_none());
        for caller in [Some(&two), Some(&three), Some(&one), None] {
            let passed_over = unanswered.note(caller);
            assert!(matches!(passed_over, PassedOverFor::Everybody));
        }
        unanswered.forget();
        assert!(unanswered.of(Some(&one)).is_none());
        assert!(matches!(unanswered.note(Some(&two)), PassedOverFor::Nobody));
    }
}
