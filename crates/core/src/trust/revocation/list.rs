//! `RevocationList`: one revocation list, parsed and checked when it is loaded.
//!
//! webpki's parser refuses lists that are not supported: version 1, no nextUpdate, delta, indirect,
//! partitioned by reason, attribute certificates only, and unknown critical extensions. This module
//! also checks the CRL number, thisUpdate and nextUpdate. It verifies the signature with each known
//! key of the issuer until one key matches. The result is kept.

use std::collections::HashSet;
use std::sync::{Mutex, OnceLock, PoisonError};

use webpki::BorrowedCertRevocationList;
use x509_parser::der_parser::asn1_rs::{Any, FromDer as _, Tag};
use x509_parser::extensions::{IssuingDistributionPoint, ParsedExtension, X509Extension};
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

use super::serials::SerialSet;
use super::unusable::UnusableCrl;
use crate::identity::leaf::{rfc4514, significant};
use crate::trust::certificate::algorithm::check_signature;
use crate::trust::certificate::member::{PathMember, PointName};
use crate::trust::certificate::signed::SignedParts;

/// Minimum size in bytes of an entry of a list: a serial number of one byte, and a date.
const SMALLEST_ENTRY: usize = 20;
/// Maximum number of keys of which a list stores that they did not sign it.
const MAX_REFUSED_KEYS: usize = 64;

/// The scope of a list: which certificates it covers (issuingDistributionPoint, RFC 5280 section
/// 5.2.5).
#[derive(Debug, PartialEq, Eq)]
struct Scope {
    /// The value of the extension in DER. A list can replace another list only if both have the
    /// same value.
    raw: Box<[u8]>,
    user_only: bool,
    authorities_only: bool,
    /// The names of the list's distribution point. `None` if the list has no distribution point, so
    /// that it covers the certificates of all distribution points.
    points: Option<Box<[PointName]>>,
}

impl Scope {
    /// Whether the list covers certificates of the kind of `member`: certificates of authorities,
    /// or user certificates.
    const fn is_of(&self, member: &PathMember) -> bool {
        match member.is_authority {
            true => !self.user_only,
            false => !self.authorities_only,
        }
    }
}

/// The parts of a list that are needed to verify its signature. They are dropped when the signature
/// was verified.
#[derive(Debug)]
struct Signed {
    message: Box<[u8]>,
    algorithm: Box<[u8]>,
    signature: Box<[u8]>,
}

#[derive(Debug)]
struct Unverified {
    signed: Option<Signed>,
    /// SHA-256 hashes of keys that did not sign the list.
    refused: HashSet<[u8; 32]>,
}

/// The key that signed a list, as the verified signature shows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Signer {
    /// SHA-256 hash of `key`.
    hash: [u8; 32],
    /// SubjectPublicKeyInfo in DER. Newer lists of the same issuer are verified with this key when
    /// they are loaded.
    pub(super) key: Box<[u8]>,
}

/// One revocation list. Its signature may not be verified yet.
#[derive(Debug)]
pub(crate) struct RevocationList {
    /// SHA-256 hash of the list's DER.
    pub(super) hash: [u8; 32],
    /// The issuer's name, in DER.
    pub(super) issuer: Box<[u8]>,
    pub(super) issuer_text: String,
    /// The CRL number (cRLNumber), without leading zero bytes.
    pub(super) number: Box<[u8]>,
    pub(super) this_update: i64,
    pub(super) next_update: i64,
    scope: Option<Scope>,
    serials: SerialSet,
    signer: OnceLock<Signer>,
    unverified: Mutex<Unverified>,
}

