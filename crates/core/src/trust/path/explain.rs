//! Converts webpki's errors to reason codes and sentences.
//!
//! If webpki's error alone would be misleading, this file also examines the chain. It only explains
//! a refusal. It never decides whether a chain is accepted.

use rustls_pki_types::CertificateDer;
use webpki::Error;
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

use crate::clock;
use crate::reason::ReasonCode;
use crate::trust::certificate::authority::{AuthorityFacts, Root, RootSet, key_is_strong};
use crate::trust::certificate::end_entity::LeafPathFacts;
use crate::trust::certificate::error::PathError;

/// Converts an error of webpki to a reason code and a sentence. The other arguments are the chain
/// and the roots that webpki has tried.
pub(crate) fn explain(
    error: &Error,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootSet,
) -> PathError {
    let reason = reason_of(error);
    // For a key that is too weak for the cryptography provider, webpki reports a bad signature.
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
    // If a configured root has the name of the issuer but another key, webpki reports a bad
    // signature. In fact, the issuer is another authority, so the reason is an unknown issuer.
    if reason == ReasonCode::BadSignature
        && let Some(root) = namesake(leaf, intermediates, roots)
    {
        return (
            ReasonCode::UnknownIssuer,
            format!(
                "{root} is a configured root, with another key than the authority of that name \
                 that issued the presented chain"
            ),
        );
    }
    if reason == ReasonCode::NameConstraint
        && let Some(kind) = unsupported_constraint(leaf, intermediates, roots)
    {
        return (
            reason,
            format!(
                "an issuer constrains {kind} names and the chain carries some; \
                 {kind} name constraints are not supported and refuse them all"
            ),
        );
    }
    (reason, describe(error, "the presented chain"))
}

/// Returns the name of a root that has the same name as an issuer in the chain, but another key.
/// Compares the keys by their key identifiers.
fn namesake(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootSet,
) -> Option<String> {
    let read = |der| Some(X509Certificate::from_der(der).ok()?.1);
    let authorities: Vec<X509Certificate<'_>> =
        intermediates.iter().filter_map(|der| read(der)).collect();
    let leaf = read(leaf)?;
    std::iter::once(&leaf)
        .chain(&authorities)
        .find_map(|issued| {
            let wanted = issuer_key_id(issued)?;
            // When a root gets a new key, its old key signs a certificate for the new key. If the
            // chain contains such a certificate, the path leads over this certificate to the old
            // root. So the old key of the configured root is not the reason for the refusal.
            let leads_on = authorities.iter().any(|authority| {
                authority.subject().as_raw() == issued.issuer().as_raw()
                    && own_key_id(authority) == Some(wanted)
                    && issuer_key_id(authority).is_some_and(|above| above != wanted)
            });
            let mut named = roots
                .roots()
                .iter()
                .filter(|root| root.facts.subject_der == issued.issuer().as_raw())
                .peekable();
            let name = named.peek()?.facts.subject.clone();
            let differs = |root: &Root| {
                let id = root.facts.key_id.as_deref();
                id.is_some_and(|id| id != wanted)
            };
            (!leads_on && named.all(differs)).then_some(name)
        })
}

fn issuer_key_id<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate
        .iter_extensions()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => Some(id.key_identifier.as_ref()?.0),
            _ => None,
        })
}

fn own_key_id<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate
        .iter_extensions()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
            _ => None,
        })
}

fn unsupported_constraint(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootSet,
) -> Option<&'static str> {
    let carried = LeafPathFacts::read(leaf).ok()?.names;
    let presented = intermediates
        .iter()
        .filter_map(|der| AuthorityFacts::read(der).ok())
        .find_map(|facts| facts.constraints.unsupported(&carried));
    presented.or_else(|| {
        roots
            .roots()
            .iter()
            .find_map(|root| root.facts.constraints.unsupported(&carried))
    })
}

/// Returns a sentence about an error of webpki. `what` is the certificate or the chain with the
/// error.
pub(crate) fn describe(error: &Error, what: &str) -> String {
    match error {
        Error::CertExpired { not_after, .. } => format!(
            "a certificate of {what} expired at {}",
            clock::rfc3339(clock::certificate_time(not_after.as_secs()))
        ),
        Error::CertNotValidYet { not_before, .. } => format!(
            "a certificate of {what} is valid from {}",
            clock::rfc3339(clock::certificate_time(not_before.as_secs()))
        ),
        Error::UnknownIssuer => format!("{what} leads to no configured root"),
        Error::RequiredEkuNotFoundContext(_) => {
            format!("an extended key usage in {what} does not allow this use")
        }
        Error::UnsupportedCriticalExtension => {
            format!("a certificate of {what} has a critical extension that is not supported")
        }
        Error::NameConstraintViolation => {
            format!("a name in {what} violates a name constraint of an issuer")
        }
        Error::CaUsedAsEndEntity => {
            format!("the first certificate of {what} is an authority's (CA:TRUE), not a leaf's")
        }
        Error::EndEntityUsedAsCa => {
            format!("an issuer in {what} is not a certificate authority (no CA:TRUE)")
        }
        Error::InvalidSignatureForPublicKey => {
            format!("a signature in {what} does not verify under the key of its issuer")
        }
        Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            format!("{what} is signed with an algorithm that is not supported")
        }
        Error::PathLenConstraintViolated => {
            format!("{what} has more intermediates than the path length of an issuer allows")
        }
        Error::MaximumPathDepthExceeded => format!("{what} has too many intermediates"),
        Error::MaximumSignatureChecksExceeded | Error::MaximumPathBuildCallsExceeded => {
            format!("{what} holds too many certificates of one name to try every path")
        }
        other => format!("{what}: {other}"),
    }
}

/// Returns the reason code for a webpki error.
#[expect(
    deprecated,
    reason = "the variants without context are still part of the enum"
)]
pub(crate) const fn reason_of(error: &Error) -> ReasonCode {
    match error {
        Error::CertExpired { .. } | Error::InvalidCertValidity => ReasonCode::CertificateExpired,
        Error::CertNotValidYet { .. } => ReasonCode::CertificateNotYetValid,
        Error::UnknownIssuer => ReasonCode::UnknownIssuer,
        Error::CertDistrusted => ReasonCode::CertificateRevoked,
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
