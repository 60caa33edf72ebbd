//! `PathTrust`: the listener's path rules alone, without identity or policy.
//!
//! Serves `countersign pki verify` and the public test suites, which ask whether a leaf chains to
//! one of these roots for a purpose at a time.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};

use super::certificate::authority::{AuthorityFacts, RootSet};
use super::certificate::candidate::Candidate;
use super::certificate::error::PathError;
use super::certificate::purpose::PathPurpose;
use super::path::{self, PathBudget, PathCertificates, PathRules};
use super::revocation::{
    KnownIssuer, RevocationDepth, RevocationIndex, RevocationPosture, UnusableCrl,
};
use crate::clock;
use crate::identity::peer::RevocationCheck;
use crate::reason::ReasonCode;

/// Roots, intermediates and lists to verify paths against.
#[derive(Debug)]
pub struct PathTrust {
    roots: RootSet,
    intermediates: Vec<Candidate<'static>>,
    revocation: RevocationIndex,
    purpose: PathPurpose,
    unusable_roots: Vec<(usize, String)>,
    unusable_crls: Vec<(usize, UnusableCrl)>,
}

/// A path that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedChain {
    /// Number of certificates in the path, including leaf and root.
    pub length: usize,
    /// SHA-256 of the root.
    pub anchor: [u8; 32],
    /// Earliest notAfter of the path, in seconds since the Unix epoch.
    pub not_after: i64,
    /// How the revocation status was established.
    pub revocation: RevocationCheck,
}

impl PathTrust {
    /// Reads roots, intermediates and lists. Without lists (`None`) revocation is
    /// not checked; with them it is `hard` for the whole path.
    ///
    /// A root that cannot be used is left out: a path that needs it is refused. A
    /// list that cannot be used could revoke any certificate, so that no path holds.
    #[must_use]
    pub fn new(
        roots: &[CertificateDer<'_>],
        intermediates: Vec<CertificateDer<'static>>,
        lists: Option<&[CertificateRevocationListDer<'_>]>,
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
        if let Some(lists) = lists {
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

    /// Returns the roots that were left out, by position, and why.
    #[must_use]
    pub fn unusable_roots(&self) -> &[(usize, String)] {
        &self.unusable_roots
    }

    /// Returns the lists that cannot be used, by position, and why.
    #[must_use]
    pub fn unusable_crls(&self) -> &[(usize, UnusableCrl)] {
        &self.unusable_crls
    }

    /// Returns alarms about the lists in use.
    #[must_use]
    pub fn alarms(&self) -> &[String] {
        self.revocation.alarms()
    }

    /// Verifies a leaf at `now`.
    ///
    /// # Errors
    /// The reason code and an explanation.
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
        // webpki checks the dates too. This check does not depend on that.
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