impl RevocationList {
    /// Parses a revocation list. `hash` is the SHA-256 hash of `der`.
    pub(super) fn read(der: &[u8], hash: [u8; 32]) -> Result<Self, UnusableCrl> {
        let unusable = |error: webpki::Error| UnusableCrl::of(der, &error);
        let entries = BorrowedCertRevocationList::from_der(der).map_err(unusable)?;
        let header =
            Header::read(der).ok_or_else(|| UnusableCrl::damaged("its encoding is malformed"))?;
        check_signature(header.signed.algorithm)
            .map_err(|error| UnusableCrl::Signature(error.describe("its signature").1))?;
        // Allocates space for all entries at once, because growing would copy them into new memory.
        // A list that claims more entries than its bytes can contain has no readable entries.
        let most = header.revoked.len() / SMALLEST_ENTRY;
        let mut serials = SerialSet::with_room(header.entries().min(most));
        for entry in &entries {
            serials.insert(entry.map_err(unusable)?.serial_number);
        }
        serials.shrink();
        let (number, scope) = read_extensions(header.extensions)?;
        let this_update = header.this_update.timestamp();
        let next_update = header.next_update.timestamp();
        if next_update <= this_update {
            return Err(UnusableCrl::Times);
        }
        Ok(Self {
            hash,
            issuer: header.issuer.into(),
            issuer_text: header.issuer_text,
            number,
            this_update,
            next_update,
            scope,
            serials,
            signer: OnceLock::new(),
            unverified: Mutex::new(Unverified {
                signed: Some(Signed {
                    message: header.signed.message.into(),
                    algorithm: header.signed.algorithm.into(),
                    signature: header.signed.signature.into(),
                }),
                refused: HashSet::new(),
            }),
        })
    }

    /// Whether `key` (SubjectPublicKeyInfo in DER) signed this list. `hash` is the SHA-256 hash of
    /// `key`. The result for each key is kept, so that its signature check is not repeated.
    pub(super) fn is_signed_by(&self, key: &[u8], hash: &[u8; 32]) -> bool {
        if let Some(signer) = self.signer.get() {
            return signer.hash == *hash;
        }
        let mut unverified = self
            .unverified
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(signer) = self.signer.get() {
            return signer.hash == *hash;
        }
        if unverified.refused.contains(hash) {
            return false;
        }
        if unverified
            .signed
            .as_ref()
            .is_some_and(|signed| signed.verifies_under(key))
        {
            // The signed message is as large as the whole list. It is not needed after the
            // verification.
            unverified.signed = None;
            let signer = self.signer.get_or_init(|| Signer {
                hash: *hash,
                key: key.into(),
            });
            return signer.hash == *hash;
        }
        if unverified.refused.len() >= MAX_REFUSED_KEYS {
            unverified.refused.clear();
        }
        unverified.refused.insert(*hash);
        false
    }

    /// Whether the list can revoke this certificate. A list for another distribution point can
    /// revoke it too, because a serial number is unique within an issuer. But only a list that
    /// [covers](Self::covers) the certificate can show that it is not revoked.
    pub(super) fn may_revoke(&self, member: &PathMember) -> bool {
        self.scope.as_ref().is_none_or(|scope| scope.is_of(member))
    }

    /// Returns the key that signed the list. Returns `None` if the signature was not verified yet.
    pub(super) fn signer(&self) -> Option<&Signer> {
        self.signer.get()
    }

    /// Whether the list covers this certificate (RFC 5280 section 6.3.3 (b)(2)), so that it can
    /// show that the certificate is not revoked. A list without a distribution point covers all
    /// certificates. A list with a distribution point covers the certificates that name the same
    /// distribution point. It also covers certificates that name none if its distribution point has
    /// the issuer's name. webpki is less strict and accepts any list of the issuer.
    pub(super) fn covers(&self, member: &PathMember) -> bool {
        let Some(scope) = &self.scope else {
            return true;
        };
        if !scope.is_of(member) {
            return false;
        }
        let Some(points) = &scope.points else {
            return true;
        };
        match &member.distribution_points {
            Some(named) => named.iter().any(|point| points.contains(point)),
            None => points
                .iter()
                .any(|point| matches!(point, PointName::Directory(name) if *name == member.issuer)),
        }
    }

    pub(super) fn same_scope(&self, other: &Self) -> bool {
        self.scope.as_ref().map(|scope| &scope.raw) == other.scope.as_ref().map(|scope| &scope.raw)
    }

    pub(super) fn revokes(&self, serial: &[u8]) -> bool {
        self.serials.contains(serial)
    }

    pub(super) fn entries(&self) -> usize {
        self.serials.len()
    }

    /// Returns a value that is greater for a newer list, if both lists have the same issuer and
    /// scope. CRL numbers are compared first, then thisUpdate.
    pub(super) fn age(&self) -> (usize, &[u8], i64) {
        (self.number.len(), &self.number, self.this_update)
    }
}

impl Signed {
    fn verifies_under(&self, key: &[u8]) -> bool {
        let parts = SignedParts {
            message: &self.message,
            algorithm: &self.algorithm,
            signature: &self.signature,
        };
        parts.is_signed_by(key)
    }
}

