//! Path verification. webpki verifies each path, and this module adds the checks that webpki omits.
//!
//! webpki checks signatures, validity dates of leaf and intermediates, CA flags, path lengths of
//! intermediates, extended key usage, DNS and IP name constraints, and critical extensions.
//!
//! This module also checks each path that webpki accepts. If one of these checks fails, the search
//! tries the next path. The checks are:
//! - the rules for issuers and roots (`authority`) and for leaves (`end_entity`)
//! - name constraints that webpki does not apply (`constraints`)
//! - the path length constraint of the root
//! - revocation (`revocation`)
//!
//! This module does not determine the caller's name.
//!
//! The files of this module:
//! - `search`: finds the certificates that lead from a leaf to a root
//! - `signature_checks`: checks each signature only once, within a budget
//! - `explain`: converts webpki's errors to reason codes and sentences

mod explain;
pub(crate) mod search;
pub(crate) mod signature_checks;

use std::cell::RefCell;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, Error, VerifiedPath};

use super::certificate::authority::{AuthorityFacts, RootSet};
use super::certificate::candidate::{Candidate, count_elements};
use super::certificate::end_entity::LeafPathFacts;
use super::certificate::error::PathError;
use super::certificate::member::{Issuer, PathMember};
use super::certificate::purpose::PathPurpose;
use super::revocation::{RevocationIndex, RevocationOutcome};
use crate::clock;
use crate::reason::ReasonCode;
use explain::{describe, explain, reason_of, violated_rule};
use search::{Budget, Pool};
use signature_checks::{SignatureBudget, SignatureChecks};

/// Maximum number of certificates that a peer may present, including the leaf.
pub const MAX_CERTIFICATES: usize = 8;
/// Maximum total size in bytes of all certificates that a peer presents.
pub const MAX_CHAIN_BYTES: usize = 32 * 1024;
/// Maximum total number of DER elements in the certificates that a peer presents. The cost of
/// parsing depends on this number. A usual certificate has about 100 elements, and one or two more
/// for each subject alternative name.
pub const MAX_CHAIN_ELEMENTS: usize = 4000;

/// A path that was verified with all checks.
#[derive(Debug)]
pub(crate) struct Verified {
    /// SHA-256 hash of the root certificate at the end of the path.
    pub(crate) anchor: [u8; 32],
    /// The latest notBefore of all certificates in the path, in seconds since the Unix epoch.
    pub(crate) not_before: i64,
    /// The earliest notAfter of all certificates in the path, in seconds since the Unix epoch.
    pub(crate) not_after: i64,
    /// The certificates of the path from the leaf up, without the root.
    pub(crate) members: Vec<PathMember>,
    /// The result of the revocation check.
    pub(crate) revocation: RevocationOutcome,
}

/// The roots, the purpose and the revocation lists with which a path is verified.
#[derive(Clone, Copy)]
pub(crate) struct PathRules<'a> {
    pub(crate) roots: &'a RootSet,
    pub(crate) purpose: PathPurpose,
    pub(crate) revocation: &'a RevocationIndex,
}

/// The certificates from which a path can be built.
#[derive(Clone, Copy)]
pub(crate) struct PathCertificates<'a> {
    pub(crate) leaf: &'a Candidate<'a>,
    /// Intermediates that the operator has configured.
    pub(crate) configured: &'a [Candidate<'static>],
    /// Intermediates that the peer has presented.
    pub(crate) presented: &'a [Candidate<'a>],
}

/// How much work is left for the verification of one chain. All bundles that are tried for the
/// chain share the budget.
#[derive(Debug)]
pub(crate) struct PathBudget {
    search: Budget,
    checks: SignatureChecks,
}

impl PathBudget {
    /// Returns the budget for a chain that a peer presents. `bundles` is the number of bundles that
    /// are tried.
    pub(crate) fn presented(bundles: usize) -> Self {
        Self {
            search: Budget::PRESENTED,
            checks: SignatureChecks::new(SignatureBudget::presented(bundles)),
        }
    }

    /// Returns a larger budget for commands, where only an operator waits for the result.
    pub(crate) fn offline() -> Self {
        Self {
            search: Budget::OFFLINE,
            checks: SignatureChecks::new(SignatureBudget::OFFLINE),
        }
    }

    /// Returns the number of signatures that were checked with this budget.
    #[cfg(test)]
    pub(crate) fn signatures(&self) -> usize {
        self.checks.count()
    }
}

