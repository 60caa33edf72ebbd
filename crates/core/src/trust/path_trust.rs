//! `PathTrust`: the gateway's path verification alone, without caller names and policy.
//!
//! `countersign pki verify` and tests with public test suites use it. They ask whether a path leads
//! from a leaf to one of the given roots, for a purpose and at a time.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};

use super::certificate::authority::{AuthorityFacts, RootSet};
use super::certificate::candidate::Candidate;
use super::certificate::error::PathError;
use super::certificate::purpose::PathPurpose;
use super::path::{self, PathBudget, PathCertificates, PathRules};
use super::revocation::{
    CrlRules, KnownIssuer, RevocationDepth, RevocationIndex, RevocationPosture, UnusableCrl,
};
use crate::clock;
use crate::identity::peer::RevocationCheck;
use crate::reason::ReasonCode;

/// The roots, intermediates and revocation lists with which a leaf is verified.
#[derive(Debug)]
pub struct PathTrust {
    roots: RootSet,
    intermediates: Vec<Candidate<'static>>,
    revocation: RevocationIndex,
    purpose: PathPurpose,
    unusable_roots: Vec<(usize, String)>,
    unusable_crls: Vec<(usize, UnusableCrl)>,
}

/// The facts about a leaf whose path was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedChain {
    /// Number of certificates in the path, including the leaf and the root.
    pub length: usize,
    /// SHA-256 hash of the root certificate.
    pub anchor: [u8; 32],
    /// Earliest notAfter of the path, in seconds since the Unix epoch.
    pub not_after: i64,
    /// How the revocation status of the path was established.
    pub revocation: RevocationCheck,
}

impl PathTrust {
    /// Reads roots, intermediates and revocation lists. If `lists` is `None`, revocation is not
    /// checked. Otherwise every certificate of a path must have a known revocation status.
    ///
    /// A root that cannot be used is left out. If a revocation list cannot be used, every leaf is
    /// refused, because the list could revoke any certificate.
    #[must_use]
    pub fn new(
        roots: &[CertificateDer<'_>],
        intermediates: Vec<CertificateDer<'static>>,
        lists: Option<&[CertificateRevocationListDer<'_>]>,
        purpose: PathPurpose,
    ) -> Self {
        let rules = CrlRules::default();
        Self::with_crl_rules(
            roots,
            intermediates,
            lists.map(|lists| (lists, rules)),
            purpose,
        )
    }

    /// Does the same as [`PathTrust::new`], but `lists` also contains the rules for revocation
    /// lists.
    #[must_use]
    pub fn with_crl_rules(
        roots: &[CertificateDer<'_>],
        intermediates: Vec<CertificateDer<'static>>,
        lists: Option<(&[CertificateRevocationListDer<'_>], CrlRules)>,
        purpose: PathPurpose,
    ) -> Self {
        let mut unusable_roots = Vec::new();
        let mut unusable_crls = Vec::new();
        let mut set = RootSet::default();
        for (position, der) in roots.iter().enumerate() {
            let added = AuthorityFacts::read(der).and_then(|facts| set.add(der, facts));
            if let Err(why) = added {
                unusable_roots.push((position, why));
            }
        }
        let posture = match lists {
            Some(_) => RevocationPosture::Hard,
            None => RevocationPosture::Off,
        };
        let mut revocation = RevocationIndex::new(posture, RevocationDepth::Chain, Duration::ZERO);
        if let Some((lists, rules)) = lists {
            revocation = revocation.with_rules(rules);
            // An intermediate counts as an issuer only after it was verified in a path, because
            // anyone may have supplied it.
            let issuers: Vec<KnownIssuer<'_>> = set
                .roots()
                .iter()
                .map(|root| KnownIssuer {
                    name: &root.facts.subject_der,
                    key: &root.facts.key,
                })
                .collect();
            unusable_crls =
                revocation.load(lists.iter().map(AsRef::as_ref), &issuers, None, i64::MAX);
        }
        Self {
            roots: set,
            intermediates: intermediates.into_iter().map(Candidate::new).collect(),
            revocation,
            purpose,
            unusable_roots,
            unusable_crls,
        }
    }

    /// Returns the position of each root that was left out, from 0, and the reason.
    #[must_use]
    pub fn unusable_roots(&self) -> &[(usize, String)] {
        &self.unusable_roots
    }

    /// Returns the position of each revocation list that cannot be used, from 0, and the reason.
    #[must_use]
    pub fn unusable_crls(&self) -> &[(usize, UnusableCrl)] {
        &self.unusable_crls
    }

    /// Returns alarms about the revocation lists, for example about a list that a newer list
    /// replaces.
    #[must_use]
    pub fn alarms(&self) -> &[String] {
        self.revocation.alarms()
    }

    /// Verifies that a path leads from the leaf to a root, at the time `now`.
    ///
    /// # Errors
    /// If no path is accepted: the reason code, and a sentence with details.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        now: UnixTime,
    ) -> Result<VerifiedChain, PathError> {
        let rules = PathRules {
            roots: &self.roots,
            purpose: self.purpose,
            revocation: &self.revocation,
        };
        let leaf = Candidate::borrowed(leaf);
        let certificates = PathCertificates {
            leaf: &leaf,
            configured: &self.intermediates,
            presented: &[],
        };
        let mut budget = PathBudget::offline();
        let verified = path::verify(rules, certificates, now, &mut budget)?;
        let not_after = verified.not_after;
        // webpki also checks the dates. The check is repeated here, so the gateway does not rely on
        // webpki alone.
        let seconds = clock::certificate_time(now.as_secs());
        if clock::certificate_is_over(not_after, seconds) {
            return Err((
                ReasonCode::CertificateExpired,
                "the path is over".to_owned(),
            ));
        }
        if let Some((position, why)) = self.unusable_crls.first() {
            return Err((
                ReasonCode::RevocationUnknown,
                format!("revocation list {} cannot be used: {why}", position + 1),
            ));
        }
        Ok(VerifiedChain {
            length: verified.members.len() + 1,
            anchor: verified.anchor,
            not_after,
            revocation: verified.revocation.check,
        })
    }
}
