//! `RevocationIndex`: the revocation lists of one trust domain, and the status of a path by them.
//!
//! webpki verifies a list's signature at every look-up. Here that happens once: at load if the
//! issuer is configured, else when a verified path first supplies the issuer's key; until then the
//! list is not consulted. A list belongs to an issuer's name and key, and counts only while it is
//! the newest of that issuer and scope. The index fetches nothing and reads no files.
//!
//! - `list`: one list, checked and taken apart at load
//! - `serials`: a compact set of revoked serial numbers
//! - `unusable`: why a list cannot be used
//! - `status`: the age of each list
//! - `posture`: how strictly revocation is checked

mod list;
mod posture;
mod serials;
mod status;
mod unusable;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateRevocationListDer;

use super::certificate::error::PathError;
use super::certificate::member::PathMember;
use crate::clock;
use crate::crypto;
use crate::identity::peer::RevocationCheck;
use crate::identity::text::hex;
use crate::reason::ReasonCode;
use list::RevocationList;

pub use list::{CrlOutline, next_update};
pub use posture::{RevocationDepth, RevocationPosture};
pub use status::{CrlStatus, Freshness};
pub use unusable::UnusableCrl;

/// How many seconds after its nextUpdate a list without successor is kept, if its callers would be
/// refused without it anyway.
const FORGET_AFTER: i64 = 30 * 86_400;

/// An authority that is configured, so that its lists can be verified at load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownIssuer<'a> {
    /// Name, DER.
    pub(crate) name: &'a [u8],
    /// SubjectPublicKeyInfo, DER.
    pub(crate) key: &'a [u8],
}

/// The revocation result of a path that is not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RevocationOutcome {
    pub(crate) check: RevocationCheck,
    /// thisUpdate of the oldest list consulted.
    pub(crate) this_update: Option<i64>,
    /// When the lists have to be consulted again, at the latest.
    pub(crate) good_until: i64,
}

/// The revocation status of one certificate.
enum Status {
    Good { this_update: i64, until: i64 },
    Revoked,
    Unknown(String),
    Stale(String),
}

/// The revocation lists of one trust domain.
#[derive(Clone)]
pub(crate) struct RevocationIndex {
    posture: RevocationPosture,
    depth: RevocationDepth,
    grace: i64,
    by_issuer: HashMap<Box<[u8]>, Vec<Arc<RevocationList>>>,
    /// Changes with every list that comes or goes.
    digest: [u8; 32],
    alarms: Vec<String>,
    /// Since when nothing newer could be read, if that is too long ago.
    suspended: Option<i64>,
}

impl RevocationIndex {
    /// Creates an index without lists.
    pub(crate) fn new(posture: RevocationPosture, depth: RevocationDepth, grace: Duration) -> Self {
        Self {
            posture,
            depth,
            grace: i64::try_from(grace.as_secs()).unwrap_or(i64::MAX),
            by_issuer: HashMap::new(),
            digest: [0; 32],
            alarms: Vec::new(),
            suspended: None,
        }
    }