/// Verifies that a path leads from the leaf to one of the roots. Returns the first path that passes
/// all checks.
pub(crate) fn verify(
    rules: PathRules<'_>,
    certificates: PathCertificates<'_>,
    now: UnixTime,
    budget: &mut PathBudget,
) -> Result<Verified, PathError> {
    let leaf = &certificates.leaf.der;
    let end_entity = EndEntityCert::try_from(leaf)
        .map_err(|error| (reason_of(&error), describe(&error, "the leaf")))?;
    let facts = LeafPathFacts::read(leaf)?;
    let configured = certificates.configured.iter();
    let intermediates: Vec<&Candidate<'_>> = configured.chain(certificates.presented).collect();
    let pool = Pool {
        roots: rules.roots,
        leaf: certificates.leaf,
        intermediates: &intermediates,
        configured: certificates.configured.len(),
        purpose: rules.purpose,
        now: clock::certificate_time(now.as_secs()),
    };
    let PathBudget { search, checks } = budget;
    let webpki_check = WebpkiCheck {
        rules,
        leaf: (&end_entity, &facts),
        now,
        checks,
    };
    let mut refusal = None;
    let attempt = |root: usize, path: &[usize]| {
        let chain: Vec<CertificateDer<'_>> = path
            .iter()
            .filter_map(|index| Some(intermediates.get(*index)?.shared()))
            .collect();
        let anchor = rules.roots.anchors().get(root)?;
        match webpki_check.verify(std::slice::from_ref(anchor), &chain) {
            Ok(verified) => Some(verified),
            Err(failure) => {
                refusal.get_or_insert_with(|| {
                    let violated = webpki_check.violated_rule(&failure, root, &chain);
                    violated.unwrap_or_else(|| failure.explain(leaf, &chain, rules.roots))
                });
                None
            }
        }
    };
    match search::find(pool, search, checks, attempt) {
        Ok(Some(verified)) => Ok(verified),
        // If a path with valid signatures was refused, its error explains more than the error that
        // no path was found.
        Ok(None) => match refusal {
            Some(refusal) => Err(refusal),
            None => webpki_check.explain(pool),
        },
        Err(limit) => Err((ReasonCode::ChainTooLong, limit.to_string())),
    }
}

/// Runs webpki and our own checks on paths of one leaf.
struct WebpkiCheck<'a> {
    rules: PathRules<'a>,
    leaf: (&'a EndEntityCert<'a>, &'a LeafPathFacts),
    now: UnixTime,
    checks: &'a SignatureChecks,
}

impl WebpkiCheck<'_> {
    /// Returns the error for the case that the search found no path. It is webpki's error for the
    /// chain that the peer most likely meant.
    fn explain(&self, pool: Pool<'_>) -> Result<Verified, PathError> {
        let chain = search::likeliest_chain(pool);
        let chain: Vec<CertificateDer<'_>> = chain.iter().map(|one| one.shared()).collect();
        let roots = pool.roots;
        self.verify(roots.anchors(), &chain)
            .map_err(|failure| failure.explain(&pool.leaf.der, &chain, roots))
    }

    /// Returns the rule that a path with valid signatures violates, if webpki reports another one.
    fn violated_rule(
        &self,
        failure: &WebpkiError,
        root: usize,
        intermediates: &[CertificateDer<'_>],
    ) -> Option<PathError> {
        let is_about_signatures = matches!(
            reason_of(&failure.error),
            ReasonCode::BadSignature | ReasonCode::UnsupportedKey
        );
        let is_about_length = failure.error == Error::PathLenConstraintViolated;
        if failure.refusal.is_some() || !(is_about_signatures || is_about_length) {
            return None;
        }
        let root = self.rules.roots.roots().get(root)?;
        let issuers = intermediates.iter().map(|der| AuthorityFacts::read(der));
        let issuers: Vec<AuthorityFacts> = issuers.collect::<Result<_, _>>().ok()?;
        violated_rule(&issuers, root, self.rules.purpose)
    }

    fn verify(
        &self,
        anchors: &[TrustAnchor<'static>],
        intermediates: &[CertificateDer<'_>],
    ) -> Result<Verified, WebpkiError> {
        let (end_entity, facts) = self.leaf;
        let seconds = clock::certificate_time(self.now.as_secs());
        let refusal: RefCell<Option<PathError>> = RefCell::new(None);
        let accepted: RefCell<Option<Verified>> = RefCell::new(None);
        let inspect = |path: &VerifiedPath<'_>| -> Result<(), Error> {
            match inspect_path(self.rules, path, facts, seconds) {
                Ok(verified) => {
                    accepted.replace(Some(verified));
                    Ok(())
                }
                Err(found) => {
                    refusal.borrow_mut().get_or_insert(found);
                    Err(Error::UnknownIssuer)
                }
            }
        };
        let algorithms = self.checks.algorithms();
        let algorithms: Vec<&dyn SignatureVerificationAlgorithm> = algorithms
            .iter()
            .map(|algorithm| algorithm as &dyn SignatureVerificationAlgorithm)
            .collect();
        let result = end_entity.verify_for_usage(
            &algorithms,
            anchors,
            intermediates,
            self.now,
            self.rules.purpose.key_usage(),
            None,
            Some(&inspect),
        );
        let error = match (result, accepted.into_inner()) {
            (Ok(_), Some(verified)) => return Ok(verified),
            // webpki calls `inspect` for each path that it accepts. If webpki accepted a path
            // without this call, our own checks are missing, and the path is refused.
            (Ok(_), None) => Error::UnknownIssuer,
            (Err(error), _) => error,
        };
        Err(WebpkiError {
            error,
            refusal: refusal.into_inner(),
        })
    }
}

/// The reason why a path was refused, by webpki or by our own checks.
struct WebpkiError {
    error: Error,
    /// The first error of our own checks, if webpki had accepted the path. This error explains more
    /// than `error`. `None` if webpki itself refused the path.
    refusal: Option<PathError>,
}

impl WebpkiError {
    fn explain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        roots: &RootSet,
    ) -> PathError {
        let ours = self.refusal.clone();
        ours.unwrap_or_else(|| explain(&self.error, leaf, intermediates, roots))
    }
}

