//! `TrustBundle`: the roots, revocation lists and revocation posture of one trust domain, and the
//! names that its authorities may certify.

use std::fmt;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use super::certificate::authority::{AuthorityFacts, RootSet};
use super::certificate::candidate::Candidate;
use super::certificate::purpose::PathPurpose;
use super::digest::Digest;
use super::revocation::{
    CrlNumber, CrlRules, CrlStatus, Freshness, KnownIssuer, RevocationDepth, RevocationIndex,
    RevocationPosture, UnusableCrl,
};
use crate::identity::{IdentityPattern, NameType, TrustDomain};

/// The DER encoding of a distinguished name without attributes.
const EMPTY_NAME: [u8; 2] = [0x30, 0];

/// The data from which a [`TrustBundle`] is built.
#[derive(Debug, Clone)]
pub struct TrustBundleConfig {
    /// The name of the trust domain.
    pub name: TrustDomain,
    /// Root certificates, in DER.
    pub roots: Vec<CertificateDer<'static>>,
    /// Intermediate certificates that callers need not send, in DER.
    pub intermediates: Vec<CertificateDer<'static>>,
    /// Revocation lists, in DER.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// How a path is treated if its revocation status is unknown or its revocation lists are stale.
    pub posture: RevocationPosture,
    /// Whether the revocation status of the whole path is checked, or only the status of the leaf.
    pub depth: RevocationDepth,
    /// The grace period: how long a revocation list is still accepted after its nextUpdate.
    pub grace: Duration,
    /// The rules that a revocation list must follow to be accepted.
    pub crl_rules: CrlRules,
    /// The names that the authorities of the bundle may certify.
    pub vouches_for: Vec<IdentityPattern>,
    /// The types of subject alternative names that may name a caller, the preferred type first.
    pub identity_from: Vec<NameType>,
}

/// What happens to a revocation list of the previous bundle if the new bundle contains no newer
/// list of the same issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Predecessors {
    /// The previous bundle's list is dropped.
    Replaced,
    /// The previous bundle's list stays in force, because a missing file must not undo a
    /// revocation.
    InForce,
}

/// The reason why a bundle cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// A root certificate cannot be read, or is not a certificate authority (no CA:TRUE).
    #[error("root certificate {index} of trust domain {domain}: {why}")]
    Root {
        /// The name of the trust domain with this bundle.
        domain: String,
        /// The position of the root in [`TrustBundleConfig::roots`], from 1.
        index: usize,
        /// The reason why the root cannot be used.
        why: String,
    },
    /// There is no root certificate, or none of them is valid now.
    #[error("trust domain {domain} has no root certificate that is valid now: {why}")]
    NoValidRoot {
        /// The name of the trust domain with this bundle.
        domain: String,
        /// The reason why no root can be used.
        why: String,
    },
    /// No signature can be verified under the key of any valid root.
    #[error("trust domain {domain} has no root certificate that can be used: {why}")]
    NoUsableRoot {
        /// The name of the trust domain with this bundle.
        domain: String,
        /// The reason why no root can be used.
        why: String,
    },
    /// A revocation list cannot be read.
    #[error("revocation list {index} of trust domain {domain}: {why}")]
    RevocationList {
        /// The name of the trust domain with this bundle.
        domain: String,
        /// The position of the list in [`TrustBundleConfig::crls`], from 1.
        index: usize,
        /// The reason why the list cannot be used.
        why: UnusableCrl,
    },
    /// Revocation is checked, but there are no revocation lists.
    #[error(
        "trust domain {domain} checks revocation but has no revocation list; add crls or say revocation = \"off\""
    )]
    NoRevocationList {
        /// The name of the trust domain with this bundle.
        domain: String,
    },
}

/// The roots, revocation lists and rules of one trust domain, with which chains are verified.
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

/// What happens if a bundle has no root that is valid and has a supported key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UnusableRoots {
    /// The bundle is not built.
    Refused,
    /// The bundle is built. It refuses every chain.
    Accepted,
}

