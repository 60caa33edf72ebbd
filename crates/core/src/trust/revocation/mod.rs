//! `RevocationIndex`: the revocation lists of one trust domain, and the revocation status of a
//! path.
//!
//! webpki verifies the signature of a list at every look-up. This index verifies each signature
//! only once. If the issuer's key is known, the signature is verified when the list is loaded.
//! Otherwise it is verified when a verified path first contains the issuer's key, and the list is
//! not used before. Only the newest list of an issuer, key and scope is used. The scope of a list
//! is the set of certificates that the list covers. The index does not read files and does not use
//! the network.
//!
//! - `list`: one list, parsed and checked when it is loaded
//! - `header`: the fields of a list, and its times
//! - `webpki_form`: a copy of a list with the fields that webpki requires
//! - `rules`: which lists are accepted, and which of two lists is newer
//! - `serials`: a compact set of revoked serial numbers
//! - `unusable`: why a list cannot be used
//! - `status`: the age of each list
//! - `succession`: which lists of the earlier index stay in use after a load
//! - `posture`: how strictly revocation is checked

mod header;
mod list;
mod posture;
mod rules;
mod serials;
mod status;
mod succession;
mod unusable;
mod webpki_form;

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

pub use header::{CrlOutline, CrlTimes};
pub use posture::{RevocationDepth, RevocationPosture};
pub use rules::{CrlNumber, CrlRules};
pub use status::{CrlStatus, Freshness};
pub use unusable::UnusableCrl;

/// The name and the key of an authority. With them, lists of the authority are verified when they
/// are loaded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownIssuer<'a> {
    /// The authority's name, in DER.
    pub(crate) name: &'a [u8],
    /// The authority's SubjectPublicKeyInfo, in DER.
    pub(crate) key: &'a [u8],
}

/// The result of a revocation check that did not refuse the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RevocationOutcome {
    pub(crate) check: RevocationCheck,
    /// thisUpdate (Unix seconds) of the oldest list that was consulted. `None` if there was none.
    pub(crate) this_update: Option<i64>,
    /// When the first of the lists that were consulted becomes too old, in seconds since the Unix
    /// epoch. The lists must then be consulted again.
    pub(crate) good_until: i64,
}

/// The revocation status of one certificate. The texts of `Unknown` and `Stale` explain the status.
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
    rules: CrlRules,
    by_issuer: HashMap<Box<[u8]>, Vec<Arc<RevocationList>>>,
    /// Hash of all lists and of the suspension. It changes whenever a list is added or removed.
    digest: [u8; 32],
    alarms: Vec<String>,
    /// Since when the files of the trust domain cannot be read, in seconds since the Unix epoch.
    /// `None` if the lists are not suspended.
    suspended: Option<i64>,
}

impl RevocationIndex {
    /// Creates an index without lists. By default, each list must have a number and nextUpdate.
    pub(crate) fn new(posture: RevocationPosture, depth: RevocationDepth, grace: Duration) -> Self {
        Self {
            posture,
            depth,
            grace: i64::try_from(grace.as_secs()).unwrap_or(i64::MAX),
            rules: CrlRules::default(),
            by_issuer: HashMap::new(),
            digest: [0; 32],
            alarms: Vec::new(),
            suspended: None,
        }
    }

    /// Sets the rules that a list must follow to be accepted.
    pub(crate) fn with_rules(self, rules: CrlRules) -> Self {
        Self { rules, ..self }
    }

    pub(crate) const fn rules(&self) -> CrlRules {
        self.rules
    }

