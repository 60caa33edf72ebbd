//! Path verification: webpki builds and checks the path, this module adds what
//! webpki leaves out.
//!
//! webpki checks signatures, validity of leaf and intermediates, CA flags, path
//! lengths of intermediates, extended key usage, DNS and IP name constraints and
//! critical extensions. Added here, per candidate path, so that a refusal lets
//! webpki try the next one: the rules for issuers and anchors
//! (`authority`), for leaves (`end_entity`), for wildcards
//! under exclusions (`constraints`), the anchor's path length, and
//! revocation (`revocation`). It knows no identities.

use std::cell::RefCell;
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage, VerifiedPath};
use x509_parser::extensions::{DistributionPointName, GeneralName};
use x509_parser::prelude::{ParsedExtension, X509Certificate};

use super::authority::{AuthorityFacts, RootSet};
use super::candidate::{Candidate, count_elements};
use super::end_entity::LeafPathFacts;
use super::explain::{describe, explain, reason_of};
use super::revocation::{RevocationIndex, RevocationOutcome};
use super::search::{self, Budget, Pool};
use super::signature_checks::{SignatureBudget, SignatureChecks};
use crate::crypto;
use crate::identity::leaf::{rfc4514, significant};
use crate::reason::ReasonCode;

/// Most certificates a peer may present, the leaf included.
pub const MAX_CERTIFICATES: usize = 8;
/// Most bytes a peer's certificates may have together.
pub const MAX_CHAIN_BYTES: usize = 32 * 1024;
/// Most DER elements a peer's certificates may have together. A certificate has about a
/// hundred, and one or two more for each name; to read them is what costs, not their bytes.
pub const MAX_CHAIN_ELEMENTS: usize = 4000;

/// A refusal by the path rules.
pub type PathRefusal = (ReasonCode, String);

/// Whose certificate is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathPurpose {
    /// A TLS client's.
    Client,
    /// A TLS server's.
    Server,
}

impl PathPurpose {
    fn key_usage(self) -> KeyUsage {
        match self {
            Self::Client => KeyUsage::client_auth(),
            Self::Server => KeyUsage::server_auth(),
        }
    }

    /// The word used on command lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// What revocation and the deny list look up about one certificate of a path.
#[derive(Debug, Clone)]
pub(crate) struct PathMember {
    /// The issuer's name, DER.
    pub(crate) issuer: Box<[u8]>,
    /// The issuer's name as RFC 4514 text.
    pub(crate) issuer_text: Box<str>,
    /// Serial number without leading zero octets.
    pub(crate) serial: Box<[u8]>,
    /// SHA-256 of the certificate.
    pub(crate) thumbprint: [u8; 32],
    /// Whether it is an intermediate, not the leaf.
    pub(crate) is_authority: bool,
    /// Names of usable distribution points; `None` without the extension.
    pub(crate) distribution_points: Option<Box<[PointName]>>,
    /// The issuer's SubjectPublicKeyInfo, DER.
    pub(crate) issuer_key: Arc<[u8]>,
    /// SHA-256 of `issuer_key`.
    pub(crate) issuer_key_hash: [u8; 32],
    /// Whether the issuer may sign revocation lists.
    pub(crate) issuer_signs_lists: bool,
}

impl PathMember {
    pub(super) fn from_certificate(
        certificate: &X509Certificate<'_>,
        der: &[u8],
        is_authority: bool,
        (issuer_key, issuer_signs_lists): (&[u8], bool),
    ) -> Self {
        Self {
            issuer: certificate.issuer().as_raw().into(),
            issuer_text: rfc4514(certificate.issuer()).into(),
            serial: significant(certificate.raw_serial()).into(),
            thumbprint: crypto::sha256(der),
            is_authority,
            distribution_points: distribution_points(certificate),
            issuer_key: issuer_key.into(),
            issuer_key_hash: crypto::sha256(issuer_key),
            issuer_signs_lists,
        }
    }
}

/// A name of a distribution point, of a type that is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PointName {
    /// A URI.
    Uri(Box<str>),
    /// A directory name, DER.
    Directory(Box<[u8]>),
}

impl PointName {
    pub(super) fn all_of(point: &DistributionPointName<'_>) -> Box<[Self]> {
        let DistributionPointName::FullName(names) = point else {
            return Box::default();
        };
        let compared = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(Self::Uri(Box::from(*uri))),
            GeneralName::DirectoryName(name) => Some(Self::Directory(name.as_raw().into())),
            _ => None,
        });
        compared.collect()
    }
}

/// Points with reasons or another issuer are not usable: such lists are
/// partitioned or indirect, and refused.
fn distribution_points(certificate: &X509Certificate<'_>) -> Option<Box<[PointName]>> {
    let points = certificate.extensions().iter().find_map(|extension| {
        match extension.parsed_extension() {
            ParsedExtension::CRLDistributionPoints(points) => Some(points),
            _ => None,
        }
    })?;
    let usable = points
        .points
        .iter()
        .filter(|point| point.reasons.is_none() && point.crl_issuer.is_none())
        .filter_map(|point| point.distribution_point.as_ref())
        .flat_map(PointName::all_of);
    Some(usable.collect())
}

/// A path that holds.
#[derive(Debug)]
pub(crate) struct Verified {
    /// SHA-256 of the root at its end.
    pub(crate) anchor: [u8; 32],
    /// Latest notBefore of the path.
    pub(crate) not_before: i64,
    /// Earliest notAfter of the path.
    pub(crate) not_after: i64,
    /// Leaf first; without the root.
    pub(crate) members: Vec<PathMember>,
    /// What the lists say.
    pub(crate) revocation: RevocationOutcome,
}