impl TrustBundle {
    /// Builds a bundle. A root that is not valid at `now` (seconds since the Unix epoch) is left
    /// out, and an alarm is recorded for it.
    ///
    /// # Errors
    /// If a root or a revocation list cannot be used, if no valid root remains, or if revocation is
    /// checked and there are no revocation lists.
    pub fn build(config: TrustBundleConfig, now: i64) -> Result<Self, BundleError> {
        Self::build_after(&config, now, None, Predecessors::Replaced)
    }

    /// Builds a bundle that replaces the bundle `previous` of the same trust domain. A revocation
    /// list that `previous` also has is not parsed again. If a new list is older than the list that
    /// it replaces, an alarm is recorded and the old list stays in use. `predecessors` decides what
    /// happens to lists of `previous` that no new list replaces.
    ///
    /// # Errors
    /// Returns the same errors as [`TrustBundle::build`].
    pub fn build_after(
        config: &TrustBundleConfig,
        now: i64,
        previous: Option<&Self>,
        predecessors: Predecessors,
    ) -> Result<Self, BundleError> {
        Self::build_with(config, now, previous, predecessors, UnusableRoots::Refused)
    }

    /// Does the same as [`TrustBundle::build_after`], but also builds a bundle that has no valid
    /// root with a supported key. Such a bundle refuses every chain.
    ///
    /// # Errors
    /// If a root or a revocation list cannot be used, or if revocation is checked and there are no
    /// revocation lists.
    pub fn build_refusing(
        config: &TrustBundleConfig,
        now: i64,
        previous: Option<&Self>,
        predecessors: Predecessors,
    ) -> Result<Self, BundleError> {
        Self::build_with(config, now, previous, predecessors, UnusableRoots::Accepted)
    }