    /// Loads the lists into this index, which replaces the index `previous`. A list that `previous`
    /// also contains is not parsed again, and its verified signature is not verified again. If a
    /// list is older than its predecessor in `previous`, the list is left out with an alarm, and
    /// the predecessor stays. The predecessor also stays if no known key has signed the new list,
    /// or if the new list is not valid at `now`.
    ///
    /// Returns the position of each list that cannot be used, and the reason.
    pub(crate) fn load<'d>(
        &mut self,
        lists: impl Iterator<Item = &'d [u8]>,
        issuers: &[KnownIssuer<'_>],
        previous: Option<&Self>,
        now: i64,
    ) -> Vec<(usize, UnusableCrl)> {
        let mut refused = Vec::new();
        // The keys that signed lists of `previous` are known too, for example from verified paths.
        let proven = previous.into_iter().flat_map(Self::proven_issuers);
        let known: Vec<([u8; 32], KnownIssuer<'_>)> = issuers
            .iter()
            .copied()
            .chain(proven)
            .map(|issuer| (crypto::sha256(issuer.key), issuer))
            .collect();
        for (index, der) in lists.enumerate() {
            let hash = crypto::sha256(der);
            let read = match previous.and_then(|index| index.find(&hash)) {
                Some(list) => Ok(list),
                None => RevocationList::read(der, hash).map(Arc::new),
            };
            match read.and_then(|list| self.rules.check(&list).map(|()| list)) {
                Ok(list) => {
                    self.verify_at_load(&list, &known);
                    self.insert(list);
                }
                Err(why) => refused.push((index, why)),
            }
        }
        if let Some(previous) = previous {
            self.keep_newer(previous, now);
        }
        self.digest = self.make_digest();
        refused
    }

    /// Checks whether a new document with the revocation lists `lists` may replace an old document
    /// with the lists `kept`:
    /// - Each new list must be readable. If a key of its issuer is known, a known key must have
    ///   signed it.
    /// - No new list may be older than a list of the same issuer, key and scope in this index
    ///   ([`RevocationList::may_follow`]).
    /// - Each old list must have a successor among the new lists. Otherwise its certificates would
    ///   no longer be revoked.
    ///
    /// # Errors
    /// Returns the reason why the new document is refused.
    pub(crate) fn check_document(
        &self,
        lists: &[CertificateRevocationListDer<'_>],
        kept: &[CertificateRevocationListDer<'_>],
        issuers: &[KnownIssuer<'_>],
        now: i64,
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
                .and_then(|list| self.rules.check(&list).map(|()| list))
                .map_err(|why| format!("{why}; {}", why.remedy()))?;
            let known = issuers.iter().any(|issuer| *issuer.name == *list.issuer);
            if known && list.signer().is_none() {
                return Err(format!(
                    "it is signed by none of the keys known of {}",
                    list.issuer_text
                ));
            }
            let mut own = self.by_issuer.get(&list.issuer).into_iter().flatten();
            let newer = own.find(|other| other.is_of_series(&list) && !list.may_follow(other, now));
            if let Some(newer) = newer {
                return Err(list.why_older(newer));
            }
            successors.push(list);
        }
        for der in kept {
            // An old list that cannot be read is not in use, so it needs no new list in its place.
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
            // A list with a verified signature may replace any list without a verified signature.
            let takes_over = |list: &RevocationList| {
                list.may_follow(&old, now) || list.signer().is_some() && old.signer().is_none()
            };
            if !takes_over(first) && !own.any(|list| takes_over(list)) {
                return Err(first.why_older(&old));
            }
        }
        Ok(())
    }

    /// Parses a list. If `issuers` contains its issuer, also verifies the signature. An invalid
    /// signature is not an error here: [`RevocationList::signer`] then returns `None`.
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
            // Another key of the issuer, which is not known yet, may have signed the list. A
            // verified path may supply this key later, so the list is kept.
            self.alarms.push(format!(
                "{} is signed by none of the keys known of it",
                list.title()
            ));
        }
    }

    /// Adds a list, unless there is a newer list of the same issuer, key and scope. A list replaces
    /// another list only if the signatures of both were verified with the same key. If two lists
    /// have the same age, both stay.
    fn insert(&mut self, list: Arc<RevocationList>) {
        let others = self.by_issuer.entry(list.issuer.clone()).or_default();
        if others.iter().any(|other| other.hash == list.hash) {
            return;
        }
        let mut series = others.iter().filter(|other| other.is_of_series(&list));
        let why = "was left out: a newer one is there";
        if series.any(|other| self.rules.is_newer(other, &list)) {
            self.alarms.push(format!("{} {why}", list.title()));
            return;
        }
        others.retain(|other| {
            let is_older = other.is_of_series(&list) && self.rules.is_newer(&list, other);
            if is_older {
                self.alarms.push(format!("{} {why}", other.title()));
            }
            !is_older
        });
        // If two lists have the same age, it is unknown which is newer. So both are kept, and both
        // revoke.
        if let Some(other) = others.iter().find(|other| other.is_of_series(&list)) {
            self.alarms.push(format!(
                "{} and another list of the same age differ: both are used until there is a newer one",
                other.title()
            ));
        }
        others.push(list);
    }

    /// Suspends the lists. If the posture is `hard`, every path is refused from now on. Otherwise
    /// the suspension has no effect.
    pub(crate) fn suspend(&mut self, since: i64) {
        self.suspended = Some(since);
        // The hash of the lists changes, so that results in the path cache are checked again.
        self.digest = crypto::sha256(&[&self.digest[..], b"suspended"].concat());
    }

    /// Whether the index has no lists.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_issuer.is_empty()
    }

