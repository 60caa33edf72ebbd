//! `TrustBundle`: roots, revocation lists and posture of one trust domain, and the names that its
//! authorities may certify.

use std::fmt;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use super::certificate::authority::{AuthorityFacts, RootSet};
use super::certificate::candidate::Candidate;
use super::certificate::purpose::PathPurpose;
use super::digest::Digest;
use super::revocation::{
    CrlStatus, KnownIssuer, RevocationDepth, RevocationIndex, RevocationPosture, UnusableCrl,
};
use crate::identity::{IdentityPattern, NameType, TrustDomain};

/// Everything a [`TrustBundle`] is built from.
#[derive(Debug, Clone)]
pub struct TrustBundleConfig {
    /// The trust domain's name.
    pub name: TrustDomain,
    /// Root certificates, DER.
    pub roots: Vec<CertificateDer<'static>>,
    /// Intermediates that callers need not send, DER.
    pub intermediates: Vec<CertificateDer<'static>>,
    /// Revocation lists, DER.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// How an unknown or stale revocation status is treated.
    pub posture: RevocationPosture,
    /// The certificates of a path whose status is checked.
    pub depth: RevocationDepth,
    /// How long a list is used beyond its nextUpdate.
    pub grace: Duration,
    /// The names that the authorities of the bundle may certify.
    pub vouches_for: Vec<IdentityPattern>,
    /// Name types that may name a caller, most preferred first.
    pub identity_from: Vec<NameType>,
}

/// What happens to a revocation list without a successor when a bundle replaces another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Predecessors {
    /// The list is dropped.
    Replaced,
    /// The list stays in force: a missing file must not undo a revocation.
    InForce,
}

/// Why a bundle cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// A root certificate cannot be read or is no certificate authority.
    #[error("root certificate {index} of trust domain {domain}: {why}")]
    Root {
        /// The trust domain.
        domain: String,
        /// Position among the roots, from 1.
        index: usize,
        /// Why the root cannot be used.
        why: String,
    },
    /// None of the roots is valid now.
    #[error("trust domain {domain} has no root certificate that is valid now: {why}")]
    NoValidRoot {
        /// The trust domain.
        domain: String,
        /// Why the existing roots cannot be used.
        why: String,
    },
    /// A revocation list cannot be read.
    #[error("revocation list {index} of trust domain {domain}: {why}")]
    RevocationList {
        /// The trust domain.
        domain: String,
        /// Position among the lists, from 1.
        index: usize,
        /// Why the list cannot be used.
        why: UnusableCrl,
    },
    /// The posture needs lists and there are none.
    #[error(
        "trust domain {domain} checks revocation but has no revocation list; add crls or say revocation = \"off\""
    )]
    NoRevocationList {
        /// The trust domain.
        domain: String,
    },
}

/// Roots, revocation lists, posture and permitted names of one trust domain.
#[derive(Clone)]
pub struct TrustBundle {
    pub(super) name: TrustDomain,
    pub(super) roots: RootSet,
    pub(super) intermediates: Vec<Candidate<'static>>,
    pub(super) revocation: RevocationIndex,
    pub(super) depth: RevocationDepth,
    pub(super) grace: Duration,
    pub(super) vouches_for: Vec<IdentityPattern>,
    pub(super) identity_from: Vec<NameType>,
    alarms: Vec<String>,
}

impl TrustBundle {
    /// Reads roots and lists and drops roots that are not valid at `now`
    /// (seconds since the Unix epoch), with an alarm each.
    ///
    /// # Errors
    /// When a root or list is malformed, no valid root remains, or revocation
    /// is to be checked without any list.
    pub fn build(config: TrustBundleConfig, now: i64) -> Result<Self, BundleError> {
        Self::build_after(&config, now, None, Predecessors::Replaced)
    }

