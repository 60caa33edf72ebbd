//! Which lists of the earlier index stay in use after a load: newer ones, and those that no file
//! contains any more.

use std::sync::Arc;

use super::list::RevocationList;
use super::{RevocationIndex, RevocationPosture, same_series};
use crate::clock;
use crate::identity::text::hex;

/// If no file contains a list any more, the list is kept for this many seconds after its nextUpdate
/// and the grace period. It is dropped then only if the posture is `hard`. The posture `hard`
/// refuses the certificates of the issuer in any case, whether the stale list is kept or not.
const FORGET_AFTER: i64 = 30 * 86_400;

impl RevocationIndex {
    /// Prevents that a list of the new files replaces a newer list of `previous`. If the list of
    /// `previous` has a higher CRL number or a later thisUpdate, it stays and the new list is
    /// dropped. If the new list is not valid yet or its signature cannot be verified yet, both
    /// lists stay.
    pub(super) fn keep_newer(&mut self, previous: &Self, now: i64) {
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
            let Some(list) = lists.iter_mut().find(|list| same_series(list, old)) else {
                let replaced = |list: &Arc<RevocationList>| {
                    list.signer().is_none() && list.same_scope(old) && list.hash != old.hash
                };
                if lists.iter().any(|list| list.hash == old.hash) || !lists.iter().any(replaced) {
                    continue;
                }
                if old.signer().is_none() {
                    // Neither signature is verified, so it is unknown which of the two lists is
                    // genuine. A verified path may supply the issuer's key later. Only one old list
                    // is kept, so there are never more than two.
                    let same = |other: &&RevocationList| {
                        other.issuer == old.issuer && other.same_scope(old)
                    };
                    if !unproven.iter().any(same) {
                        unproven.push(old);
                        lists.push(Arc::clone(old));
                    }
                } else {
                    self.alarms.push(format!(
                        "revocation list {} of {} stays in use: what is to replace it has no \
                         signature that can be verified",
                        hex(&old.number),
                        old.issuer_text
                    ));
                    lists.push(Arc::clone(old));
                }
                continue;
            };
            if list.this_update > now && old.hash != list.hash && list.age() > old.age() {
                lists.push(Arc::clone(old));
            } else if old.this_update > now {
                // The old list is not valid yet, so any new list may replace it. Nothing to do:
                // `list` is in the index already.
            } else if list.age() < old.age() || list.this_update < old.this_update {
                self.alarms.push(format!(
                    "revocation list {} of {} was refused: number {} of {} is in use",
                    hex(&list.number),
                    list.issuer_text,
                    hex(&old.number),
                    clock::rfc3339(old.this_update)
                ));
                *list = Arc::clone(old);
            }
        }
    }

    /// Keeps every list of `previous` that no new list replaces, because a missing file must not
    /// undo a revocation. After its nextUpdate, the list is stale like any other list.
    pub(crate) fn keep_in_force(&mut self, previous: &Self, now: i64) {
        for old in previous.lists() {
            let lists = self.by_issuer.entry(old.issuer.clone()).or_default();
            let is_succeeded = lists.iter().any(|list| list.succeeds(old));
            let is_there = lists.iter().any(|list| list.hash == old.hash);
            // With the postures `soft` and `off`, the list is kept even if it is stale. Without the
            // list, a certificate that only this list revokes would be accepted. With `hard`, a
            // missing list refuses the certificate, so that an old list may be removed.
            let is_over = self.posture == RevocationPosture::Hard
                && old.next_update.saturating_add(self.grace) < now - FORGET_AFTER;
            if is_succeeded || is_there || is_over {
                continue;
            }
            self.alarms.push(format!(
                "revocation list {} of {} stays in force until {} although no file holds it any \
                 more; if it was taken away on purpose, change crls or restart the gateway",
                hex(&old.number),
                old.issuer_text,
                clock::rfc3339(old.next_update)
            ));
            lists.push(Arc::clone(old));
        }
        self.by_issuer.retain(|_, lists| !lists.is_empty());
        self.digest = self.make_digest();
    }
}
