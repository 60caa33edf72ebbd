//! `CrlRules`: which revocation lists a trust domain accepts, and which of two lists is newer.

use std::time::Duration;

use super::list::RevocationList;
use super::unusable::UnusableCrl;

/// Whether a revocation list must have a number (cRLNumber).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CrlNumber {
    /// A list without a number is refused.
    #[default]
    Required,
    /// A list may have none. Then only thisUpdate distinguishes an update from a roll-back.
    Optional,
}

/// The rules for revocation lists of one trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CrlRules {
    /// Whether a list must have a number.
    pub number: CrlNumber,
    /// How long after its thisUpdate a list without nextUpdate is used. Without this limit such
    /// lists are refused.
    pub max_age: Option<Duration>,
}

impl CrlRules {
    /// Checks that a list has what the rules require.
    pub(super) fn check(self, list: &RevocationList) -> Result<(), UnusableCrl> {
        if list.number.is_none() && self.number == CrlNumber::Required {
            return Err(match list.is_version_1 {
                true => UnusableCrl::Version,
                false => UnusableCrl::NoNumber,
            });
        }
        match list.times.end(self.max_age) {
            Some(_) => Ok(()),
            None => Err(UnusableCrl::NoNextUpdate),
        }
    }

    /// Returns when a list is to be replaced, in seconds since the Unix epoch. A list that was
    /// accepted under earlier rules, and has no end under these, is over since it was made.
    pub(super) fn next_update(self, list: &RevocationList) -> i64 {
        let end = list.times.end(self.max_age);
        end.unwrap_or(list.times.this_update)
    }

    /// Whether a list of the same issuer and scope is newer than another one.
    pub(super) fn is_newer(self, list: &RevocationList, than: &RevocationList) -> bool {
        self.age(list) > self.age(than)
    }

    /// Orders the lists of one issuer and scope: by number first. If lists may have none, by time
    /// first, because an order that used the number only if both lists have one could be circular.
    fn age(self, list: &RevocationList) -> (i64, usize, &[u8], i64) {
        let time = list.times.this_update;
        let number = list.number.as_deref().unwrap_or_default();
        match self.number {
            CrlNumber::Required => (0, number.len(), number, time),
            CrlNumber::Optional => (time, number.len(), number, 0),
        }
    }
}
