//! Converts webpki's errors to reason codes and sentences.
//!
//! If webpki's error alone would be misleading, this file also examines the chain. It only explains
//! a refusal. It never decides whether a chain is accepted.

use rustls_pki_types::CertificateDer;
use webpki::Error;
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

use crate::clock;
use crate::identity::leaf::rfc4514;
use crate::reason::ReasonCode;
use crate::trust::certificate::algorithm::{check_key, check_signature};
use crate::trust::certificate::authority::{AuthorityFacts, Root, RootSet};
use crate::trust::certificate::end_entity::LeafPathFacts;
use crate::trust::certificate::error::{PathError, in_words};
use crate::trust::certificate::purpose::PathPurpose;
use crate::trust::certificate::signed::SignedParts;

/// Converts an error of webpki to a reason code and a sentence. The other arguments are the chain
/// and the roots that webpki has tried.
pub(crate) fn explain(
    error: &Error,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootSet,
) -> PathError {
    let reason = reason_of(error);
    // A provider may report a bad signature for a key that it does not support.
    if matches!(
        reason,
        ReasonCode::BadSignature | ReasonCode::UnsupportedKey
    ) && let Some(unusable) = unusable_algorithm(leaf, intermediates, roots)
    {
        return unusable;
    }
    // All algorithms are supported. So the signature was made with a key of another type than the
    // key of the issuer.
    let reason = match error {
        Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => ReasonCode::BadSignature,
        _ => reason,
    };
    // An operator may have created the authority again, with the same name but a new key. The chain
    // was then not issued by the configured root.
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

/// Returns the error about the first key or signature algorithm that cannot be used, starting at
/// the leaf.
fn unusable_algorithm(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootSet,
) -> Option<PathError> {
    let read = |der| Some(X509Certificate::from_der(der).ok()?.1);
    std::iter::once(leaf)
        .chain(intermediates)
        .enumerate()
        .find_map(|(position, der)| {
            let certificate = read(der)?;
            let key = certificate.public_key().raw;
            let name = match position {
                0 => "the leaf".to_owned(),
                _ => rfc4514(certificate.subject()),
            };
            if let Err(error) = check_key(key) {
                return Some(error.describe(&format!("the key of {name}")));
            }
            // The signature of a root is never verified, even if the peer presents the root.
            let is_root = |root: &Root| {
                root.facts.subject_der == certificate.subject().as_raw() && root.facts.key == key
            };
            if !roots.roots().iter().any(is_root)
                && let Err(error) = check_signature(SignedParts::read(der)?.algorithm)
            {
                return Some(error.describe(&format!("the signature of {name}")));
            }
            let is_issuer = |name: &[u8]| name == certificate.issuer().as_raw();
            let mut authorities = intermediates.iter().filter_map(|der| read(der));
            if authorities.any(|authority| is_issuer(authority.subject().as_raw())) {
                return None;
            }
            let named = roots.roots().iter();
            let named = named.filter(|root| is_issuer(&root.facts.subject_der));
            let mut keys = named.map(|root| root.facts.check_key());
            let unusable = keys.next()?.err()?;
            keys.all(|key| key.is_err()).then_some(unusable)
        })
}

/// Returns the rule that a path violates, if all its signatures are valid. `issuers` are the
/// intermediates of the path, the leaf's issuer first.
///
/// If two certificates of a path have the same subject, webpki also tries them in other orders. It
/// then reports the bad signatures of these attempts, instead of the rule.
pub(crate) fn violated_rule(
    issuers: &[AuthorityFacts],
    root: &Root,
    purpose: PathPurpose,
) -> Option<PathError> {
    let is_rollover = issuers.iter().any(|facts| facts.self_issued);
    for (below, facts) in issuers.iter().enumerate() {
        if let Err(violated) = facts.check_usage(purpose) {
            return Some(violated);
        }
        let most = facts
            .path_length
            .and_then(|most| usize::try_from(most).ok());
        if let Some(most) = most.filter(|most| below > *most) {
            let lower = issuers.iter().take(below);
            let self_issued = lower.filter(|facts| facts.self_issued).count();
            return Some((
                ReasonCode::ChainTooLong,
                format!(
                    "{} allows {most} intermediate certificates below it, the path has {below}{}",
                    facts.subject,
                    match self_issued {
                        0 => String::new(),
                        _ => format!(", {self_issued} of them self-issued; {SELF_ISSUED_COUNT}"),
                    }
                ),
            ));
        }
    }
    let constraining = issuers.iter().chain([&root.facts]);
    let mut constraining = constraining.filter(|facts| !facts.constraints.is_empty());
    let constraining = constraining.next()?;
    Some((
        ReasonCode::NameConstraint,
        format!(
            "a name in the presented chain violates a name constraint of {}, or is of a type whose \
             constraints are not supported{}",
            constraining.subject,
            match is_rollover {
                true =>
                    "; names of self-issued certificates are not exempt (RFC 5280 section 4.2.1.10)",
                false => "",
            }
        ),
    ))
}

const SELF_ISSUED_COUNT: &str = "the gateway counts self-issued certificates, although RFC 5280 \
    section 4.2.1.9 exempts them: have the authority above certify the new key";

/// Finds a root that has the name of an issuer in the chain, but another key according to the key
/// identifiers.
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
        Error::UnsupportedSignatureAlgorithmContext(_) => {
            format!("{what} is signed with an algorithm that is not supported")
        }
        Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            format!("a signature in {what} does not fit the type of its issuer's key")
        }
        Error::PathLenConstraintViolated => {
            format!("{what} has more intermediates than the path length of an issuer allows")
        }
        Error::MaximumPathDepthExceeded => format!("{what} has too many intermediates"),
        Error::MaximumSignatureChecksExceeded | Error::MaximumPathBuildCallsExceeded => {
            format!("{what} holds too many certificates of one name to try every path")
        }
        other => format!(
            "a certificate of {what} cannot be used: {}",
            in_words(other)
        ),
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
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => ReasonCode::UnsupportedKey,
        Error::PathLenConstraintViolated
        | Error::MaximumPathDepthExceeded
        | Error::MaximumPathBuildCallsExceeded
        | Error::MaximumSignatureChecksExceeded => ReasonCode::ChainTooLong,
        _ => ReasonCode::MalformedIdentity,
    }
}
