//! Makes a copy of a revocation list that webpki can parse.
//!
//! webpki refuses lists of version 1, lists without nextUpdate, and lists without extensions. It
//! also refuses lists that are limited to callers or to authorities and name no distribution point.
//! Other programs accept all these lists. The copy gets version 2 and the missing fields, and
//! nothing is removed. So webpki checks entries and extensions in the same way as those of other
//! lists. The copy is used only for these checks and for the entries. Signature, issuer, times and
//! scope are read from the original bytes.

use std::borrow::Cow;

use x509_parser::der_parser::asn1_rs::{Any, FromDer as _};

use super::header::Header;
use crate::der::element;

const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
/// Tag `[0]`: crlExtensions of a list, and distributionPoint of an issuing distribution point.
const CONTEXT_0: u8 = 0xa0;
/// The version field of version 2: INTEGER 1.
const VERSION_2: [u8; 3] = [0x02, 0x01, 0x01];
/// OID 2.5.29.28 (issuingDistributionPoint), DER content.
const ISSUING_DISTRIBUTION_POINT: [u8; 3] = [0x55, 0x1d, 0x1c];
/// A distributionPoint with the URI `-`. webpki requires this field, and only parses its content.
const SOME_POINT: [u8; 7] = [0xa0, 0x05, 0xa0, 0x03, 0x86, 0x01, b'-'];
/// Extensions with only cRLNumber 0, because webpki requires at least one extension.
const SOME_EXTENSIONS: [u8; 14] = [
    0x30, 0x0c, 0x30, 0x0a, 0x06, 0x03, 0x55, 0x1d, 0x14, 0x04, 0x03, 0x02, 0x01, 0x00,
];

/// Returns a copy of the list with the fields that webpki requires. Returns the list itself if it
/// has all these fields.
pub(super) fn webpki_form<'a>(der: &'a [u8], header: &Header<'_>) -> Cow<'a, [u8]> {
    let completed = header.extensions.and_then(with_distribution_point);
    let lacks_nothing = !header.is_version_1
        && !header.next_update.is_empty()
        && header.extensions.is_some()
        && completed.is_none();
    if lacks_nothing {
        return Cow::Borrowed(der);
    }
    let version = match header.is_version_1 {
        true => &VERSION_2[..],
        false => header.version,
    };
    let next_update = match header.next_update {
        [] => header.this_update,
        said => said,
    };
    let extensions = completed
        .as_deref()
        .or(header.extensions)
        .unwrap_or(&SOME_EXTENSIONS);
    let extensions = element(CONTEXT_0, &[extensions]);
    let message = [
        version,
        header.beginning,
        next_update,
        header.revoked,
        extensions.as_slice(),
    ];
    let message = element(SEQUENCE, &message);
    Cow::Owned(element(SEQUENCE, &[&message, header.signature]))
}

/// Adds a distribution point to each issuing distribution point that has none. `extensions` and the
/// result are a SEQUENCE in DER. Returns `None` if nothing must be added, or if the extensions are
/// malformed.
fn with_distribution_point(extensions: &[u8]) -> Option<Vec<u8>> {
    let (sequence, end) = next(extensions)?;
    let mut all: Vec<Cow<'_, [u8]>> = Vec::new();
    let mut rest = sequence.content;
    while !rest.is_empty() {
        let (extension, after) = next(rest)?;
        all.push(match completed_extension(&extension) {
            Some(completed) => Cow::Owned(completed),
            None => Cow::Borrowed(extension.der),
        });
        rest = after;
    }
    let is_changed = all.iter().any(|one| matches!(one, Cow::Owned(_)));
    let parts: Vec<&[u8]> = all.iter().map(AsRef::as_ref).collect();
    (is_changed && end.is_empty()).then(|| element(SEQUENCE, &parts))
}

/// Adds a distribution point to an extension. Returns `None` if the extension is not an issuing
/// distribution point, or if it already has a distribution point.
fn completed_extension(extension: &Element<'_>) -> Option<Vec<u8>> {
    let (id, after) = next(extension.content)?;
    if id.content != ISSUING_DISTRIBUTION_POINT {
        return None;
    }
    let (mut value, mut end) = next(after)?;
    let mut critical: &[u8] = &[];
    if value.tag() == Some(BOOLEAN) {
        critical = value.der;
        (value, end) = next(end)?;
    }
    let (point, after_point) = next(value.content)?;
    let has_name = point.content.first() == Some(&CONTEXT_0);
    let is_read_whole = end.is_empty() && after_point.is_empty();
    if has_name || !is_read_whole || point.tag() != Some(SEQUENCE) {
        return None;
    }
    let point = element(SEQUENCE, &[&SOME_POINT, point.content]);
    let value = element(OCTET_STRING, &[&point]);
    Some(element(SEQUENCE, &[id.der, critical, &value]))
}

/// One DER element: all its bytes, and its content.
struct Element<'a> {
    der: &'a [u8],
    content: &'a [u8],
}

impl Element<'_> {
    fn tag(&self) -> Option<u8> {
        self.der.first().copied()
    }
}

/// Returns the first element, and the bytes after it.
fn next(der: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (rest, any) = Any::from_der(der).ok()?;
    let element = Element {
        der: der.get(..der.len().checked_sub(rest.len())?)?,
        content: any.data,
    };
    Some((element, rest))
}
