//! `UnusableCrl`: why a revocation list cannot be used, and the remedy.
//!
//! If webpki refuses a list, it does not report why. This file then reads the list again, less
//! strictly, and finds the reason. The operator needs the reason to get the right list from the
//! issuer.

use webpki::{DerTypeId, Error};
use x509_parser::der_parser::asn1_rs::{Any, Class, FromDer as _, Tag};
use x509_parser::extensions::{
    DistributionPointName, IssuingDistributionPoint, ParsedExtension, X509Extension,
};

/// The reason why a revocation list cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnusableCrl {
    /// The list is a delta CRL (deltaCRLIndicator, RFC 5280 section 5.2.4).
    #[error("it is a delta list: it holds only the changes since another list")]
    Delta,
    /// The list is indirect (indirectCRL, RFC 5280 section 5.2.5), or an entry has
    /// certificateIssuer.
    #[error("it is an indirect list: it speaks of certificates of other issuers")]
    Indirect,
    /// The list covers only some reasons (onlySomeReasons, RFC 5280 section 5.2.5).
    #[error("it covers some revocation reasons only")]
    SomeReasons,
    /// The list covers only attribute certificates (onlyContainsAttributeCerts, RFC 5280 section
    /// 5.2.5).
    #[error("it is about attribute certificates only")]
    AttributeCertificates,
    /// The distribution point in the list has no full name, so it cannot be compared with the
    /// distribution points in certificates.
    #[error("its issuing distribution point has no full name")]
    DistributionPoint,
    /// The list has a critical extension that is not supported.
    #[error("it has a critical extension that is not supported: {0}")]
    CriticalExtension(String),
    /// An entry of the list has a critical extension that is not supported.
    #[error("an entry has a critical extension that is not supported: {0}")]
    CriticalEntryExtension(String),
    /// An entry has a reason code that RFC 5280 does not define.
    #[error("an entry has an unknown revocation reason")]
    UnknownReason,
    /// The list has version 1, which has no extensions and therefore no number.
    #[error("it is a list of version 1, which has no number (cRLNumber)")]
    Version,
    /// The list has no nextUpdate, and the trust domain has no `max_age`.
    #[error("it does not say when it will be replaced (nextUpdate)")]
    NoNextUpdate,
    /// nextUpdate is not later than thisUpdate.
    #[error("its nextUpdate is not after its thisUpdate")]
    Times,
    /// The list has no CRL number. Without it, an old list cannot be distinguished from a new one.
    #[error("it has no number (cRLNumber)")]
    NoNumber,
    /// The CRL number violates RFC 5280 section 5.2.3: one number of at most 20 bytes, not
    /// critical.
    #[error("its number (cRLNumber) is {0}")]
    Number(&'static str),
    /// The algorithm of the list's signature is not supported, or too weak.
    #[error("{0}")]
    Signature(String),
    /// This number of bytes follows the list in the file.
    #[error("{0} bytes follow it")]
    BytesFollow(usize),
    /// The list is truncated, or the data is not a revocation list.
    #[error("it is damaged, or no revocation list: {0}")]
    Damaged(String),
}

impl UnusableCrl {
    /// Returns advice for the operator: which list to use instead, or how to repair the file.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Delta => "use the complete list of this issuer, without the delta list",
            Self::Indirect => "use the list that the certificates' own issuer signs",
            Self::SomeReasons => "use the list of this issuer that covers all reasons",
            Self::AttributeCertificates => {
                "use the list of this issuer that is about public key certificates"
            }
            Self::DistributionPoint => {
                "have the issuer sign a list without issuing distribution point, or with a URL in it"
            }
            Self::CriticalExtension(_) | Self::CriticalEntryExtension(_) => {
                "have the issuer sign the list without this extension"
            }
            Self::UnknownReason => "have the issuer sign the list with the reasons of RFC 5280",
            Self::Version => {
                "accept such lists of this trust domain with crl_number = \"optional\", or have the \
                 issuer sign a list of version 2 with a number (for OpenSSL: crl_extensions)"
            }
            Self::NoNextUpdate => {
                "say how long lists of this trust domain are used, for example max_age = \"168h\", or \
                 have the issuer sign the list with nextUpdate"
            }
            Self::Times => "have the issuer sign the list again, with the right times",
            Self::NoNumber => {
                "accept such lists of this trust domain with crl_number = \"optional\", or have the \
                 issuer sign the list with a cRLNumber (for OpenSSL: crlnumber and crl_extensions)"
            }
            Self::Number(_) => {
                "have the issuer sign the list with a cRLNumber that is not critical"
            }
            Self::Signature(_) => {
                "have the issuer sign the list with SHA-256 or SHA-384 (for OpenSSL: default_md) and a \
                 key of P-256, P-384, Ed25519 or RSA"
            }
            Self::BytesFollow(_) => "put each list in DER form into a file of its own",
            Self::Damaged(_) => "fetch the list again from its issuer",
        }
    }

    /// Returns the reason why webpki refuses a list. `error` is webpki's error.
    pub(super) fn of(der: &[u8], error: &Error) -> Self {
        find(der).unwrap_or_else(|| match error {
            Error::InvalidCrlNumber => Self::Number("negative, or longer than 20 bytes"),
            Error::UnsupportedDeltaCrl => Self::Delta,
            Error::UnsupportedIndirectCrl => Self::Indirect,
            Error::UnsupportedRevocationReasonsPartitioning => Self::SomeReasons,
            Error::UnsupportedCrlIssuingDistributionPoint => Self::DistributionPoint,
            Error::UnsupportedRevocationReason => Self::UnknownReason,
            error => Self::damaged(in_words(error)),
        })
    }

    /// Finds why a list cannot be read at all.
    pub(super) fn unreadable(der: &[u8]) -> Self {
        find(der).unwrap_or_else(|| Self::damaged(MALFORMED))
    }

    pub(super) fn damaged(what: &str) -> Self {
        Self::Damaged(what.to_owned())
    }
}