    /// Builds a bundle that replaces an earlier one of the same trust domain. Lists of the earlier
    /// one are not read again. If a list has a lower number or an older thisUpdate than its
    /// predecessor, it is refused with an alarm, and the predecessor is kept. `predecessors`
    /// decides about lists without a successor.
    ///
    /// # Errors
    /// As [`TrustBundle::build`].
    pub fn build_after(
        config: &TrustBundleConfig,
        now: i64,
        previous: Option<&Self>,
        predecessors: Predecessors,
    ) -> Result<Self, BundleError> {
        let domain = config.name.to_string();
        let mut bundle = Self {
            revocation: RevocationIndex::new(config.posture, config.depth, config.grace),
            name: config.name.clone(),
            roots: RootSet::default(),
            intermediates: config
                .intermediates
                .iter()
                .cloned()
                .map(Candidate::new)
                .collect(),
            depth: config.depth,
            grace: config.grace,
            vouches_for: config.vouches_for.clone(),
            identity_from: config.identity_from.clone(),
            alarms: Vec::new(),
        };
        for (position, der) in config.roots.iter().enumerate() {
            let index = position + 1;
            if let Err(why) = bundle.add_root(der, now) {
                return Err(BundleError::Root { domain, index, why });
            }
        }
        if bundle.roots.roots().is_empty() {
            let why = if bundle.alarms.is_empty() {
                "there is none".to_owned()
            } else {
                bundle.alarms.join("; ")
            };
            return Err(BundleError::NoValidRoot { domain, why });
        }
        if config.posture != RevocationPosture::Off {
            let kept = previous.filter(|_| predecessors == Predecessors::InForce);
            let has_kept = kept.is_some_and(|previous| !previous.revocation.is_empty());
            if config.crls.is_empty() && !has_kept {
                return Err(BundleError::NoRevocationList { domain });
            }
            bundle.load_crls(&config.crls, previous, predecessors, now)?;
            let alarms = bundle.revocation.alarms().to_vec();
            bundle.alarms.extend(alarms);
        }
        Ok(bundle)
    }