fn inspect_path(
    rules: PathRules<'_>,
    path: &VerifiedPath<'_>,
    leaf: &LeafPathFacts,
    now: i64,
) -> Result<Verified, PathError> {
    let malformed = |why: String| (ReasonCode::MalformedIdentity, why);
    let root = rules
        .roots
        .of_anchor(path.anchor())
        .ok_or_else(|| malformed("the path ends at no configured anchor".into()))?;
    leaf.check(rules.purpose)?;
    let ders: Vec<_> = path.intermediate_certificates().map(|c| c.der()).collect();
    let issuers = ders
        .iter()
        .map(|der| AuthorityFacts::read(der).map_err(malformed))
        .collect::<Result<Vec<_>, _>>()?;
    let mut not_before = leaf.not_before.max(root.facts.not_before);
    let mut not_after = leaf.not_after.min(root.facts.not_after);
    let mut length = 0_u32;
    for facts in &issuers {
        facts.check_as_issuer()?;
        facts.constraints.check(&leaf.names)?;
        not_before = not_before.max(facts.not_before);
        not_after = not_after.min(facts.not_after);
        // RFC 5280 section 4.2.1.9: a self-issued intermediate does not count for the path length.
        length += u32::from(!facts.self_issued);
    }
    root.facts.check_as_anchor(now, rules.purpose)?;
    root.facts.constraints.check(&leaf.names)?;
    if let Some(max) = root.facts.path_length.filter(|max| length > *max) {
        return Err((
            ReasonCode::ChainTooLong,
            format!(
                "{} allows {max} intermediate certificates below it, the path has {length}",
                root.facts.subject,
            ),
        ));
    }
    let above = issuers.iter().chain(std::iter::once(&root.facts));
    let leaf_der = path.end_entity().der();
    let members = std::iter::once(&leaf_der)
        .chain(&ders)
        .zip(above)
        .enumerate()
        .map(|(index, (der, issuer))| {
            let issuer = Issuer {
                key: &issuer.key,
                signs_crls: issuer.signs_crls(),
            };
            PathMember::read(der, index > 0, issuer)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let revocation = rules.revocation.check(&members, now)?;
    Ok(Verified {
        anchor: root.hash,
        not_before,
        not_after,
        members,
        revocation,
    })
}

/// Refuses a chain with too many certificates, bytes or DER elements before it is parsed.
pub(crate) fn check_size(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<(), PathError> {
    let count = intermediates.len() + 1;
    let bytes = intermediates
        .iter()
        .fold(leaf.len(), |sum, der| sum.saturating_add(der.len()));
    if count > MAX_CERTIFICATES || bytes > MAX_CHAIN_BYTES {
        return Err((
            ReasonCode::ChainTooLong,
            format!(
                "{count} certificates of {bytes} bytes; at most {MAX_CERTIFICATES} of {MAX_CHAIN_BYTES} are accepted"
            ),
        ));
    }
    if !has_few_elements(std::iter::once(leaf).chain(intermediates)) {
        return Err((
            ReasonCode::ChainTooLong,
            format!(
                "the certificates have more than {MAX_CHAIN_ELEMENTS} elements (names, \
                 extensions, …) together"
            ),
        ));
    }
    Ok(())
}

/// Whether certificates have so few DER elements that a path can be searched at little cost.
fn has_few_elements<'a>(certificates: impl Iterator<Item = &'a CertificateDer<'a>>) -> bool {
    let mut elements = 0_usize;
    for der in certificates {
        elements = elements.saturating_add(count_elements(der, MAX_CHAIN_ELEMENTS + 1));
    }
    elements <= MAX_CHAIN_ELEMENTS
}

/// Whether a leaf has so few DER elements that it can be described at little cost, although its
/// chain is refused.
pub(crate) fn can_be_described(leaf: &CertificateDer<'_>) -> bool {
    const MAX: usize = 2 * MAX_CHAIN_ELEMENTS;
    count_elements(leaf, MAX + 1) <= MAX
}
