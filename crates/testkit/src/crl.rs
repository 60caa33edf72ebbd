//! Certificate revocation lists (CRLs), valid and invalid.

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use crate::ca::Authority;
use crate::credentials::pem;
use crate::der;

/// The settings of a CRL. By default, the CRL number is 1, thisUpdate is one hour ago, and
/// nextUpdate is in seven days.
#[derive(Debug, Clone)]
pub struct Crl {
    serials: Vec<Vec<u8>>,
    this_update: OffsetDateTime,
    next_update: OffsetDateTime,
    number: u8,
    /// The DER of extensions that rcgen cannot make.
    extensions: Vec<Vec<u8>>,
    omitted: Vec<Omitted>,
}

/// A part that [`changed`] removes from a CRL, so that the CRL is invalid or of version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Omitted {
    Version,
    NextUpdate,
    Number,
    Extensions,
}

/// The OID of the CRL number extension, 2.5.29.20, in DER.
const CRL_NUMBER: [u8; 5] = [0x06, 0x03, 0x55, 0x1d, 0x14];

impl Default for Crl {
    fn default() -> Self {
        Self::new()
    }
}

impl Crl {
    /// Creates the settings of a CRL without entries.
    #[must_use]
    pub fn new() -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            serials: Vec::new(),
            this_update: now - Duration::hours(1),
            next_update: now + Duration::days(7),
            number: 1,
            extensions: Vec::new(),
            omitted: Vec::new(),
        }
    }

    /// Adds an entry for the certificate with this serial number. The reason is keyCompromise.
    #[must_use]
    pub fn revoke(mut self, serial: &[u8]) -> Self {
        self.serials.push(serial.to_vec());
        self
    }

    /// Sets thisUpdate to `from` and nextUpdate to `until`, in seconds from now. Negative values
    /// are times in the past.
    #[must_use]
    pub fn valid(mut self, from: i64, until: i64) -> Self {
        let now = OffsetDateTime::now_utc();
        self.this_update = now + Duration::seconds(from);
        self.next_update = now + Duration::seconds(until);
        self
    }

    /// Sets the CRL number.
    #[must_use]
    pub const fn number(mut self, number: u8) -> Self {
        self.number = number;
        self
    }

    /// Makes a delta CRL whose base has the CRL number 1 (deltaCRLIndicator, RFC 5280 section
    /// 5.2.4).
    #[must_use]
    pub fn delta(self) -> Self {
        self.critical(0x1b, &[0x02, 0x01, 0x01])
    }

    /// Marks the CRL as indirect (indirectCRL, RFC 5280 section 5.2.5). The entries of an indirect
    /// CRL may be about certificates of other issuers.
    #[must_use]
    pub fn indirect(self) -> Self {
        self.critical(0x1c, &[0x30, 0x03, 0x84, 0x01, 0xff])
    }

    /// Limits the CRL to the reason keyCompromise (onlySomeReasons, RFC 5280 section 5.2.5).
    #[must_use]
    pub fn for_some_reasons(self) -> Self {
        self.critical(0x1c, &[0x30, 0x04, 0x83, 0x02, 0x06, 0x40])
    }

    /// Limits the CRL to attribute certificates (onlyContainsAttributeCerts, RFC 5280 section
    /// 5.2.5).
    #[must_use]
    pub fn for_attribute_certificates(self) -> Self {
        self.critical(0x1c, &[0x30, 0x03, 0x85, 0x01, 0xff])
    }

    /// Adds a critical extension that no program supports: 2.5.29.99.
    #[must_use]
    pub fn unknown_extension(self) -> Self {
        self.critical(0x63, &[0x05, 0x00])
    }

    /// Makes a CRL of version 1. Such a CRL has no extensions, and therefore no CRL number.
    #[must_use]
    pub fn version_1(mut self) -> Self {
        self.omitted.extend([Omitted::Version, Omitted::Extensions]);
        self
    }

    /// Makes a CRL of version 2 without extensions. Such a CRL is invalid, because a CRL number
    /// is required.
    #[must_use]
    pub fn without_extensions(mut self) -> Self {
        self.omitted.push(Omitted::Extensions);
        self
    }

    /// Removes the CRL number. The authority key identifier stays.
    #[must_use]
    pub fn without_number(mut self) -> Self {
        self.omitted.push(Omitted::Number);
        self
    }

    /// Limits the CRL to end-entity certificates, such as those of callers (onlyContainsUserCerts,
    /// RFC 5280 section 5.2.5). The extension contains no distribution point.
    #[must_use]
    pub fn for_callers_only(self) -> Self {
        self.critical(0x1c, &[0x30, 0x03, 0x81, 0x01, 0xff])
    }

    /// Limits the CRL to certificates of authorities (onlyContainsCACerts, RFC 5280 section 5.2.5).
    /// The extension contains no distribution point.
    #[must_use]
    pub fn for_authorities_only(self) -> Self {
        self.critical(0x1c, &[0x30, 0x03, 0x82, 0x01, 0xff])
    }

    /// Adds the extension issuingDistributionPoint with this content, valid or not.
    #[must_use]
    pub fn issuing_distribution_point(self, content: &[u8]) -> Self {
        self.critical(0x1c, content)
    }

    /// Removes nextUpdate.
    #[must_use]
    pub fn without_next_update(mut self) -> Self {
        self.omitted.push(Omitted::NextUpdate);
        self
    }

    /// Limits the CRL to certificates with this distribution point (issuingDistributionPoint,
    /// RFC 5280 section 5.2.5).
    #[must_use]
    pub fn distribution_point(self, uri: &str) -> Self {
        let name = der::element(0xa0, &der::element(0x86, uri.as_bytes()));
        self.critical(0x1c, &der::sequence(&[der::element(0xa0, &name)]))
    }

    /// Adds the critical extension 2.5.29.`last_arc`.
    fn critical(mut self, last_arc: u8, value: &[u8]) -> Self {
        self.extensions.push(der::sequence(&[
            vec![0x06, 0x03, 0x55, 0x1d, last_arc],
            vec![0x01, 0x01, 0xff],
            der::element(0x04, value),
        ]));
        self
    }

    /// Sets thisUpdate to two hours ago and nextUpdate to one hour ago.
    #[must_use]
    pub fn stale(self) -> Self {
        self.valid(-7200, -3600)
    }

    /// Signs the CRL and returns it in DER.
    #[must_use]
    pub fn signed_by(self, authority: &Authority) -> Vec<u8> {
        let revocation_time = self.this_update;
        let (extensions, omitted) = (self.extensions, self.omitted);
        let list = CertificateRevocationListParams {
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
        .to_vec();
        match extensions.is_empty() && omitted.is_empty() {
            true => list,
            false => changed(&list, &extensions, &omitted, authority),
        }
    }

    /// Signs the CRL and returns it in PEM.
    #[must_use]
    pub fn pem_signed_by(self, authority: &Authority) -> String {
        pem("X509 CRL", &self.signed_by(authority))
    }
}

