//! Leaf certificates with every knob, sensible or not.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use crate::der;
use crate::keys::{KeyKind, next_serial};

/// What a leaf certificate says; the default is a good client certificate
/// without any name.
#[derive(Debug, Clone)]
pub struct Leaf {
    names: Vec<Vec<u8>>,
    subject: DistinguishedName,
    key: KeyKind,
    key_usages: Vec<KeyUsagePurpose>,
    extended_key_usages: Vec<ExtendedKeyUsagePurpose>,
    is_ca: IsCa,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    serial: Option<Vec<u8>>,
    extensions: Vec<CustomExtension>,
    corrupt_signature: bool,
}

impl Default for Leaf {
    fn default() -> Self {
        Self::new()
    }
}

impl Leaf {
    /// A client certificate without names, valid for a day, P-256.
    #[must_use]
    pub fn new() -> Self {
        let now = OffsetDateTime::now_utc();
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, "leaf");
        Self {
            names: Vec::new(),
            subject,
            key: KeyKind::P256,
            key_usages: vec![KeyUsagePurpose::DigitalSignature],
            extended_key_usages: vec![ExtendedKeyUsagePurpose::ClientAuth],
            is_ca: IsCa::ExplicitNoCa,
            not_before: now - Duration::minutes(5),
            not_after: now + Duration::days(1),
            serial: None,
            extensions: Vec::new(),
            corrupt_signature: false,
        }
    }

    /// A client certificate with one URI name.
    #[must_use]
    pub fn with_uri(uri: &str) -> Self {
        Self::new().uri(uri)
    }

    /// Adds a URI name, whatever its octets.
    #[must_use]
    pub fn uri(self, uri: &str) -> Self {
        self.raw_name(0x86, uri.as_bytes())
    }

    /// Adds a DNS name, whatever its octets.
    #[must_use]
    pub fn dns(self, name: &str) -> Self {
        self.raw_name(0x82, name.as_bytes())
    }

    /// Adds an e-mail name, whatever its octets.
    #[must_use]
    pub fn email(self, address: &str) -> Self {
        self.raw_name(0x81, address.as_bytes())
    }

    /// Adds an IP name.
    #[must_use]
    pub fn ip(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.raw_name(0x87, &v4.octets()),
            IpAddr::V6(v6) => self.raw_name(0x87, &v6.octets()),
        }
    }

    /// Adds a GeneralName with this tag and content, right or wrong.
    #[must_use]
    pub fn raw_name(mut self, tag: u8, content: &[u8]) -> Self {
        self.names.push(der::element(tag, content));
        self
    }

    /// Another common name.
    #[must_use]
    pub fn common_name(mut self, name: &str) -> Self {
        self.subject = DistinguishedName::new();
        self.subject.push(DnType::CommonName, name);
        self
    }

    /// Another type of key.
    #[must_use]
    pub const fn key(mut self, key: KeyKind) -> Self {
        self.key = key;
        self
    }

    /// Key usages in place of digitalSignature; none leaves the extension out.
    #[must_use]
    pub fn key_usages(mut self, usages: &[KeyUsagePurpose]) -> Self {
        self.key_usages = usages.to_vec();
        self
    }

    /// Extended key usages in place of clientAuth; none leaves the extension out.
    #[must_use]
    pub fn extended_key_usages(mut self, usages: &[ExtendedKeyUsagePurpose]) -> Self {
        self.extended_key_usages = usages.to_vec();
        self
    }

    /// A server's certificate.
    #[must_use]
    pub fn for_server(self) -> Self {
        self.extended_key_usages(&[ExtendedKeyUsagePurpose::ServerAuth])
    }

    /// Makes the leaf a certificate authority.
    #[must_use]
    pub const fn authority(mut self) -> Self {
        self.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self
    }

    /// Validity, in seconds from now.
    #[must_use]
    pub fn valid(mut self, from: i64, until: i64) -> Self {
        let now = OffsetDateTime::now_utc();
        self.not_before = now + Duration::seconds(from);
        self.not_after = now + Duration::seconds(until);
        self
    }

    /// This serial number.
    #[must_use]
    pub fn serial(mut self, serial: &[u8]) -> Self {
        self.serial = Some(serial.to_vec());
        self
    }

    /// Adds an extension.
    #[must_use]
    pub fn extension(mut self, oid: &[u64], critical: bool, content: &[u8]) -> Self {
        let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
        extension.set_criticality(critical);
        self.extensions.push(extension);
        self
    }

    /// Damages the issuer's signature after signing.
    #[must_use]
    pub const fn corrupt_signature(mut self) -> Self {
        self.corrupt_signature = true;
        self
    }

    /// The certificate, its key and its serial number.
    pub(crate) fn signed_by(
        self,
        issuer: &Issuer<'static, KeyPair>,
    ) -> (CertificateDer<'static>, KeyPair, Vec<u8>) {
        let key = self.key.generate();
        let serial = self.serial.clone().unwrap_or_else(next_serial);
        let corrupt = self.corrupt_signature;
        let mut params = self.params();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let mut der = params
            .signed_by(&key, issuer)
            .expect("a leaf")
            .der()
            .to_vec();
        if corrupt && let Some(last) = der.last_mut() {
            *last ^= 1;
        }
        (CertificateDer::from(der), key, serial)
    }

    fn params(self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = self.subject;
        params.key_usages = self.key_usages;
        params.extended_key_usages = self.extended_key_usages;
        params.is_ca = self.is_ca;
        params.not_before = self.not_before;
        params.not_after = self.not_after;
        params.use_authority_key_identifier_extension = true;
        params.custom_extensions = self.extensions;
        if !self.names.is_empty() {
            // rcgen would refuse names that are not well-formed.
            params
                .custom_extensions
                .push(CustomExtension::from_oid_content(
                    &[2, 5, 29, 17],
                    der::sequence(&self.names),
                ));
        }
        params
    }
}