/// What a path is verified against.
#[derive(Clone, Copy)]
pub(crate) struct PathRules<'a> {
    pub(crate) roots: &'a RootSet,
    pub(crate) purpose: PathPurpose,
    pub(crate) revocation: &'a RevocationIndex,
}

/// The certificates that a path may consist of.
#[derive(Clone, Copy)]
pub(super) struct PathCertificates<'a> {
    pub(super) leaf: &'a Candidate<'a>,
    /// Intermediates of the operator's.
    pub(super) configured: &'a [Candidate<'static>],
    /// Intermediates of the peer's.
    pub(super) presented: &'a [Candidate<'a>],
}

/// What the verification of one chain may still cost, under all bundles together.
#[derive(Debug)]
pub(super) struct PathBudget {
    search: Budget,
    checks: SignatureChecks,
}

impl PathBudget {
    /// For a chain that a peer presents, under so many bundles: no more than twice what a
    /// good one costs under one.
    pub(super) fn presented(bundles: usize) -> Self {
        Self {
            search: Budget::PRESENTED,
            checks: SignatureChecks::new(SignatureBudget::presented(bundles)),
        }
    }

    /// For the certificates of an operator who waits for the result.
    pub(super) fn offline() -> Self {
        Self {
            search: Budget::OFFLINE,
            checks: SignatureChecks::new(SignatureBudget::OFFLINE),
        }
    }

    /// How many signatures were checked.
    #[cfg(test)]
    pub(super) fn signatures(&self) -> usize {
        self.checks.count()
    }
}

/// Verifies one path from the leaf to one of the roots.
pub(super) fn verify(
    rules: PathRules<'_>,
    certificates: PathCertificates<'_>,
    now: UnixTime,
    budget: &mut PathBudget,
) -> Result<Verified, PathRefusal> {
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
        now: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
    };
    let PathBudget { search, checks } = budget;
    let question = Question {
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
        question
            .ask(std::slice::from_ref(anchor), &chain)
            .map_err(|failure| {
                refusal.get_or_insert_with(|| failure.explain(leaf, &chain, rules.roots));
            })
            .ok()
    };
    match search::find(pool, search, checks, attempt) {
        Ok(Some(verified)) => Ok(verified),
        // What was wrong with an authority on the way says more than that none was found.
        Ok(None) => match refusal {
            Some(refusal) => Err(refusal),
            None => question.explain(pool),
        },
        Err(gave_up) => Err((ReasonCode::ChainTooLong, gave_up.to_string())),
    }
}

/// What webpki is asked about one leaf.
struct Question<'a> {
    rules: PathRules<'a>,
    leaf: (&'a EndEntityCert<'a>, &'a LeafPathFacts),
    now: UnixTime,
    checks: &'a SignatureChecks,
}

impl Question<'_> {
    /// Why no path holds: what is wrong with the likeliest chain.
    fn explain(&self, pool: Pool<'_>) -> Result<Verified, PathRefusal> {
        let chain = search::likeliest_chain(pool);
        let chain: Vec<CertificateDer<'_>> = chain.iter().map(|one| one.shared()).collect();
        let roots = pool.roots;
        self.ask(roots.anchors(), &chain)
            .map_err(|failure| failure.explain(&pool.leaf.der, &chain, roots))
    }

    fn ask(
        &self,
        anchors: &[TrustAnchor<'static>],
        intermediates: &[CertificateDer<'_>],
    ) -> Result<Verified, Failure> {
        let (end_entity, facts) = self.leaf;
        let seconds = i64::try_from(self.now.as_secs()).unwrap_or(i64::MAX);
        let refusal: RefCell<Option<PathRefusal>> = RefCell::new(None);
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
            // A path that was not inspected is none.
            (Ok(_), None) => Error::UnknownIssuer,
            (Err(error), _) => error,
        };
        Err(Failure {
            error,
            refusal: refusal.into_inner(),
        })
    }
}

/// Why webpki found no path.
struct Failure {
    error: Error,
    /// The first refusal by our own checks explains best why no path was left.
    refusal: Option<PathRefusal>,
}

impl Failure {
    fn explain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        roots: &RootSet,
    ) -> PathRefusal {
        let ours = self.refusal.clone();
        ours.unwrap_or_else(|| explain(&self.error, leaf, intermediates, roots))
    }
}

fn inspect_path(
    rules: PathRules<'_>,
    path: &VerifiedPath<'_>,
    leaf: &LeafPathFacts,
    now: i64,
) -> Result<Verified, PathRefusal> {
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
        // RFC 5280 section 4.2.1.9: self-issued intermediates do not count.
        length += u32::from(!facts.self_issued);
    }
    root.facts.check_as_anchor(now, rules.purpose)?;
    root.facts.constraints.check(&leaf.names)?;
    if let Some(most) = root.facts.path_length.filter(|most| length > *most) {
        return Err((
            ReasonCode::ChainTooLong,
            format!(
                "{} allows {most} intermediate certificates below it, the path has {length}",
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
            PathMember::read(der, index > 0, (&issuer.key, issuer.signs_lists()))
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

/// Refuses chains that are too long or too large before any of them is parsed.
pub(crate) fn check_size(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<(), PathRefusal> {
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
    let mut elements = 0;
    for der in std::iter::once(leaf).chain(intermediates) {
        elements += count_elements(der, MAX_CHAIN_ELEMENTS + 1);
    }
    if elements > MAX_CHAIN_ELEMENTS {
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
