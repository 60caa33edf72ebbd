//! Path verification: webpki builds and checks the path, this module adds what
//! webpki leaves out.
//!
//! webpki checks signatures, validity of leaf and intermediates, CA flags, path
//! lengths of intermediates, extended key usage, DNS and IP name constraints and
//! critical extensions. Added here: the key usage of every issuer, the anchor's
//! own validity, key usage and path length, weak keys, chain size.

use std::cell::RefCell;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage, RevocationOptions, VerifiedPath};
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::clock;
use crate::crypto;
use crate::identity::leaf::{key_usage, rfc4514};
use crate::reason::ReasonCode;

/// Most certificates a peer may present, the leaf included.
pub const MAX_CERTIFICATES: usize = 8;
/// Most bytes a peer's certificates may have together.
pub const MAX_CHAIN_BYTES: usize = 32 * 1024;

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
}

/// Outcome of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Check {
    Passed,
    Refused(ReasonCode, String),
}

/// Facts about a certificate authority's own certificate.
#[derive(Debug, Clone)]
pub(crate) struct AuthorityFacts {
    pub(crate) subject: String,
    pub(crate) subject_der: Vec<u8>,
    not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) is_ca: bool,
    path_length: Option<u32>,
    key_usage: Option<u16>,
    self_issued: bool,
    strong_key: bool,
}

impl AuthorityFacts {
    pub(crate) fn read(der: &[u8]) -> Result<Self, String> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| "it is not a certificate".to_owned())?;
        if !rest.is_empty() {
            return Err("bytes follow the certificate".to_owned());
        }
        let mut facts = Self {
            subject: rfc4514(certificate.subject()),
            subject_der: certificate.subject().as_raw().to_vec(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            is_ca: false,
            path_length: None,
            key_usage: None,
            self_issued: certificate.subject().as_raw() == certificate.issuer().as_raw(),
            strong_key: key_is_strong(certificate.public_key()),
        };
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(constraints) => {
                    facts.is_ca = constraints.ca;
                    facts.path_length = constraints.path_len_constraint;
                }
                ParsedExtension::KeyUsage(usage) => facts.key_usage = Some(usage.flags),
                ParsedExtension::ParseError { .. } => {
                    return Err("one of its extensions is malformed".to_owned());
                }
                _ => {}
            }
        }
        Ok(facts)
    }

    pub(crate) fn check_validity(&self, now: i64) -> Check {
        if now > self.not_after {
            return Check::Refused(
                ReasonCode::CertificateExpired,
                format!(
                    "{} expired at {}",
                    self.subject,
                    clock::rfc3339(self.not_after)
                ),
            );
        }
        if now < self.not_before {
            return Check::Refused(
                ReasonCode::CertificateNotYetValid,
                format!(
                    "{} is valid from {}",
                    self.subject,
                    clock::rfc3339(self.not_before)
                ),
            );
        }
        Check::Passed
    }

    /// What an issuer in a path must satisfy beyond webpki's checks.
    fn check_as_issuer(&self) -> Check {
        if self
            .key_usage
            .is_some_and(|usage| usage & key_usage::KEY_CERT_SIGN == 0)
        {
            return Check::Refused(
                ReasonCode::WrongUsage,
                format!("{} may not sign certificates (key usage)", self.subject),
            );
        }
        if !self.strong_key {
            return Check::Refused(
                ReasonCode::WeakKey,
                format!("the key of {} is too weak", self.subject),
            );
        }
        Check::Passed
    }
}

/// Whether a public key is one this gateway relies on: P-256, P-384, P-521,
/// Ed25519, RSA with at least 2048 bits, or an algorithm it does not know (which
/// no signature can then verify under).
pub(crate) fn key_is_strong(key: &SubjectPublicKeyInfo<'_>) -> bool {
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => rsa.key_size() >= 2048,
        Ok(PublicKey::EC(point)) => point.key_size() >= 256,
        Ok(PublicKey::DSA(_)) => false,
        _ => true,
    }
}

/// A path that holds: earliest expiry and position of its anchor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verified {
    pub(crate) anchor: usize,
    pub(crate) not_after: i64,
}

/// A refusal by the path rules.
pub type PathRefusal = (ReasonCode, String);