const MALFORMED: &str = "its encoding is malformed";

/// Describes an error of webpki about a revocation list. webpki's own messages are only the names
/// of the errors in its source code.
const fn in_words(error: &Error) -> &'static str {
    match error {
        Error::BadDerTime | Error::TrailingData(DerTypeId::Time) => "a time in it is malformed",
        Error::InvalidSerialNumber => "the serial number of an entry is malformed",
        Error::SignatureAlgorithmMismatch => "it names two different signature algorithms",
        Error::ExtensionValueInvalid => "an extension occurs twice, or is malformed",
        Error::MalformedExtensions
        | Error::TrailingData(
            DerTypeId::CertRevocationListExtension
            | DerTypeId::RevokedCertificateExtension
            | DerTypeId::IssuingDistributionPoint,
        ) => "one of its extensions is malformed",
        Error::TrailingData(DerTypeId::RevokedCertificate | DerTypeId::RevokedCertEntry) => {
            "one of its entries is malformed"
        }
        Error::UnsupportedCrlVersion => "there is no such version of revocation lists",
        _ => MALFORMED,
    }
}

/// Returns the first error that is found in a list.
fn find(der: &[u8]) -> Option<UnusableCrl> {
    let Ok((rest, list)) = Any::from_der(der) else {
        return Some(UnusableCrl::damaged("its end is missing"));
    };
    if !rest.is_empty() {
        return Some(UnusableCrl::BytesFollow(rest.len()));
    }
    let (_, signed) = Any::from_der(list.data).ok()?;
    let fields: Vec<Any<'_>> = elements(signed.data).collect();
    let is_time = |field: &&Any<'_>| matches!(field.tag(), Tag::UtcTime | Tag::GeneralizedTime);
    if !fields.iter().any(|field| is_time(&field)) {
        return None;
    }
    let extensions = fields
        .iter()
        .find(|field| field.class() == Class::ContextSpecific && field.tag() == Tag(0));
    // First checks of which kind the list is, for example a delta list. If the kind is not
    // supported, the operator needs a list of another kind. Other problems of this list do not
    // matter then.
    let kind = extensions.and_then(|tagged| {
        let (_, sequence) = Any::from_der(tagged.data).ok()?;
        read_extensions(sequence.data).find_map(|extension| kind_by(&extension))
    });
    kind.or_else(|| {
        let after = fields.iter().skip_while(|field| !is_time(field));
        after
            .skip_while(is_time)
            .find(|field| field.tag() == Tag::Sequence)
            .and_then(|entries| elements(entries.data).find_map(|entry| entry_problem(&entry)))
    })
}

fn kind_by(extension: &X509Extension<'_>) -> Option<UnusableCrl> {
    let oid = extension.oid.to_id_string();
    match oid.as_str() {
        "2.5.29.27" => Some(UnusableCrl::Delta),
        "2.5.29.28" => match extension.parsed_extension() {
            ParsedExtension::IssuingDistributionPoint(point) => kind_of(point),
            _ => Some(UnusableCrl::damaged(
                "its issuing distribution point is malformed",
            )),
        },
        // 2.5.29.20 is cRLNumber, 2.5.29.35 is authorityKeyIdentifier. Both are supported.
        "2.5.29.20" | "2.5.29.35" => None,
        _ if extension.critical => Some(UnusableCrl::CriticalExtension(oid)),
        _ => None,
    }
}

fn kind_of(point: &IssuingDistributionPoint<'_>) -> Option<UnusableCrl> {
    if point.only_contains_attribute_certs {
        Some(UnusableCrl::AttributeCertificates)
    } else if point.indirect_crl {
        Some(UnusableCrl::Indirect)
    } else if point.only_some_reasons.is_some() {
        Some(UnusableCrl::SomeReasons)
    } else if matches!(
        point.distribution_point,
        Some(DistributionPointName::NameRelativeToCRLIssuer(_))
    ) {
        Some(UnusableCrl::DistributionPoint)
    } else {
        None
    }
}

/// Returns the problem in one entry of a list. An entry has a serial number, a date, and optional
/// extensions.
fn entry_problem(entry: &Any<'_>) -> Option<UnusableCrl> {
    let extensions = elements(entry.data).nth(2)?;
    read_extensions(extensions.data).find_map(|extension| {
        let oid = extension.oid.to_id_string();
        match oid.as_str() {
            "2.5.29.29" => Some(UnusableCrl::Indirect),
            "2.5.29.21" => match Any::from_der(extension.value) {
                // RFC 5280 does not define reason code 7. Reason code 8 (removeFromCRL) is valid
                // only in delta lists, which are refused anyway.
                Ok((
                    _,
                    Any {
                        data: &[0..=6 | 8..=10],
                        ..
                    },
                )) => None,
                _ => Some(UnusableCrl::UnknownReason),
            },
            "2.5.29.24" => None,
            _ if extension.critical => Some(UnusableCrl::CriticalEntryExtension(oid)),
            _ => None,
        }
    })
}

/// Returns the elements inside a SEQUENCE. Stops at the first element that cannot be read.
fn elements(mut rest: &[u8]) -> impl Iterator<Item = Any<'_>> {
    std::iter::from_fn(move || {
        let (after, element) = Any::from_der(rest).ok()?;
        rest = after;
        Some(element)
    })
}

fn read_extensions(mut rest: &[u8]) -> impl Iterator<Item = X509Extension<'_>> {
    std::iter::from_fn(move || {
        let (after, extension) = X509Extension::from_der(rest).ok()?;
        rest = after;
        Some(extension)
    })
}
