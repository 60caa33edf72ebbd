//! Decides which lists of the earlier index stay in use after a load. A list stays if it is newer
//! than the loaded list, or if no file contains it any more.

use std::sync::Arc;

use super::list::RevocationList;
use super::{RevocationIndex, RevocationPosture};
use crate::clock;

/// If no file contains a list any more, the list is kept for this many seconds after its nextUpdate
/// and the grace period. It is dropped then only if the posture is `hard`. The posture `hard`
/// refuses the certificates of the issuer in any case, whether the stale list is kept or not.
const FORGET_AFTER: i64 = 30 * 86_400;

impl RevocationIndex {
    /// Refuses older lists. A list of the new files is dropped if a list of `previous` that is in
    /// force is newer ([`RevocationList::may_replace`]). A list of `previous` stays unless a new
    /// list replaces it. Both lists stay if the new list is not valid yet, or if its signature
    /// cannot be verified yet. A list of `previous` that is not valid yet does not prevent its
    /// replacement.
    pub(super) fn keep_newer(&mut self, previous: &Self, now: i64) {
        self.drop_older(previous, now);
        let mut unproven: Vec<&RevocationList> = Vec::new();
        // Of several unverified old lists with the same scope, this loop keeps only the first.
        // Earlier calls have added the lists that they kept at the end. So the order is reversed,
        // and the same lists are kept again.
        for old in previous.by_issuer.values().flat_map(|own| own.iter().rev()) {
            // If the new files contain no list of this issuer, the operator has removed the list on
            // purpose.
            let Some(lists) = self.by_issuer.get_mut(&old.issuer) else {
                continue;
            };
            if lists.iter().any(|list| list.hash == old.hash) {
                continue;
            }
            if lists.iter().any(|list| list.is_of_series(old)) {
                let is_replaced = lists.iter().any(|list| {
                    let is_valid = list.times.this_update <= now;
                    // The operator may replace a list that is not valid yet by an older list.
                    let is_withdrawn = old.times.this_update > now && !list.may_replace(old);
                    list.is_of_series(old) && (is_withdrawn || is_valid && list.may_replace(old))
                });
                if !is_replaced {
                    lists.push(Arc::clone(old));
                }
                continue;
            }
            let replaced =
                |list: &Arc<RevocationList>| list.signer().is_none() && list.same_scope(old);
            if !lists.iter().any(replaced) {
                continue;
            }
            if old.signer().is_none() {
                // Neither signature is verified, so it is unknown which of the two lists is
                // genuine. A verified path may supply the issuer's key later. Only one old list
                // is kept, so there are never more than two.
                let same =
                    |other: &&RevocationList| other.issuer == old.issuer && other.same_scope(old);
                if !unproven.iter().any(same) {
                    unproven.push(old);
                    lists.push(Arc::clone(old));
                }
            } else {
                self.alarms.push(format!(
                    "{} stays in use: what is to replace it has no signature that can be verified",
                    old.title()
                ));
                lists.push(Arc::clone(old));
            }
        }
    }

    /// Drops each new list that is older than a list of `previous` that is in force. Puts the list
    /// of `previous` in the place of the dropped list, so that the issuer still has lists.
    fn drop_older(&mut self, previous: &Self, now: i64) {
        for (issuer, lists) in &mut self.by_issuer {
            let of_issuer = || previous.by_issuer.get(issuer).into_iter().flatten();
            let mut stays = Vec::new();
            lists.retain(|list| {
                let newer = of_issuer().find(|old| {
                    list.is_of_series(old) && !list.may_replace(old) && old.times.this_update <= now
                });
                let Some(newer) = newer else {
                    return true;
                };
                let (title, why) = (list.title(), list.why_older(newer));
                self.alarms.push(format!("{title} was refused: {why}"));
                stays.push(Arc::clone(newer));
                false
            });
            for newer in stays {
                if !lists.iter().any(|list| list.hash == newer.hash) {
                    lists.push(newer);
                }
            }
        }
    }

    /// Keeps every list of `previous` that no new list replaces, because a missing file must not
    /// undo a revocation. After its nextUpdate, the list is stale like any other list.
    pub(crate) fn keep_in_force(&mut self, previous: &Self, now: i64) {
        for old in previous.lists() {
            let end = self.rules.next_update(old);
            let lists = self.by_issuer.entry(old.issuer.clone()).or_default();
            let is_succeeded = lists.iter().any(|list| list.succeeds(old));
            let is_there = lists.iter().any(|list| list.hash == old.hash);
            // With the postures `soft` and `off`, the list is kept even if it is stale. Without the
            // list, a certificate that only this list revokes would be accepted. With `hard`, a
            // certificate is refused if its list is missing, so an old list may be removed.
            let is_over = self.posture == RevocationPosture::Hard
                && end.saturating_add(self.grace) < now - FORGET_AFTER;
            if is_succeeded || is_there || is_over {
                continue;
            }
            self.alarms.push(format!(
                "{} stays in force until {} although no file holds it any more; if it was taken \
                 away on purpose, change crls or restart the gateway",
                old.title(),
                clock::rfc3339(end)
            ));
            lists.push(Arc::clone(old));
        }
        self.by_issuer.retain(|_, lists| !lists.is_empty());
        self.digest = self.make_digest();
    }
}
