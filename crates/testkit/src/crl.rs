//! Revocation lists.

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use crate::ca::Authority;
use crate::credentials::pem;

/// A revocation list in the making: number 1, from an hour ago, for a week.
#[derive(Debug, Clone)]
pub struct Crl {
    serials: Vec<Vec<u8>>,
    this_update: OffsetDateTime,
    next_update: OffsetDateTime,
    number: u8,
}

impl Default for Crl {
    fn default() -> Self {
        Self::new()
    }
}

impl Crl {
    /// A list without entries.
    #[must_use]
    pub fn new() -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            serials: Vec::new(),
            this_update: now - Duration::hours(1),
            next_update: now + Duration::days(7),
            number: 1,
        }
    }

    /// Adds a revoked serial number.
    #[must_use]
    pub fn revoke(mut self, serial: &[u8]) -> Self {
        self.serials.push(serial.to_vec());
        self
    }

    /// thisUpdate and nextUpdate, in seconds from now.
    #[must_use]
    pub fn valid(mut self, from: i64, until: i64) -> Self {
        let now = OffsetDateTime::now_utc();
        self.this_update = now + Duration::seconds(from);
        self.next_update = now + Duration::seconds(until);
        self
    }

    /// The list's number.
    #[must_use]
    pub const fn number(mut self, number: u8) -> Self {
        self.number = number;
        self
    }

    /// A list that was to be replaced an hour ago.
    #[must_use]
    pub fn stale(self) -> Self {
        self.valid(-7200, -3600)
    }

    /// Signs the list; DER.
    #[must_use]
    pub fn signed_by(self, authority: &Authority) -> Vec<u8> {
        let revocation_time = self.this_update;
        CertificateRevocationListParams {
            this_update: self.this_update,
            next_update: self.next_update,
            crl_number: SerialNumber::from_slice(&[self.number]),
            issuing_distribution_point: None,
            revoked_certs: self
                .serials
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from_slice(serial),
                    revocation_time,
                    reason_code: Some(RevocationReason::KeyCompromise),
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(authority.issuer())
        .expect("a revocation list")
        .der()
        .to_vec()
    }

    /// Signs the list; PEM.
    #[must_use]
    pub fn pem_signed_by(self, authority: &Authority) -> String {
        pem("X509 CRL", &self.signed_by(authority))
    }
}
