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
    /// A list without a number is accepted. Then only thisUpdate shows whether a list is newer than
    /// another list.
    Optional,
}

/// The rules for revocation lists of one trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CrlRules {
    /// Whether a list must have a number.
    pub number: CrlNumber,
    /// How long after its thisUpdate a list without nextUpdate is used. If this is `None`, such
    /// lists are refused.
    pub max_age: Option<Duration>,
}

impl CrlRules {
    /// Checks that a list has the fields that the rules require.
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

    /// Returns when a newer list must replace `list`, in seconds since the Unix epoch. Earlier
    /// rules may have accepted a list that has no such time under these rules. This function then
    /// returns thisUpdate, so the list counts as outdated from the beginning.
    pub(super) fn next_update(self, list: &RevocationList) -> i64 {
        let end = list.times.end(self.max_age);
        end.unwrap_or(list.times.this_update)
    }

    /// Whether `list` is newer than the list `than` of the same issuer and scope.
    pub(super) fn is_newer(self, list: &RevocationList, than: &RevocationList) -> bool {
        self.age(list) > self.age(than)
    }

    /// Returns a key that orders the lists of one issuer and scope: the newest list has the
    /// greatest key. If every list must have a number, the number is compared first. Otherwise
    /// thisUpdate is compared first. If a number were compared first only when both lists have one,
    /// the order could be circular.
    fn age(self, list: &RevocationList) -> (i64, usize, &[u8], i64) {
        let time = list.times.this_update;
        let number = list.number.as_deref().unwrap_or_default();
        match self.number {
            CrlNumber::Required => (0, number.len(), number, time),
            CrlNumber::Optional => (time, number.len(), number, 0),
        }
    }
}
