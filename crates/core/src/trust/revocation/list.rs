//! `RevocationList`: one list, checked and taken apart at load.
//!
//! webpki's parser refuses lists that are not supported (version 1, no nextUpdate, delta, indirect,
//! partitioned by reason, attribute-only, unknown critical extensions of list or entry); this
//! module adds checks that webpki omits: of the number, thisUpdate and the time. The signature is
//! verified once, under the first key that is known to belong to the issuer.

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
use crate::trust::certificate::member::{PathMember, PointName};
use crate::trust::certificate::signed::SignedParts;

/// Bytes of an entry with a serial number of one byte and a date.
const SMALLEST_ENTRY: usize = 20;
/// Maximum number of keys that are remembered as not having signed one list.
const MAX_REFUSED_KEYS: usize = 64;

/// The certificates that a list covers (issuingDistributionPoint, RFC 5280 section 5.2.5).
#[derive(Debug, PartialEq, Eq)]
struct Scope {
    /// The extension's value; two lists of one scope supersede each other.
    raw: Box<[u8]>,
    user_only: bool,
    authorities_only: bool,
    /// Names of the distribution point. None if the list has none: it then covers all certificates.
    points: Option<Box<[PointName]>>,
}

impl Scope {
    /// Whether the list covers certificates of this kind.
    const fn is_of(&self, member: &PathMember) -> bool {
        match member.is_authority {
            true => !self.user_only,
            false => !self.authorities_only,
        }
    }
}

/// The parts that are needed to verify a list's signature, kept until that is done.
#[derive(Debug)]
struct Signed {
    message: Box<[u8]>,
    algorithm: Box<[u8]>,
    signature: Box<[u8]>,
}

#[derive(Debug)]
struct Unverified {
    signed: Option<Signed>,
    /// SHA-256 of keys under which the signature does not verify.
    refused: HashSet<[u8; 32]>,
}

/// The key that signed a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Signer {
    /// SHA-256 of `key`.
    hash: [u8; 32],
    /// SubjectPublicKeyInfo, DER: verifies the list's successors at load.
    pub(super) key: Box<[u8]>,
}

/// One revocation list.
#[derive(Debug)]
pub(crate) struct RevocationList {
    /// SHA-256 of the list.
    pub(super) hash: [u8; 32],
    /// The issuer's name, DER.
    pub(super) issuer: Box<[u8]>,
    pub(super) issuer_text: String,
    /// cRLNumber without leading zero bytes.
    pub(super) number: Box<[u8]>,
    pub(super) this_update: i64,
    pub(super) next_update: i64,
    scope: Option<Scope>,
    serials: SerialSet,
    signer: OnceLock<Signer>,
    unverified: Mutex<Unverified>,
}

impl RevocationList {
    /// Reads a list. `hash` is the SHA-256 of `der`.
    pub(super) fn read(der: &[u8], hash: [u8; 32]) -> Result<Self, UnusableCrl> {
        let unusable = |error: webpki::Error| UnusableCrl::of(der, &error);
        let entries = BorrowedCertRevocationList::from_der(der).map_err(unusable)?;
        let header =
            Header::read(der).ok_or_else(|| UnusableCrl::damaged("its encoding is malformed"))?;
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

    /// Whether `key` (with its SHA-256) signed this list. Verifies the signature at most once for
    /// each key.
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
            // The message is as large as the list: not needed any more.
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

    /// Whether the list may revoke this certificate. A list of another distribution point may,
    /// because serial numbers are unique for each issuer. But only a list that
    /// [covers](Self::covers) the certificate can show that it is not revoked.
    pub(super) fn may_revoke(&self, member: &PathMember) -> bool {
        self.scope.as_ref().is_none_or(|scope| scope.is_of(member))
    }

    /// Returns the key that signed the list, once it is known.
    pub(super) fn signer(&self) -> Option<&Signer> {
        self.signer.get()
    }

    /// Whether the list covers this certificate (RFC 5280 section 6.3.3 (b)(2)). A list without a
    /// distribution point covers all certificates. A list with one covers those that name the same
    /// distribution point; if a certificate names none, its issuer's name is compared. webpki would
    /// accept any list of the issuer.
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

    /// Orders lists of one issuer and scope: the number first, then the time.
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

/// Returns when a revocation list (DER) is to be replaced, in seconds since the Unix
/// epoch; none if it cannot be read. Proves nothing.
#[must_use]
pub fn next_update(der: &[u8]) -> Option<i64> {
    Header::read(der).map(|header| header.next_update.timestamp())
}

/// The header facts of a revocation list, which are not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrlOutline {
    /// The issuer's name (RFC 4514).
    pub issuer: String,
    /// When it is to be replaced, in seconds since the Unix epoch.
    pub next_update: i64,
    /// Number of certificates that the list revokes.
    pub entries: usize,
}

impl CrlOutline {
    /// Reads the outline of a revocation list (DER), without its single entries; none if
    /// the list cannot be read.
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

/// The parts of a CertificateList (RFC 5280 section 5.1).
struct Header<'a> {
    signed: SignedParts<'a>,
    issuer: &'a [u8],
    issuer_text: String,
    this_update: ASN1Time,
    next_update: ASN1Time,
    /// The content of revokedCertificates.
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

    /// Counts the entries by their outermost lengths.
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
                // RFC 5280 section 5.2.3: a non-critical extension.
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