/// Returns a CRL with the extensions `more` added and the parts `omitted` removed. `authority`
/// signs the changed CRL.
fn changed(list: &[u8], more: &[Vec<u8>], omitted: &[Omitted], authority: &Authority) -> Vec<u8> {
    let (_, parts, _) = der::first(list);
    let (_, signed, _) = der::first(parts);
    let mut fields = Vec::new();
    let mut times = 0;
    let mut rest = signed;
    while !rest.is_empty() {
        let (tag, content, length) = der::first(rest);
        let field = match tag {
            0xa0 => {
                let (_, extensions, _) = der::first(content);
                let mut all = more.to_vec();
                let mut rest = extensions;
                while !rest.is_empty() {
                    let (_, extension, length) = der::first(rest);
                    let is_number = extension.starts_with(&CRL_NUMBER);
                    if !is_number || !omitted.contains(&Omitted::Number) {
                        all.push(rest[..length].to_vec());
                    }
                    rest = &rest[length..];
                }
                der::element(0xa0, &der::sequence(&all))
            }
            _ => rest[..length].to_vec(),
        };
        let what = match tag {
            0x02 => Some(Omitted::Version),
            // UTCTime or GeneralizedTime: the first one is thisUpdate, the second nextUpdate.
            0x17 | 0x18 => {
                times += 1;
                (times == 2).then_some(Omitted::NextUpdate)
            }
            0xa0 => Some(Omitted::Extensions),
            _ => None,
        };
        if what.is_none_or(|what| !omitted.contains(&what)) {
            fields.push(field);
        }
        rest = &rest[length..];
    }
    authority.signed(&der::sequence(&fields))
}