    fn load_crls(
        &mut self,
        lists: &[CertificateRevocationListDer<'static>],
        previous: Option<&Self>,
        predecessors: Predecessors,
        now: i64,
    ) -> Result<(), BundleError> {
        let intermediates = self.readable_intermediates();
        let issuers = known_issuers(&self.roots, &intermediates);
        let previous = previous
            .filter(|bundle| bundle.name == self.name)
            .map(|bundle| &bundle.revocation);
        let lists = lists.iter().map(AsRef::as_ref);
        let refused = self.revocation.load(lists, &issuers, previous, now);
        if predecessors == Predecessors::InForce
            && let Some(previous) = previous
        {
            self.revocation.keep_in_force(previous, now);
        }
        match refused.into_iter().next() {
            None => Ok(()),
            Some((position, why)) => Err(BundleError::RevocationList {
                domain: self.name.to_string(),
                index: position + 1,
                why,
            }),
        }
    }

    /// Returns the intermediates that can be read. The others cannot contribute to a path or verify
    /// a list.
    fn readable_intermediates(&self) -> Vec<AuthorityFacts> {
        self.intermediates
            .iter()
            .filter_map(|one| AuthorityFacts::read(&one.der).ok())
            .collect()
    }

    /// Checks that a document with these revocation lists can replace one with those of
    /// `kept`: each list can be read, is signed by its issuer if that is known, and is
    /// not older than another of its kind; and every list of `kept` has a successor.
    ///
    /// # Errors
    /// Why not.
    pub fn check_crls(
        &self,
        lists: &[CertificateRevocationListDer<'_>],
        kept: &[CertificateRevocationListDer<'_>],
    ) -> Result<(), String> {
        let intermediates = self.readable_intermediates();
        let issuers = known_issuers(&self.roots, &intermediates);
        self.revocation.check_document(lists, kept, &issuers)
    }

    fn add_root(&mut self, der: &CertificateDer<'static>, now: i64) -> Result<(), String> {
        let facts = AuthorityFacts::read(der)?;
        if !facts.is_ca {
            return Err(format!(
                "{} is not a certificate authority (no CA:TRUE)",
                facts.subject
            ));
        }
        if let Err((_, why)) = facts.check_validity(now) {
            self.alarms
                .push(format!("root {} was left out: {why}", facts.subject));
            return Ok(());
        }
        if let Err((_, why)) = facts.check_as_anchor(now, PathPurpose::Client) {
            self.alarms
                .push(format!("root {} cannot be used: {why}", facts.subject));
        }
        self.roots.add(der, facts)
    }

    /// Hashes everything that a verification depends on, except chain, time and lists.
    pub(super) fn describe(&self, digest: &mut Digest) {
        digest.field(self.name.as_str().as_bytes());
        for root in self.roots.roots() {
            digest.field(&root.hash);
        }
        digest.field(b"intermediates");
        for one in &self.intermediates {
            digest.field(&one.der);
        }
        let posture: &[u8] = match self.revocation.posture() {
            RevocationPosture::Hard => b"hard",
            RevocationPosture::Soft => b"soft",
            RevocationPosture::Off => b"off",
        };
        let depth: &[u8] = match self.depth {
            RevocationDepth::Chain => b"chain",
            RevocationDepth::Leaf => b"leaf",
        };
        digest.field(posture);
        digest.field(depth);
        digest.field(&self.grace.as_secs().to_be_bytes());
        for pattern in &self.vouches_for {
            digest.field(pattern.to_string().as_bytes());
        }
        digest.field(b"identity_from");
        for name_type in &self.identity_from {
            digest.field(name_type.as_str().as_bytes());
        }
    }

    /// Differs if a decision about a chain may: roots, intermediates, lists and posture.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = Digest::new();
        self.describe(&mut digest);
        digest.field(self.revocation.digest());
        digest.finish()
    }

    /// Returns the bundle with suspended revocation lists: they are no longer trusted, because
    /// nothing newer could be read since `since` (seconds since the Unix epoch).
    #[must_use]
    pub fn suspended(&self, since: i64) -> Self {
        let mut bundle = self.clone();
        bundle.revocation.suspend(since);
        bundle
    }

    /// Returns the trust domain's name.
    #[must_use]
    pub const fn name(&self) -> &TrustDomain {
        &self.name
    }

    /// Conditions an operator should know of, for example an expired root; those
    /// that come with time are in [`TrustBundle::freshness`].
    #[must_use]
    pub fn alarms(&self) -> &[String] {
        &self.alarms
    }

    /// Returns the state of each revocation list at `now` (seconds since the Unix epoch).
    #[must_use]
    pub fn freshness(&self, now: i64) -> Vec<CrlStatus> {
        self.revocation.status(now)
    }

    /// Returns the posture towards unknown revocation status.
    #[must_use]
    pub const fn posture(&self) -> RevocationPosture {
        self.revocation.posture()
    }

    /// Subject and key of every anchor, to find one shared between bundles.
    pub fn anchor_keys(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.roots.anchors().iter().map(|anchor| {
            (
                anchor.subject.as_ref(),
                anchor.subject_public_key_info.as_ref(),
            )
        })
    }

    /// Names of the anchors in DER, for the CertificateRequest message.
    pub fn anchor_subjects(&self) -> impl Iterator<Item = &[u8]> {
        self.roots
            .roots()
            .iter()
            .map(|root| root.facts.subject_der.as_slice())
    }

    /// Returns the names that the authorities of the bundle may certify.
    #[must_use]
    pub fn vouches_for(&self) -> &[IdentityPattern] {
        &self.vouches_for
    }
}

fn known_issuers<'a>(
    roots: &'a RootSet,
    intermediates: &'a [AuthorityFacts],
) -> Vec<KnownIssuer<'a>> {
    let roots = roots.roots().iter().map(|root| &root.facts);
    roots
        .chain(intermediates)
        .map(|facts| KnownIssuer {
            name: &facts.subject_der,
            key: &facts.key,
        })
        .collect()
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TrustBundle")
            .field("name", &self.name)
            .field("roots", &self.roots)
            .field("revocation", &self.revocation)
            .finish_non_exhaustive()
    }
}