/// Returns nextUpdate of a revocation list in DER, in seconds since the Unix epoch. Returns `None`
/// if the list cannot be read. Does not verify the signature.
#[must_use]
pub fn next_update(der: &[u8]) -> Option<i64> {
    Header::read(der).map(|header| header.next_update.timestamp())
}

/// A summary of a revocation list. Nothing is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrlOutline {
    /// The issuer's name in RFC 4514 form.
    pub issuer: String,
    /// nextUpdate in seconds since the Unix epoch.
    pub next_update: i64,
    /// Number of certificates that the list revokes.
    pub entries: usize,
}

impl CrlOutline {
    /// Reads a summary of a revocation list in DER. Counts the entries, but does not parse them.
    /// Returns `None` if the list cannot be read.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let header = Header::read(der)?;
        Some(Self {
            entries: header.entries(),
            next_update: header.next_update.timestamp(),
            issuer: header.issuer_text,
        })
    }
}

/// The parts of a CertificateList (RFC 5280 section 5.1), read without verification.
struct Header<'a> {
    signed: SignedParts<'a>,
    issuer: &'a [u8],
    issuer_text: String,
    this_update: ASN1Time,
    next_update: ASN1Time,
    /// The content of revokedCertificates: the entries in DER.
    revoked: &'a [u8],
    extensions: &'a [u8],
}

impl<'a> Header<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let signed = SignedParts::read(der)?;
        let (_, message) = Any::from_der(signed.message).ok()?;
        let (fields, _version) = Any::from_der(message.data).ok()?;
        let (fields, _algorithm) = Any::from_der(fields).ok()?;
        let (after, issuer) = X509Name::from_der(fields).ok()?;
        let (after, this_update) = ASN1Time::from_der(after).ok()?;
        let (mut after, next_update) = ASN1Time::from_der(after).ok()?;
        let (next, mut field) = Any::from_der(after).ok()?;
        let mut revoked: &[u8] = &[];
        if field.header.tag() == Tag::Sequence {
            revoked = field.data;
            after = next;
            (_, field) = Any::from_der(after).ok()?;
        }
        Some(Self {
            signed,
            issuer: issuer.as_raw(),
            issuer_text: rfc4514(&issuer),
            this_update,
            next_update,
            revoked,
            extensions: field.data,
        })
    }

    /// Returns the number of entries without parsing their content.
    fn entries(&self) -> usize {
        let mut rest = self.revoked;
        let mut count = 0;
        while let Ok((next, _)) = Any::from_der(rest) {
            rest = next;
            count += 1;
        }
        count
    }
}

type Extensions = (Box<[u8]>, Option<Scope>);

fn read_extensions(tagged: &[u8]) -> Result<Extensions, UnusableCrl> {
    let malformed = || UnusableCrl::damaged("one of its extensions is malformed");
    let (_, sequence) = Any::from_der(tagged).map_err(|_| malformed())?;
    let mut rest = sequence.data;
    let mut number = None;
    let mut scope = None;
    while !rest.is_empty() {
        let (next, extension) = X509Extension::from_der(rest).map_err(|_| malformed())?;
        rest = next;
        match extension.oid.to_id_string().as_str() {
            "2.5.29.20" => {
                // RFC 5280 section 5.2.3: cRLNumber must not be critical.
                if extension.critical {
                    return Err(UnusableCrl::Number("marked critical"));
                }
                let (_, integer) = Any::from_der(extension.value).map_err(|_| malformed())?;
                if number.replace(significant(integer.data).into()).is_some() {
                    return Err(UnusableCrl::Number("there twice"));
                }
            }
            "2.5.29.28" => {
                let ParsedExtension::IssuingDistributionPoint(point) = extension.parsed_extension()
                else {
                    return Err(UnusableCrl::damaged(
                        "its issuing distribution point is malformed",
                    ));
                };
                scope = Some(Scope::read(extension.value, point));
            }
            _ => {}
        }
    }
    let number = number.ok_or(UnusableCrl::NoNumber)?;
    Ok((number, scope))
}

impl Scope {
    fn read(raw: &[u8], point: &IssuingDistributionPoint<'_>) -> Self {
        let points = point.distribution_point.as_ref().map(PointName::all_of);
        Self {
            raw: raw.into(),
            user_only: point.only_contains_user_certs,
            authorities_only: point.only_contains_ca_certs,
            points,
        }
    }
}
