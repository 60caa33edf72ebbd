//! `UnusableCrl`: why a revocation list cannot be used, and the remedy.
//!
//! webpki says only that it does not accept a list. A list that is refused is read again here,
//! leniently, to find the reason: the person who sees it has to get another list from the issuer,
//! and must know which.

use webpki::Error;
use x509_parser::der_parser::asn1_rs::{Any, Class, FromDer as _, Tag};
use x509_parser::extensions::{
    DistributionPointName, IssuingDistributionPoint, ParsedExtension, X509Extension,
};

/// Why a revocation list cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnusableCrl {
    /// deltaCRLIndicator (RFC 5280 section 5.2.4).
    #[error("it is a delta list: it holds only the changes since another list")]
    Delta,
    /// indirectCRL (RFC 5280 section 5.2.5), or an entry with certificateIssuer.
    #[error("it is an indirect list: it speaks of certificates of other issuers")]
    Indirect,
    /// onlySomeReasons (RFC 5280 section 5.2.5).
    #[error("it covers some revocation reasons only")]
    SomeReasons,
    /// onlyContainsAttributeCerts (RFC 5280 section 5.2.5).
    #[error("it is about attribute certificates only")]
    AttributeCertificates,
    /// A distribution point that no certificate can be compared with.
    #[error("its issuing distribution point has no full name")]
    DistributionPoint,
    /// A critical extension of the list.
    #[error("it has a critical extension that is not supported: {0}")]
    CriticalExtension(String),
    /// A critical extension of one of its entries.
    #[error("an entry has a critical extension that is not supported: {0}")]
    CriticalEntryExtension(String),
    /// A reason code that RFC 5280 does not have.
    #[error("an entry has an unknown revocation reason")]
    UnknownReason,
    /// Version 1 has no extensions.
    #[error("it is a list of version 1")]
    Version,
    /// The list does not say when it expires.
    #[error("it does not say when it will be replaced (nextUpdate)")]
    NoNextUpdate,
    /// The list expires before it begins.
    #[error("its nextUpdate is not after its thisUpdate")]
    Times,
    /// The list has no number, so that a roll-back could not be distinguished from an update.
    #[error("it has no number (cRLNumber)")]
    NoNumber,
    /// RFC 5280 section 5.2.3: one number of at most 20 bytes, not critical.
    #[error("its number (cRLNumber) is {0}")]
    Number(&'static str),
    /// The file continues after the list.
    #[error("{0} bytes follow it")]
    BytesFollow(usize),
    /// The list is truncated, or the data is not a list.
    #[error("it is damaged, or no revocation list: {0}")]
    Damaged(String),
}

impl UnusableCrl {
    /// Returns what an operator can do about it.
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
                "have the issuer sign a list of version 2 with a number (for OpenSSL: crl_extensions)"
            }
            Self::NoNextUpdate => "have the issuer sign the list with nextUpdate",
            Self::Times => "have the issuer sign the list again, with the right times",
            Self::NoNumber | Self::Number(_) => {
                "have the issuer sign the list with a cRLNumber that is not critical"
            }
            Self::BytesFollow(_) => "put each list in DER form into a file of its own",
            Self::Damaged(_) => "fetch the list again from its issuer",
        }
    }

    /// Finds why webpki does not accept this list.
    pub(super) fn of(der: &[u8], error: &Error) -> Self {
        find(der).unwrap_or_else(|| match error {
            Error::InvalidCrlNumber => Self::Number("negative, or longer than 20 bytes"),
            error => Self::Damaged(format!("{error:?}")),
        })
    }

    pub(super) fn damaged(what: &str) -> Self {
        Self::Damaged(what.to_owned())
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
    let times = fields.iter().filter(is_time).count();
    if times == 0 {
        return None;
    }
    let extensions = fields
        .iter()
        .find(|field| field.class() == Class::ContextSpecific && field.tag() == Tag(0));
    // The kind of list first: it decides which other list is to be used.
    let kind = extensions.and_then(|tagged| {
        let (_, sequence) = Any::from_der(tagged.data).ok()?;
        read_extensions(sequence.data).find_map(|extension| kind_by(&extension))
    });
    let is_version_2 = fields
        .first()
        .is_some_and(|field| field.tag() == Tag::Integer && field.data == [1]);
    let entries = || {
        let after = fields.iter().skip_while(|field| !is_time(field));
        after
            .skip_while(is_time)
            .find(|field| field.tag() == Tag::Sequence)
            .and_then(|entries| elements(entries.data).find_map(|entry| entry_problem(&entry)))
    };
    if kind.is_some() {
        kind
    } else if !is_version_2 {
        Some(UnusableCrl::Version)
    } else if times == 1 {
        Some(UnusableCrl::NoNextUpdate)
    } else if extensions.is_none() {
        Some(UnusableCrl::NoNumber)
    } else {
        entries()
    }
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
        // The number and the authority key identifier.
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
    } else if !matches!(
        point.distribution_point,
        Some(DistributionPointName::FullName(_))
    ) {
        Some(UnusableCrl::DistributionPoint)
    } else {
        None
    }
}

/// Returns the problem of an entry with serial number, date, and perhaps extensions.
fn entry_problem(entry: &Any<'_>) -> Option<UnusableCrl> {
    let extensions = elements(entry.data).nth(2)?;
    read_extensions(extensions.data).find_map(|extension| {
        let oid = extension.oid.to_id_string();
        match oid.as_str() {
            "2.5.29.29" => Some(UnusableCrl::Indirect),
            "2.5.29.21" => match Any::from_der(extension.value) {
                // Reason code 7 is not used. removeFromCRL, 8, occurs only in delta lists.
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

/// Iterates over the elements of a SEQUENCE, as far as they can be read.
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
