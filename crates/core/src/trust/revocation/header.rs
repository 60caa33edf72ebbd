//! `Header`: the fields of a revocation list. The entries are not parsed, and nothing is verified.

use std::time::Duration;

use x509_parser::der_parser::asn1_rs::{Any, Class, FromDer as _, Tag};
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

use crate::identity::leaf::rfc4514;
use crate::trust::certificate::signed::SignedParts;

/// The times of a revocation list, which are not verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrlTimes {
    /// thisUpdate, in seconds since the Unix epoch.
    pub this_update: i64,
    /// nextUpdate, in seconds since the Unix epoch. `None` if the list has no nextUpdate.
    pub next_update: Option<i64>,
}

impl CrlTimes {
    /// Reads the times of a revocation list in DER. Returns `None` if the list cannot be read.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        Header::read(der).map(|header| header.times)
    }

    /// Returns when a newer list must replace this list, in seconds since the Unix epoch:
    /// nextUpdate, or else `max_age` after thisUpdate. Returns `None` if the list has no nextUpdate
    /// and `max_age` is `None`.
    #[must_use]
    pub fn end(self, max_age: Option<Duration>) -> Option<i64> {
        self.next_update.or_else(|| {
            let seconds = i64::try_from(max_age?.as_secs()).unwrap_or(i64::MAX);
            Some(self.this_update.saturating_add(seconds))
        })
    }
}

/// The main facts about a revocation list, which are not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrlOutline {
    /// The issuer's name in RFC 4514 form.
    pub issuer: String,
    /// The times thisUpdate and nextUpdate of the list.
    pub times: CrlTimes,
    /// Number of certificates that the list revokes.
    pub entries: usize,
}

impl CrlOutline {
    /// Reads the facts from a revocation list in DER. Entries are only counted. Returns `None` if
    /// the list cannot be read.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let header = Header::read(der)?;
        Some(Self {
            entries: header.entries(),
            times: header.times,
            issuer: header.issuer_text,
        })
    }
}

/// The parts of a CertificateList (RFC 5280 section 5.1).
pub(super) struct Header<'a> {
    pub(super) signed: SignedParts<'a>,
    /// signatureAlgorithm and signatureValue, in DER.
    pub(super) signature: &'a [u8],
    /// The version, in DER. Empty if the list does not contain it.
    pub(super) version: &'a [u8],
    /// Whether the list has version 1, which is the default if the list contains no version.
    pub(super) is_version_1: bool,
    /// signature, issuer and thisUpdate, in DER.
    pub(super) beginning: &'a [u8],
    /// The issuer's name, in DER.
    pub(super) issuer: &'a [u8],
    pub(super) issuer_text: String,
    /// thisUpdate, in DER.
    pub(super) this_update: &'a [u8],
    /// nextUpdate, in DER. Empty if the list has no nextUpdate.
    pub(super) next_update: &'a [u8],
    pub(super) times: CrlTimes,
    /// revokedCertificates, in DER. Empty if the list has no revokedCertificates.
    pub(super) revoked: &'a [u8],
    /// The content of crlExtensions: a SEQUENCE, in DER. `None` if the list has no crlExtensions.
    pub(super) extensions: Option<&'a [u8]>,
}

impl<'a> Header<'a> {
    pub(super) fn read(der: &'a [u8]) -> Option<Self> {
        let signed = SignedParts::read(der)?;
        let (_, whole) = Any::from_der(der).ok()?;
        let (_, message) = Any::from_der(signed.message).ok()?;
        let (after, first) = Any::from_der(message.data).ok()?;
        let (fields, version) = match (first.class(), first.tag()) {
            (Class::Universal, Tag::Integer) => (after, Some(first.data)),
            _ => (message.data, None),
        };
        let (after_algorithm, _algorithm) = Any::from_der(fields).ok()?;
        let (times, issuer) = X509Name::from_der(after_algorithm).ok()?;
        let (after_this, this_update) = ASN1Time::from_der(times).ok()?;
        let (after_next, next_update) = match begins_with_time(after_this) {
            true => {
                let (after, time) = ASN1Time::from_der(after_this).ok()?;
                (after, Some(time))
            }
            false => (after_this, None),
        };
        let after_revoked = match Any::from_der(after_next) {
            Ok((after, field)) if field.tag() == Tag::Sequence => after,
            _ => after_next,
        };
        let extensions = match after_revoked.is_empty() {
            true => None,
            false => {
                let (end, field) = Any::from_der(after_revoked).ok()?;
                let is_last = field.class() == Class::ContextSpecific && end.is_empty();
                if !is_last || field.tag() != Tag(0) {
                    return None;
                }
                Some(field.data)
            }
        };
        Some(Self {
            signature: whole.data.get(signed.message.len()..)?,
            signed,
            version: taken(message.data, fields)?,
            is_version_1: matches!(version, None | Some([0])),
            beginning: taken(fields, after_this)?,
            issuer: issuer.as_raw(),
            issuer_text: rfc4514(&issuer),
            this_update: taken(times, after_this)?,
            next_update: taken(after_this, after_next)?,
            times: CrlTimes {
                this_update: this_update.timestamp(),
                next_update: next_update.map(|time| time.timestamp()),
            },
            revoked: taken(after_next, after_revoked)?,
            extensions,
        })
    }

    /// Counts the entries. Does not parse the content of an entry.
    pub(super) fn entries(&self) -> usize {
        let Ok((_, list)) = Any::from_der(self.revoked) else {
            return 0;
        };
        let mut rest = list.data;
        let mut count = 0;
        while let Ok((next, _)) = Any::from_der(rest) {
            rest = next;
            count += 1;
        }
        count
    }
}

/// Whether `der` begins with a UTCTime or a GeneralizedTime.
fn begins_with_time(der: &[u8]) -> bool {
    Any::from_der(der).is_ok_and(|(_, field)| {
        field.class() == Class::Universal
            && matches!(field.tag(), Tag::UtcTime | Tag::GeneralizedTime)
    })
}

/// Returns the bytes of `all` before `rest`. `rest` must be the last part of `all`.
fn taken<'a>(all: &'a [u8], rest: &[u8]) -> Option<&'a [u8]> {
    all.get(..all.len().checked_sub(rest.len())?)
}