    fn build_with(
        config: &TrustBundleConfig,
        now: i64,
        previous: Option<&Self>,
        predecessors: Predecessors,
        unusable_roots: UnusableRoots,
    ) -> Result<Self, BundleError> {
        let domain = config.name.to_string();
        let mut bundle = Self {
            revocation: RevocationIndex::new(config.posture, config.depth, config.grace)
                .with_rules(config.crl_rules),
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
        let must_be_usable = unusable_roots == UnusableRoots::Refused;
        if must_be_usable && bundle.roots.roots().is_empty() {
            let why = if bundle.alarms.is_empty() {
                "there is none".to_owned()
            } else {
                bundle.alarms.join("; ")
            };
            return Err(BundleError::NoValidRoot { domain, why });
        }
        let mut roots = bundle.roots.roots().iter();
        if must_be_usable && roots.all(|root| root.facts.check_key().is_err()) {
            let why = bundle.alarms.join("; ");
            return Err(BundleError::NoUsableRoot { domain, why });
        }
        bundle.note_unusable_intermediates();
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

    /// Returns the configured intermediates that can be parsed. Other intermediates can neither be
    /// part of a path nor verify a revocation list.
    fn readable_intermediates(&self) -> Vec<AuthorityFacts> {
        self.intermediates
            .iter()
            .filter_map(|one| AuthorityFacts::read(&one.der).ok())
            .collect()
    }

    /// Checks whether a new document with the revocation lists `lists` may replace an old document
    /// with the lists `kept`:
    /// - Each new list must be readable. If a key of its issuer is known, a known key must have
    ///   signed it.
    /// - No new list may be older than the list of the same issuer, key and scope in this bundle.
    /// - Each old list must have a successor among the new lists.
    ///
    /// `now` is in seconds since the Unix epoch.
    ///
    /// # Errors
    /// Returns the reason why the new document is refused.
    pub fn check_crls(
        &self,
        lists: &[CertificateRevocationListDer<'_>],
        kept: &[CertificateRevocationListDer<'_>],
        now: i64,
    ) -> Result<(), String> {
        let intermediates = self.readable_intermediates();
        let issuers = known_issuers(&self.roots, &intermediates);
        self.revocation.check_document(lists, kept, &issuers, now)
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

    /// Adds an alarm for each intermediate whose key or signature algorithm cannot be used.
    fn note_unusable_intermediates(&mut self) {
        let alarms: Vec<String> = self
            .intermediates
            .iter()
            .filter_map(|one| {
                let facts = AuthorityFacts::read(&one.der).ok()?;
                let (_, why) = facts.check_algorithms(&one.der).err()?;
                Some(format!(
                    "intermediate {} cannot be used: {why}",
                    facts.subject
                ))
            })
            .collect();
        self.alarms.extend(alarms);
    }

    /// Adds to `digest` everything on which the result of a verification depends, except the chain,
    /// the time and the revocation lists.
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
        let rules = self.revocation.rules();
        let number: &[u8] = match rules.number {
            CrlNumber::Required => b"numbered",
            CrlNumber::Optional => b"any",
        };
        digest.field(number);
        let max_age = rules.max_age.map(|age| age.as_secs().to_be_bytes());
        digest.field(max_age.as_ref().map_or(&[], |age| &age[..]));
        for pattern in &self.vouches_for {
            digest.field(pattern.to_string().as_bytes());
        }
        digest.field(b"identity_from");
        for name_type in &self.identity_from {
            digest.field(name_type.as_str().as_bytes());
        }
    }

    /// Returns a hash of the bundle's rules, certificates and revocation lists. Two bundles with
    /// the same hash decide in the same way about each chain.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = Digest::new();
        self.describe(&mut digest);
        digest.field(self.revocation.digest());
        digest.finish()
    }

    /// Returns a copy of the bundle whose revocation lists are suspended. If the posture is `hard`,
    /// the copy refuses all chains. Otherwise the suspension has no effect. Used if the files of
    /// the trust domain could not be read since `since` (seconds since the Unix epoch).
    #[must_use]
    pub fn suspended(&self, since: i64) -> Self {
        let mut bundle = self.clone();
        bundle.revocation.suspend(since);
        bundle
    }

    /// Returns the name of the trust domain.
    #[must_use]
    pub const fn name(&self) -> &TrustDomain {
        &self.name
    }

    /// Returns alarms for the operator that were found when the bundle was built, for example an
    /// expired root. Alarms that depend on the current time come from [`TrustBundle::freshness`].
    #[must_use]
    pub fn alarms(&self) -> &[String] {
        &self.alarms
    }

    /// Returns the age of each revocation list at `now` (seconds since the Unix epoch).
    #[must_use]
    pub fn freshness(&self, now: i64) -> Vec<CrlStatus> {
        self.revocation.status(now)
    }

    /// Whether all callers of the trust domain are refused at `now`: revocation is `hard`, and the
    /// lists are suspended or all out of date. Callers may also be refused in other states, for
    /// example if only the list of the root is up to date.
    #[must_use]
    pub fn refuses_all(&self, now: i64) -> bool {
        let is_unusable =
            |list: &CrlStatus| matches!(list.freshness, Freshness::NotYet | Freshness::Stale);
        self.posture() == RevocationPosture::Hard
            && (self.revocation.is_suspended()
                || !self.revocation.is_empty() && self.freshness(now).iter().all(is_unusable))
    }

    /// Returns how a path is treated if its revocation status is unknown or its revocation lists
    /// are stale.
    #[must_use]
    pub const fn posture(&self) -> RevocationPosture {
        self.revocation.posture()
    }

    /// Returns the subject and the public key of each root. Two bundles have the same root if a
    /// root of one bundle has the same subject and key as a root of the other.
    pub fn anchor_keys(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.roots.anchors().iter().map(|anchor| {
            (
                anchor.subject.as_ref(),
                anchor.subject_public_key_info.as_ref(),
            )
        })
    }

    /// Returns the names of the roots in DER.
    pub fn anchor_subjects(&self) -> impl Iterator<Item = &[u8]> {
        self.roots
            .roots()
            .iter()
            .map(|root| root.facts.subject_der.as_slice())
    }

    /// Returns the names of the roots and of the configured intermediates in DER, for the
    /// CertificateRequest message. The names of intermediates are included, because a client may
    /// store its certificate without the intermediate. Such a client knows only the intermediate as
    /// an issuer.
    #[must_use]
    pub fn authority_names(&self) -> Vec<Vec<u8>> {
        let intermediates = self.readable_intermediates().into_iter();
        let intermediates = intermediates
            .filter(|facts| facts.is_ca && facts.subject_der != EMPTY_NAME)
            .map(|facts| facts.subject_der);
        let roots = self.anchor_subjects().map(<[u8]>::to_vec);
        roots.chain(intermediates).collect()
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
