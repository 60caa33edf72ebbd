//! `RevocationList`: entries, CRL number and dates of a revocation list that will be signed.
//!
//! Lists are always complete, never delta or partitioned lists. They contain a CRL number and an
//! authority key identifier, as RFC 5280 section 5.2 requires. `records::state` stores which
//! certificates are revoked. `crate::trust` checks certificates against lists.

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};

use super::date::date;
use super::lifetime::Lifetime;
use super::revoked::{RevokedCertificate, from_hex};

/// Maximum lifetime of a revocation list. Until a list expires, an attacker can present it instead
/// of a newer one and so hide new revocations.
pub const MAX_LIFETIME: Lifetime = Lifetime::days(366);

/// Returns the default lifetime of the revocation lists of an authority. `issues_leaves` is whether
/// the authority signs leaves.
#[must_use]
pub const fn default_lifetime(issues_leaves: bool) -> Lifetime {
    if issues_leaves {
        Lifetime::days(7)
    } else {
        // A root with an intermediate signs a list about once a year, because an operator may keep
        // its key offline.
        Lifetime::days(365)
    }
}

/// A revocation list that will be signed.
#[derive(Debug)]
pub(crate) struct RevocationList<'a> {
    pub(crate) number: u64,
    pub(crate) this_update: i64,
    pub(crate) lifetime: Lifetime,
    pub(crate) entries: Vec<&'a RevokedCertificate>,
}

impl RevocationList<'_> {
    pub(crate) const fn next_update(&self) -> i64 {
        self.this_update.saturating_add(self.lifetime.as_seconds())
    }

    /// Converts the list to the type of rcgen. Sets the issuer's key identifier, because rcgen
    /// would compute a key identifier that can differ from the one in the issuer's certificate.
    pub(crate) fn to_params(
        &self,
        issuer_key_identifier: &[u8],
    ) -> Result<CertificateRevocationListParams, UnencodableList> {
        let revoked_certs = self
            .entries
            .iter()
            .map(|entry| {
                Ok(RevokedCertParams {
                    serial_number: SerialNumber::from_slice(
                        &from_hex(&entry.serial).ok_or(UnencodableList)?,
                    ),
                    revocation_time: date(entry.time).ok_or(UnencodableList)?,
                    reason_code: Some(entry.reason.encoded()),
                    invalidity_date: None,
                })
            })
            .collect::<Result<_, UnencodableList>>()?;
        Ok(CertificateRevocationListParams {
            this_update: date(self.this_update).ok_or(UnencodableList)?,
            next_update: date(self.next_update()).ok_or(UnencodableList)?,
            crl_number: SerialNumber::from(self.number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::PreSpecified(issuer_key_identifier.to_vec()),
        })
    }
}

/// The error if a serial number or a date in a revocation list cannot be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a serial number or date of the revocation list cannot be encoded")]
pub struct UnencodableList;