/// Verifies one path from `leaf` to one of `anchors`.
///
/// `roots` says about each anchor what a bare trust anchor lacks.
pub(crate) fn verify(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    roots: &[&AuthorityFacts],
    now: UnixTime,
    purpose: PathPurpose,
    revocation: Option<RevocationOptions<'_>>,
) -> Result<Verified, PathRefusal> {
    let end_entity = EndEntityCert::try_from(leaf)
        .map_err(|error| (reason_of(&error), describe(&error, "the leaf")))?;
    let provider = crypto::provider();
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    // The first refusal by our own checks explains best why no path was left.
    let refusal: RefCell<Option<PathRefusal>> = RefCell::new(None);
    let accepted: RefCell<Option<Verified>> = RefCell::new(None);
    let inspect = |path: &VerifiedPath<'_>| -> Result<(), Error> {
        match inspect_path(path, anchors, roots, seconds) {
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
        anchors,
        intermediates,
        now,
        purpose.key_usage(),
        revocation,
        Some(&inspect),
    );
    match (result, accepted.into_inner(), refusal.into_inner()) {
        (Ok(_), Some(verified), _) => Ok(verified),
        (_, _, Some(refusal)) => Err(refusal),
        (Ok(_), None, None) => Err((ReasonCode::UnknownIssuer, "no path was inspected".into())),
        (Err(error), _, None) => Err(explain(&error, leaf, intermediates)),
    }
}