    fn make_digest(&self) -> [u8; 32] {
        let mut hashes: Vec<[u8; 32]> = self.lists().map(|list| list.hash).collect();
        hashes.sort_unstable();
        crypto::sha256(&hashes.concat())
    }

    /// Returns a hash of all lists and of the suspension. It changes if a list is added or removed.
    pub(crate) const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    pub(crate) const fn is_suspended(&self) -> bool {
        self.suspended.is_some()
    }

    pub(crate) fn alarms(&self) -> &[String] {
        &self.alarms
    }

    pub(crate) const fn posture(&self) -> RevocationPosture {
        self.posture
    }

    /// Returns the age of each list at `now`. Leaves out lists that a newer list replaces.
    pub(crate) fn status(&self, now: i64) -> Vec<CrlStatus> {
        let superseded = |list: &RevocationList| {
            let mut own = self.by_issuer.get(&list.issuer).into_iter().flatten();
            own.any(|other| {
                other.signer() == list.signer()
                    && other.same_scope(list)
                    && self.rules.is_newer(other, list)
                    && other.times.this_update <= now
            })
        };
        let mut status: Vec<CrlStatus> = self
            .lists()
            .filter(|list| !superseded(list))
            .map(|list| list.status(self.rules.next_update(list), self.freshness(list, now)))
            .collect();
        status.sort_by(|a, b| (&a.issuer, &a.number).cmp(&(&b.issuer, &b.number)));
        status
    }

    fn freshness(&self, list: &RevocationList, now: i64) -> Freshness {
        let (begin, end) = (list.times.this_update, self.rules.next_update(list));
        let half = end.saturating_sub(begin) / 2;
        if now < begin {
            Freshness::NotYet
        } else if now < begin.saturating_add(half) {
            Freshness::Fresh
        } else if now < end {
            Freshness::Due
        } else if now < end.saturating_add(self.grace) {
            Freshness::Grace
        } else {
            Freshness::Stale
        }
    }

    /// Checks the revocation status of the certificates in a path. `members` are the certificates
    /// without the root. If the depth is `Leaf`, checks only the leaf.
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
        // RFC 5280 section 6.3.3 (f): keyUsage of the issuer must allow cRLSign.
        if !member.issuer_signs_crls {
            return unknown("the key usage does not let revocation lists be signed by");
        }
        let signed: Vec<&RevocationList> = candidates
            .iter()
            .filter(|list| list.may_revoke(member))
            .filter(|list| list.is_signed_by(&member.issuer_key, &member.issuer_key_hash))
            .map(Arc::as_ref)
            .collect();
        // Leaves out lists that a newer list of the same scope replaces. Loading could not decide
        // this, because the issuer's key was unknown or the newer list was not valid yet.
        let newest = signed.iter().filter(|list| {
            !signed.iter().any(|other| {
                other.same_scope(list)
                    && self.rules.is_newer(other, list)
                    && other.times.this_update <= now
            })
        });
        let end = |list: &RevocationList| self.rules.next_update(list);
        let mut best: Option<&RevocationList> = None;
        let mut unusable: Option<&RevocationList> = None;
        for list in newest {
            // A list revokes its certificates even if it is stale.
            if list.revokes(&member.serial) {
                return Status::Revoked;
            }
            if !list.covers(member) {
                continue;
            }
            match self.freshness(list, now) {
                Freshness::NotYet | Freshness::Stale => unusable = Some(list),
                _ if best.is_some_and(|best| end(best) >= end(list)) => {}
                _ => best = Some(list),
            }
        }
        match (best, unusable) {
            (Some(list), _) => Status::Good {
                this_update: list.times.this_update,
                until: end(list).saturating_add(self.grace),
            },
            (None, Some(list)) if now < list.times.this_update => Status::Unknown(format!(
                "the revocation list of {} is valid only from {}",
                list.issuer_text,
                clock::rfc3339(list.times.this_update)
            )),
            (None, Some(list)) => Status::Stale(format!(
                "the revocation list of {} was to be replaced by {}",
                list.issuer_text,
                clock::rfc3339(end(list))
            )),
            (None, None) if !signed.is_empty() => Status::Unknown(format!(
                "the revocation list of {} covers a distribution point that the certificate does not name",
                member.issuer_text
            )),
            (None, None) => unknown("no revocation list covers this certificate and is signed by"),
        }
    }
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
