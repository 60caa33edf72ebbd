//! `RevocationList`: one revocation list, parsed and checked when it is loaded.
//!
//! webpki's parser refuses lists that are delta, indirect, partitioned by reason, or
//! attribute-only. It also refuses unknown critical extensions of the list or of an entry. This
//! module also checks the CRL number, thisUpdate and the scope, which webpki does not check. The
//! signature is verified only once, with the keys that are known to belong to the issuer.

use std::collections::HashSet;
use std::sync::{Mutex, OnceLock, PoisonError};

use webpki::BorrowedCertRevocationList;
use x509_parser::der_parser::asn1_rs::{Any, FromDer as _, Tag};
use x509_parser::extensions::{ParsedExtension, X509Extension};

use super::header::{CrlTimes, Header};
use super::serials::SerialSet;
use super::status::{CrlStatus, Freshness};
use super::unusable::UnusableCrl;
use super::webpki_form::webpki_form;
use crate::clock;
use crate::identity::leaf::significant;
use crate::identity::text::hex;
use crate::trust::certificate::algorithm::check_signature;
use crate::trust::certificate::member::{PathMember, PointName};
use crate::trust::certificate::signed::SignedParts;

/// Minimum size in bytes of an entry of a list: a serial number of one byte, and a date.
const SMALLEST_ENTRY: usize = 20;
/// Maximum number of keys for which a list stores that they did not sign the list.
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
    /// Describes in words which certificates the list covers. Returns `None` if the scope has no
    /// limit.
    const fn describe(&self) -> Option<&'static str> {
        match (self.user_only, self.authorities_only, &self.points) {
            (true, _, _) => Some("callers only"),
            (_, true, _) => Some("authorities only"),
            (_, _, Some(_)) => Some("one distribution point"),
            _ => None,
        }
    }

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
/// has been verified.
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
    /// cRLNumber without leading zero bytes.
    pub(super) number: Option<Box<[u8]>>,
    pub(super) is_version_1: bool,
    pub(super) times: CrlTimes,
    scope: Option<Scope>,
    serials: SerialSet,
    signer: OnceLock<Signer>,
    unverified: Mutex<Unverified>,
}