fn inspect_path(
    path: &VerifiedPath<'_>,
    anchors: &[TrustAnchor<'_>],
    roots: &[&AuthorityFacts],
    now: i64,
) -> Result<Verified, PathRefusal> {
    let malformed = |why: String| (ReasonCode::MalformedIdentity, why);
    let anchor = anchors
        .iter()
        .position(|anchor| std::ptr::eq(anchor, path.anchor()))
        .ok_or_else(|| malformed("the path ends at no configured anchor".into()))?;
    let root = roots
        .get(anchor)
        .ok_or_else(|| malformed("the anchor is unknown".into()))?;
    let mut not_after = leaf_not_after(path)?.min(root.not_after);
    let mut length = 0_u32;
    for certificate in path.intermediate_certificates() {
        let facts = AuthorityFacts::read(&certificate.der()).map_err(malformed)?;
        pass(facts.check_as_issuer())?;
        not_after = not_after.min(facts.not_after);
        // RFC 5280 section 4.2.1.9: self-issued intermediates do not count.
        length += u32::from(!facts.self_issued);
    }
    pass(root.check_validity(now))?;
    pass(root.check_as_issuer())?;
    if root.path_length.is_some_and(|most| length > most) {
        return Err((
            ReasonCode::ChainTooLong,
            format!(
                "{} allows {} intermediate certificates below it, the path has {length}",
                root.subject,
                root.path_length.unwrap_or_default()
            ),
        ));
    }
    Ok(Verified { anchor, not_after })
}

fn leaf_not_after(path: &VerifiedPath<'_>) -> Result<i64, PathRefusal> {
    let der = path.end_entity().der();
    let (_, leaf) = X509Certificate::from_der(&der).map_err(|_| {
        (
            ReasonCode::MalformedIdentity,
            "the leaf cannot be read".to_owned(),
        )
    })?;
    if !key_is_strong(leaf.public_key()) {
        return Err((ReasonCode::WeakKey, "the leaf's key is too weak".to_owned()));
    }
    Ok(leaf.validity().not_after.timestamp())
}

fn pass(check: Check) -> Result<(), PathRefusal> {
    match check {
        Check::Passed => Ok(()),
        Check::Refused(reason, why) => Err((reason, why)),
    }
}

/// Turns webpki's error into a reason, looking at the chain where the error
/// alone would mislead.
fn explain(
    error: &Error,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> PathRefusal {
    let reason = reason_of(error);
    // A provider that does not support a weak key reports a bad signature.
    if reason == ReasonCode::BadSignature {
        let weak = std::iter::once(leaf).chain(intermediates).any(|der| {
            X509Certificate::from_der(der)
                .is_ok_and(|(_, certificate)| !key_is_strong(certificate.public_key()))
        });
        if weak {
            return (
                ReasonCode::WeakKey,
                "a key in the presented chain is too weak".to_owned(),
            );
        }
    }
    (reason, describe(error, "the presented chain"))
}

fn describe(error: &Error, what: &str) -> String {
    match error {
        Error::CertExpired { not_after, .. } => format!(
            "a certificate of {what} expired at {}",
            clock::rfc3339(i64::try_from(not_after.as_secs()).unwrap_or(i64::MAX))
        ),
        Error::CertNotValidYet { not_before, .. } => format!(
            "a certificate of {what} is valid from {}",
            clock::rfc3339(i64::try_from(not_before.as_secs()).unwrap_or(i64::MAX))
        ),
        Error::CrlExpired { next_update, .. } => format!(
            "the revocation list was to be replaced by {}",
            clock::rfc3339(i64::try_from(next_update.as_secs()).unwrap_or(i64::MAX))
        ),
        Error::UnknownIssuer => format!("{what} leads to no configured root"),
        Error::CertRevoked => format!("a certificate of {what} is on a revocation list"),
        Error::UnknownRevocationStatus => {
            format!("no usable revocation list covers a certificate of {what}")
        }
        Error::RequiredEkuNotFoundContext(_) => {
            format!("an extended key usage in {what} does not allow this use")
        }
        Error::UnsupportedCriticalExtension => {
            format!("a certificate of {what} has a critical extension that is not supported")
        }
        Error::NameConstraintViolation => {
            format!("a name in {what} violates a name constraint of an issuer")
        }
        other => format!("{what}: {other}"),
    }
}

/// The reason code of a webpki error.
#[expect(
    deprecated,
    reason = "the variants without context are still part of the enum"
)]
const fn reason_of(error: &Error) -> ReasonCode {
    match error {
        Error::CertExpired { .. } | Error::InvalidCertValidity => ReasonCode::CertificateExpired,
        Error::CertNotValidYet { .. } => ReasonCode::CertificateNotYetValid,
        Error::UnknownIssuer => ReasonCode::UnknownIssuer,
        Error::CertRevoked | Error::CertDistrusted => ReasonCode::CertificateRevoked,
        Error::CrlExpired { .. } => ReasonCode::RevocationStale,
        Error::UnknownRevocationStatus
        | Error::InvalidCrlNumber
        | Error::InvalidCrlSignatureForPublicKey
        | Error::IssuerNotCrlSigner
        | Error::UnsupportedCrlIssuingDistributionPoint
        | Error::UnsupportedCrlVersion
        | Error::UnsupportedDeltaCrl
        | Error::UnsupportedIndirectCrl
        | Error::UnsupportedRevocationReason
        | Error::UnsupportedRevocationReasonsPartitioning
        | Error::UnsupportedCrlSignatureAlgorithm
        | Error::UnsupportedCrlSignatureAlgorithmContext(_)
        | Error::UnsupportedCrlSignatureAlgorithmForPublicKey
        | Error::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => {
            ReasonCode::RevocationUnknown
        }
        Error::CaUsedAsEndEntity
        | Error::EndEntityUsedAsCa
        | Error::EmptyEkuExtension
        | Error::RequiredEkuNotFound
        | Error::RequiredEkuNotFoundContext(_)
        | Error::UnsupportedCriticalExtension => ReasonCode::WrongUsage,
        Error::NameConstraintViolation
        | Error::MalformedNameConstraint
        | Error::InvalidNetworkMaskConstraint
        | Error::MaximumNameConstraintComparisonsExceeded => ReasonCode::NameConstraint,
        Error::InvalidSignatureForPublicKey | Error::SignatureAlgorithmMismatch => {
            ReasonCode::BadSignature
        }
        Error::UnsupportedSignatureAlgorithm
        | Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKey
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => ReasonCode::WeakKey,
        Error::PathLenConstraintViolated
        | Error::MaximumPathDepthExceeded
        | Error::MaximumPathBuildCallsExceeded
        | Error::MaximumSignatureChecksExceeded => ReasonCode::ChainTooLong,
        _ => ReasonCode::MalformedIdentity,
    }
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

/// The listener's path rules alone, without identity or policy: does `leaf`
/// chain to one of `roots` for `purpose` at `now`?
///
/// # Errors
/// The reason code and an explanation.
pub fn verify_path(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
    now: UnixTime,
    purpose: PathPurpose,
    revocation: Option<RevocationOptions<'_>>,
) -> Result<(), PathRefusal> {
    check_size(leaf, intermediates)?;
    let mut anchors = Vec::with_capacity(roots.len());
    let mut facts = Vec::with_capacity(roots.len());
    for der in roots {
        let malformed = |why: String| (ReasonCode::MalformedIdentity, format!("a root: {why}"));
        facts.push(AuthorityFacts::read(der).map_err(malformed)?);
        anchors.push(
            webpki::anchor_from_trusted_cert(der).map_err(|error| malformed(error.to_string()))?,
        );
    }
    let facts: Vec<&AuthorityFacts> = facts.iter().collect();
    verify(
        leaf,
        intermediates,
        &anchors,
        &facts,
        now,
        purpose,
        revocation,
    )
    .map(|_| ())
}