    /// Loads the lists. They replace the index `previous`, whose lists are not read or verified
    /// again. A list that is older than its predecessor is omitted with an alarm, and the
    /// predecessor is kept. A predecessor also stays if its successor is signed by no known issuer,
    /// or not valid at `now`. Returns the position of each refused list, and why it is refused.
    ///
    /// Returns the position of each list that is refused, and why.
    pub(crate) fn load<'d>(
        &mut self,
        lists: impl Iterator<Item = &'d [u8]>,
        issuers: &[KnownIssuer<'_>],
        previous: Option<&Self>,
        now: i64,
    ) -> Vec<(usize, UnusableCrl)> {
        let mut refused = Vec::new();
        // A key that a path supplied to the predecessor verifies the successor.
        let proven = previous.into_iter().flat_map(Self::proven_issuers);
        let known: Vec<([u8; 32], KnownIssuer<'_>)> = issuers
            .iter()
            .copied()
            .chain(proven)
            .map(|issuer| (crypto::sha256(issuer.key), issuer))
            .collect();
        for (index, der) in lists.enumerate() {
            let hash = crypto::sha256(der);
            let list = match previous.and_then(|index| index.find(&hash)) {
                Some(list) => list,
                None => match RevocationList::read(der, hash) {
                    Ok(list) => Arc::new(list),
                    Err(why) => {
                        refused.push((index, why));
                        continue;
                    }
                },
            };
            self.verify_at_load(&list, &known);
            self.insert(list);
        }
        if let Some(previous) = previous {
            self.keep_newer(previous, now);
        }
        self.digest = self.make_digest();
        refused
    }

    /// Checks whether a document with these lists may replace one with the lists of `kept`. Each
    /// list must be readable, signed by its issuer if that is known, and not older than another of
    /// its kind. Every list of `kept` must have a successor, by the same key if that is known:
    /// without one, its certificates would no longer be revoked.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check_document(
        &self,
        lists: &[CertificateRevocationListDer<'_>],
        kept: &[CertificateRevocationListDer<'_>],
        issuers: &[KnownIssuer<'_>],
    ) -> Result<(), String> {
        let issuers: Vec<KnownIssuer<'_>> = issuers
            .iter()
            .copied()
            .chain(self.proven_issuers())
            .collect();
        let mut successors = Vec::with_capacity(lists.len());
        for der in lists {
            let list = self
                .candidate(der, &issuers)
                .map_err(|why| why.to_string())?;
            let known = issuers.iter().any(|issuer| *issuer.name == *list.issuer);
            if known && list.signer().is_none() {
                return Err(format!(
                    "it is signed by none of the keys known of {}",
                    list.issuer_text
                ));
            }
            let mut own = self.by_issuer.get(&list.issuer).into_iter().flatten();
            let newer = own.find(|other| same_series(other, &list) && other.age() > list.age());
            if let Some(newer) = newer {
                return Err(list.is_older_than(newer));
            }
            successors.push(list);
        }
        for der in kept {
            // A list that cannot be read is not in use either.
            let Ok(old) = self.candidate(der, &issuers) else {
                continue;
            };
            let mut own = successors.iter().filter(|list| list.succeeds(&old));
            let Some(first) = own.next() else {
                return Err(format!(
                    "it leaves out the list of {} that is in use",
                    old.issuer_text
                ));
            };
            // A list with a verified signature may replace an unverified one of any age.
            let takes_over = |list: &RevocationList| {
                list.age() >= old.age() || list.signer().is_some() && old.signer().is_none()
            };
            if !takes_over(first) && !own.any(|list| takes_over(list)) {
                return Err(first.is_older_than(&old));
            }
        }
        Ok(())
    }

    /// Reads a list, with its signer if that is one of these issuers.
    fn candidate(
        &self,
        der: &[u8],
        issuers: &[KnownIssuer<'_>],
    ) -> Result<Arc<RevocationList>, UnusableCrl> {
        let hash = crypto::sha256(der);
        let list = match self.find(&hash) {
            Some(list) => list,
            None => Arc::new(RevocationList::read(der, hash)?),
        };
        let mut own = issuers.iter().filter(|issuer| *issuer.name == *list.issuer);
        let _ = own.any(|issuer| list.is_signed_by(issuer.key, &crypto::sha256(issuer.key)));
        Ok(list)
    }

    fn find(&self, hash: &[u8; 32]) -> Option<Arc<RevocationList>> {
        self.lists().find(|list| list.hash == *hash).cloned()
    }

    fn proven_issuers(&self) -> impl Iterator<Item = KnownIssuer<'_>> {
        self.lists().filter_map(|list| {
            list.signer().map(|signer| KnownIssuer {
                name: &list.issuer,
                key: &signer.key,
            })
        })
    }

    fn lists(&self) -> impl Iterator<Item = &Arc<RevocationList>> {
        self.by_issuer.values().flatten()
    }

    fn verify_at_load(&mut self, list: &RevocationList, known: &[([u8; 32], KnownIssuer<'_>)]) {
        let mut own = known
            .iter()
            .filter(|(_, issuer)| *issuer.name == *list.issuer)
            .peekable();
        if own.peek().is_some() && !own.any(|(hash, issuer)| list.is_signed_by(issuer.key, hash)) {
            // The list may be signed by another key of that name, which a later path may supply.
            self.alarms.push(format!(
                "revocation list {} of {} is signed by none of the keys known of it",
                hex(&list.number),
                list.issuer_text
            ));
        }
    }

    /// Adds a list, unless there is a newer one of the same key and scope. A list whose signature
    /// is not verified yet supersedes no other list.
    fn insert(&mut self, list: Arc<RevocationList>) {
        let others = self.by_issuer.entry(list.issuer.clone()).or_default();
        if others.iter().any(|other| other.hash == list.hash) {
            return;
        }
        let rival = others.iter().position(|other| same_series(other, &list));
        let Some(other) = rival.and_then(|index| others.get_mut(index)) else {
            others.push(list);
            return;
        };
        let older = if list.age() > other.age() {
            std::mem::replace(other, list)
        } else {
            list
        };
        self.alarms.push(format!(
            "revocation list {} of {} was left out: a newer one is there",
            hex(&older.number),
            older.issuer_text
        ));
    }

    /// Refuses roll-backs: if a list of `previous` has a higher number or a
    /// later thisUpdate than its successor here, it stays. If the successor
    /// cannot be used (yet), both are there.
    fn keep_newer(&mut self, previous: &Self, now: i64) {
        let mut unproven: Vec<&RevocationList> = Vec::new();
        // Lists that were carried over before are last.
        for old in previous.by_issuer.values().flat_map(|own| own.iter().rev()) {
            // Removed on purpose, if nothing is left of this issuer.
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
                    // Only the issuer's key, which a later path may supply, shows which of the two
                    // is genuine. Keeps only the first, so that there are never more than two.
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
                // A predecessor that is not valid yet does not prevent its replacement.
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

    /// Suspends the lists: from now on the status of every certificate is unknown.
    pub(crate) fn suspend(&mut self, since: i64) {
        self.suspended = Some(since);
        // Makes the digest different, so that earlier results from these lists are void.
        self.digest = crypto::sha256(&[&self.digest[..], b"suspended"].concat());
    }

    /// Keeps every list of `previous` that nothing here succeeds: a file that vanished
    /// takes no revocation back. Beyond its nextUpdate such a list is stale like any
    /// other, and the posture decides.
    pub(crate) fn keep_in_force(&mut self, previous: &Self, now: i64) {
        for old in previous.lists() {
            let lists = self.by_issuer.entry(old.issuer.clone()).or_default();
            let is_succeeded = lists.iter().any(|list| list.succeeds(old));
            let is_there = lists.iter().any(|list| list.hash == old.hash);
            // Kept under other postures, because a certificate that only this list revokes would
            // then be accepted.
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

    /// Whether there are no lists.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_issuer.is_empty()
    }

    fn make_digest(&self) -> [u8; 32] {
        let mut hashes: Vec<[u8; 32]> = self.lists().map(|list| list.hash).collect();
        hashes.sort_unstable();
        crypto::sha256(&hashes.concat())
    }

    /// Differs between two indexes with different lists.
    pub(crate) const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    pub(crate) fn alarms(&self) -> &[String] {
        &self.alarms
    }

    pub(crate) const fn posture(&self) -> RevocationPosture {
        self.posture
    }

    /// Returns the state of each list at `now`, without lists that a newer one has replaced.
    pub(crate) fn status(&self, now: i64) -> Vec<CrlStatus> {
        let superseded = |list: &RevocationList| {
            let mut own = self.by_issuer.get(&list.issuer).into_iter().flatten();
            own.any(|other| {
                other.signer() == list.signer()
                    && other.same_scope(list)
                    && other.age() > list.age()
                    && other.this_update <= now
            })
        };
        let mut status: Vec<CrlStatus> = self
            .lists()
            .filter(|list| !superseded(list))
            .map(|list| CrlStatus {
                issuer: list.issuer_text.clone(),
                number: hex(&list.number),
                this_update: list.this_update,
                next_update: list.next_update,
                entries: list.entries(),
                verified: list.signer().is_some(),
                freshness: self.freshness(list, now),
            })
            .collect();
        status.sort_by(|a, b| (&a.issuer, &a.number).cmp(&(&b.issuer, &b.number)));
        status
    }

    fn freshness(&self, list: &RevocationList, now: i64) -> Freshness {
        let half = list.next_update.saturating_sub(list.this_update) / 2;
        if now < list.this_update {
            Freshness::NotYet
        } else if now < list.this_update.saturating_add(half) {
            Freshness::Fresh
        } else if now < list.next_update {
            Freshness::Due
        } else if now < list.next_update.saturating_add(self.grace) {
            Freshness::Grace
        } else {
            Freshness::Stale
        }
    }

    /// Looks every member up that the depth covers.
    pub(crate) fn check(
        &self,
        members: &[PathMember],
        now: i64,
    ) -> Result<RevocationOutcome, PathError> {
        let mut outcome = RevocationOutcome {
            check: RevocationCheck::Checked,
            this_update: None,
            good_until: i64::MAX,
        };
        if self.posture == RevocationPosture::Off {
            outcome.check = RevocationCheck::Off;
            return Ok(outcome);
        }
        if let Some(since) = self.suspended
            && self.posture == RevocationPosture::Hard
        {
            let why = format!(
                "the revocation lists could not be read since {} (max_unread)",
                clock::rfc3339(since)
            );
            return Err((ReasonCode::RevocationUnknown, why));
        }
        let deep = self.depth == RevocationDepth::Chain;
        for member in members.iter().filter(|member| deep || !member.is_authority) {
            let (reason, why) = match self.look_up(member, now) {
                Status::Good { this_update, until } => {
                    outcome.good_until = outcome.good_until.min(until);
                    outcome.this_update = Some(match outcome.this_update {
                        Some(oldest) => oldest.min(this_update),
                        None => this_update,
                    });
                    continue;
                }
                Status::Revoked => {
                    return Err((
                        ReasonCode::CertificateRevoked,
                        format!(
                            "serial number {} of {} is on its issuer's revocation list",
                            hex(&member.serial),
                            member.issuer_text
                        ),
                    ));
                }
                Status::Unknown(why) => (ReasonCode::RevocationUnknown, why),
                Status::Stale(why) => (ReasonCode::RevocationStale, why),
            };
            if self.posture == RevocationPosture::Hard {
                return Err((reason, why));
            }
            outcome.check = RevocationCheck::Soft;
        }
        Ok(outcome)
    }

    fn look_up(&self, member: &PathMember, now: i64) -> Status {
        let unknown = |what: &str| Status::Unknown(format!("{what} {}", member.issuer_text));
        let Some(candidates) = self.by_issuer.get(&member.issuer) else {
            return unknown("there is no revocation list of");
        };
        // RFC 5280 section 6.3.3 (f): the issuer's key usage.
        if !member.issuer_signs_crls {
            return unknown("the key usage does not let revocation lists be signed by");
        }
        let signed: Vec<&RevocationList> = candidates
            .iter()
            .filter(|list| list.may_revoke(member))
            .filter(|list| list.is_signed_by(&member.issuer_key, &member.issuer_key_hash))
            .map(Arc::as_ref)
            .collect();
        // Lists of one scope whose key became known only now supersede here, and
        // those whose time has come.
        let newest = signed.iter().filter(|list| {
            !signed.iter().any(|other| {
                other.same_scope(list) && other.age() > list.age() && other.this_update <= now
            })
        });
        let mut best: Option<&RevocationList> = None;
        let mut unusable: Option<&RevocationList> = None;
        for list in newest {
            // A certificate that a verified list revokes stays revoked when the list is stale.
            if list.revokes(&member.serial) {
                return Status::Revoked;
            }
            if !list.covers(member) {
                continue;
            }
            match self.freshness(list, now) {
                Freshness::NotYet | Freshness::Stale => unusable = Some(list),
                _ if best.is_some_and(|best| best.next_update >= list.next_update) => {}
                _ => best = Some(list),
            }
        }
        match (best, unusable) {
            (Some(list), _) => Status::Good {
                this_update: list.this_update,
                until: list.next_update.saturating_add(self.grace),
            },
            (None, Some(list)) if now < list.this_update => Status::Unknown(format!(
                "the revocation list of {} is valid only from {}",
                list.issuer_text,
                clock::rfc3339(list.this_update)
            )),
            (None, Some(list)) => Status::Stale(format!(
                "the revocation list of {} was to be replaced by {}",
                list.issuer_text,
                clock::rfc3339(list.next_update)
            )),
            (None, None) if !signed.is_empty() => Status::Unknown(format!(
                "the revocation list of {} covers a distribution point that the certificate does not name",
                member.issuer_text
            )),
            (None, None) => unknown("no revocation list covers this certificate and is signed by"),
        }
    }
}

impl RevocationList {
    /// Whether this list has the issuer and scope of `old`, and the same key if that of `old` is
    /// known.
    fn succeeds(&self, old: &Self) -> bool {
        match old.signer() {
            Some(_) => same_series(self, old),
            None => self.issuer == old.issuer && self.same_scope(old),
        }
    }

    fn is_older_than(&self, newer: &Self) -> String {
        format!(
            "its number {} is lower than {}, which is in use",
            hex(&self.number),
            hex(&newer.number)
        )
    }
}

/// Whether two lists have the same issuer, key and scope. Only known keys are compared.
fn same_series(one: &RevocationList, other: &RevocationList) -> bool {
    one.issuer == other.issuer
        && one.signer().is_some()
        && one.signer() == other.signer()
        && one.same_scope(other)
}

impl fmt::Debug for RevocationIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RevocationIndex")
            .field("posture", &self.posture)
            .field("depth", &self.depth)
            .field("lists", &self.lists().count())
            .finish_non_exhaustive()
    }
}
