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

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage, VerifiedPath};
use x509_parser::extensions::{DistributionPointName, GeneralName};
use x509_parser::prelude::{ParsedExtension, X509Certificate};

use super::authority::{AuthorityFacts, RootSet};
use super::end_entity::LeafPathFacts;
use super::explain::{describe, explain, reason_of};
use super::revocation::{RevocationIndex, RevocationOutcome};
use crate::crypto;
use crate::identity::leaf::{rfc4514, significant};
use crate::reason::ReasonCode;

/// Most certificates a peer may present, the leaf included.
pub const MAX_CERTIFICATES: usize = 8;
/// Most bytes a peer's certificates may have together.
pub const MAX_CHAIN_BYTES: usize = 32 * 1024;

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
    /// URIs of usable distribution points; `None` without the extension.
    pub(crate) distribution_points: Option<Box<[Box<str>]>>,
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

/// Points with reasons or another issuer are not usable: such lists are
/// partitioned or indirect, and refused.
fn distribution_points(certificate: &X509Certificate<'_>) -> Option<Box<[Box<str>]>> {
    let points = certificate.extensions().iter().find_map(|extension| {
        match extension.parsed_extension() {
            ParsedExtension::CRLDistributionPoints(points) => Some(points),
            _ => None,
        }
    })?;
    let mut uris = Vec::new();
    for point in &points.points {
        if point.reasons.is_some() || point.crl_issuer.is_some() {
            continue;
        }
        if let Some(DistributionPointName::FullName(names)) = &point.distribution_point {
            uris.extend(names.iter().filter_map(|name| match name {
                GeneralName::URI(uri) => Some(Box::from(*uri)),
                _ => None,
            }));
        }
    }
    Some(uris.into())
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

/// Verifies one path from `leaf` to one of the roots.
pub(crate) fn verify(
    rules: PathRules<'_>,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<Verified, PathRefusal> {
    let end_entity = EndEntityCert::try_from(leaf)
        .map_err(|error| (reason_of(&error), describe(&error, "the leaf")))?;
    let facts = LeafPathFacts::read(leaf)?;
    let provider = crypto::provider();
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    // The first refusal by our own checks explains best why no path was left.
    let refusal: RefCell<Option<PathRefusal>> = RefCell::new(None);
    let accepted: RefCell<Option<Verified>> = RefCell::new(None);
    let inspect = |path: &VerifiedPath<'_>| -> Result<(), Error> {
        match inspect_path(rules, path, &facts, seconds) {
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
    let result = end_entity.verify_for_usage(
        provider.signature_verification_algorithms.all,
        rules.roots.anchors(),
        intermediates,
        now,
        rules.purpose.key_usage(),
        None,
        Some(&inspect),
    );
    match (result, accepted.into_inner(), refusal.into_inner()) {
        (Ok(_), Some(verified), _) => Ok(verified),
        (_, _, Some(refusal)) => Err(refusal),
        (Ok(_), None, None) => Err((ReasonCode::UnknownIssuer, "no path was inspected".into())),
        (Err(error), _, None) => Err(explain(&error, leaf, intermediates, rules.roots)),
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
    Ok(())
}