impl RevocationList {
    /// Parses a revocation list. `hash` is the SHA-256 hash of `der`.
    pub(super) fn read(der: &[u8], hash: [u8; 32]) -> Result<Self, UnusableCrl> {
        let header = Header::read(der).ok_or_else(|| UnusableCrl::unreadable(der))?;
        let form = webpki_form(der, &header);
        let unusable = |error: webpki::Error| UnusableCrl::of(der, &error);
        let entries = BorrowedCertRevocationList::from_der(&form).map_err(unusable)?;
        check_signature(header.signed.algorithm)
            .map_err(|error| UnusableCrl::Signature(error.describe("its signature").1))?;
        // Allocates space for all entries at once, because growing would copy them into new memory.
        // The space is limited, because a malformed list can have many elements that are too small
        // for an entry.
        let most = header.revoked.len() / SMALLEST_ENTRY;
        let mut serials = SerialSet::with_room(header.entries().min(most));
        for entry in &entries {
            serials.insert(entry.map_err(unusable)?.serial_number);
        }
        serials.shrink();
        let (number, scope) = match header.extensions {
            None => (None, None),
            // RFC 5280 section 5.1.2.1: a list with extensions must have version 2.
            Some(_) if header.is_version_1 => {
                let why = "it is of version 1 and has extensions, which need version 2";
                return Err(UnusableCrl::damaged(why));
            }
            Some(extensions) => read_extensions(extensions)?,
        };
        let times = header.times;
        if times
            .next_update
            .is_some_and(|end| end <= times.this_update)
        {
            return Err(UnusableCrl::Times);
        }
        Ok(Self {
            hash,
            issuer: header.issuer.into(),
            issuer_text: header.issuer_text,
            number,
            is_version_1: header.is_version_1,
            times,
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
    /// `key`. The result for each key is stored, so that the signature check is not repeated.
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
    /// distribution point. If its distribution point has the issuer's name, it also covers
    /// certificates that name no distribution point. webpki is less strict and accepts any list of
    /// the issuer.
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

    /// Whether this list is a successor of `old`: it must have the same issuer and scope. If the
    /// key that signed `old` is known, the same key must have signed this list.
    pub(super) fn succeeds(&self, old: &Self) -> bool {
        match old.signer() {
            Some(_) => self.is_of_series(old),
            None => self.issuer == old.issuer && self.same_scope(old),
        }
    }

    /// Whether both lists have the same issuer, scope and signing key. Returns false if the key
    /// that signed a list is not known.
    pub(super) fn is_of_series(&self, other: &Self) -> bool {
        self.issuer == other.issuer
            && self.signer().is_some()
            && self.signer() == other.signer()
            && self.same_scope(other)
    }

    /// Whether this list may replace `old`, a list of the same issuer, key and scope. An older list
    /// must not replace a newer one. If both lists have numbers, neither the number nor thisUpdate
    /// may be lower. If one list has no number, only a later thisUpdate shows that this list is
    /// newer. An equal thisUpdate does not show which of two different lists is newer.
    pub(super) fn may_replace(&self, old: &Self) -> bool {
        let (time, time_of_old) = (self.times.this_update, old.times.this_update);
        match (&self.number, &old.number) {
            _ if self.hash == old.hash => true,
            (Some(_), Some(_)) => !self.has_lower_number(old) && time >= time_of_old,
            _ => time > time_of_old,
        }
    }

    /// Whether this list, which was fetched, may replace `old`. The rules are those of
    /// [`Self::may_replace`], with one exception. If `old` is not valid yet at `now`, this list may
    /// have an earlier thisUpdate, because the issuer's clock may have been wrong. Its number must
    /// then show that it is not older.
    pub(super) fn may_follow(&self, old: &Self, now: i64) -> bool {
        let is_numbered = self.number.is_some() && old.number.is_some();
        self.may_replace(old)
            || is_numbered && old.times.this_update > now && !self.has_lower_number(old)
    }

    fn has_lower_number(&self, old: &Self) -> bool {
        matches!(
            (&self.number, &old.number),
            (Some(number), Some(of_old)) if is_less(number, of_old)
        )
    }

    /// Returns the reason why this list may not replace `newer`, for messages.
    pub(super) fn why_older(&self, newer: &Self) -> String {
        match (&self.number, &newer.number) {
            (Some(number), Some(of_newer)) if is_less(number, of_newer) => format!(
                "number {} is lower than {}, which is in use",
                hex(number),
                hex(of_newer)
            ),
            _ => format!(
                "thisUpdate {} is not later than {}, that of the list in use",
                clock::rfc3339(self.times.this_update),
                clock::rfc3339(newer.times.this_update)
            ),
        }
    }

    /// Returns the name of the list for messages.
    pub(super) fn title(&self) -> String {
        let end = self.times.next_update.unwrap_or(self.times.this_update);
        self.status(end, Freshness::Fresh).title()
    }

    /// Returns the status of the list. The caller of this function determines `next_update` and
    /// `freshness` by the rules of the trust domain.
    pub(super) fn status(&self, next_update: i64, freshness: Freshness) -> CrlStatus {
        CrlStatus {
            hash: self.hash,
            covers: self.scope.as_ref().and_then(Scope::describe),
            issuer: self.issuer_text.clone(),
            number: self.number.as_deref().map(hex),
            this_update: self.times.this_update,
            next_update,
            entries: self.entries(),
            verified: self.signer().is_some(),
            freshness,
        }
    }
}

/// Whether `number` is less than `other`. Both are big-endian, without leading zero bytes.
fn is_less(number: &[u8], other: &[u8]) -> bool {
    (number.len(), number) < (other.len(), other)
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

type Extensions = (Option<Box<[u8]>>, Option<Scope>);

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
                scope = Some(Scope::read(&extension)?);
            }
            _ => {}
        }
    }
    Ok((number, scope))
}

impl Scope {
    /// Reads an issuing distribution point that webpki has checked.
    fn read(extension: &X509Extension<'_>) -> Result<Self, UnusableCrl> {
        let malformed = || UnusableCrl::damaged("its issuing distribution point is malformed");
        let (_, sequence) = Any::from_der(extension.value).map_err(|_| malformed())?;
        let mut scope = Self {
            raw: extension.value.into(),
            user_only: false,
            authorities_only: false,
            points: None,
        };
        let mut rest = sequence.data;
        while !rest.is_empty() {
            let (after, field) = Any::from_der(rest).map_err(|_| malformed())?;
            match field.tag() {
                // If the names cannot be read, `points` is empty. The list then covers no
                // certificate.
                Tag(0) => scope.points = Some(point_names(extension).unwrap_or_default()),
                Tag(1) => scope.user_only = field.data != [0],
                Tag(2) => scope.authorities_only = field.data != [0],
                // The other fields are absent or FALSE. webpki has refused all other lists.
                _ => {}
            }
            rest = after;
        }
        let limits = scope.user_only || scope.authorities_only || scope.points.is_some();
        if !limits {
            return Err(UnusableCrl::damaged(
                "its issuing distribution point is empty",
            ));
        }
        if scope.user_only && scope.authorities_only {
            return Err(UnusableCrl::damaged(
                "its issuing distribution point leaves out callers and authorities alike",
            ));
        }
        Ok(scope)
    }
}

fn point_names(extension: &X509Extension<'_>) -> Option<Box<[PointName]>> {
    match extension.parsed_extension() {
        ParsedExtension::IssuingDistributionPoint(point) => {
            point.distribution_point.as_ref().map(PointName::all_of)
        }
        _ => None,
    }
}
