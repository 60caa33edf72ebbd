//! `RevocationList`: entries, number and dates of a list to be signed.
//!
//! Lists are complete (never delta or partitioned) and carry number and
//! authority key identifier as RFC 5280 section 5.2 demands. Which certificates
//! are revoked is remembered by `records::state`; enforcing lists is the work
//! of `crate::trust`.

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};

use super::date::date;
use super::lifetime::Lifetime;
use super::revoked::{RevokedCertificate, from_hex};

/// Longest validity of a list: one that outlives its usefulness hides revocations.
pub const MAX_LIFETIME: Lifetime = Lifetime::days(366);

/// Returns the lifetime of an authority's revocation list if none is requested.
#[must_use]
pub const fn default_lifetime(issues_leaves: bool) -> Lifetime {
    if issues_leaves {
        Lifetime::days(7)
    } else {
        // Such a root is used about once a year, and its key may be stored offline.
        Lifetime::days(365)
    }
}

/// A list to be signed.
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

    /// Converts the list to the encoder's form, with the key identifier of the issuer. The encoder
    /// would otherwise derive one, which may differ from that in the certificate.
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

/// An entry's serial number or a date cannot be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a serial number or date of the revocation list cannot be encoded")]
pub struct UnencodableList;
