//! Leaf certificates with any content, valid or not.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use crate::der;
use crate::keys::{KeyKind, next_serial};

/// The content of a leaf certificate. The default is a valid client certificate without subject
/// alternative names.
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
    /// Creates the settings of a client certificate without subject alternative names. It has a
    /// P-256 key and a validity of one day.
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

    /// Creates the settings of a client certificate with this URI as its only subject alternative
    /// name.
    #[must_use]
    pub fn with_uri(uri: &str) -> Self {
        Self::new().uri(uri)
    }

    /// Adds a subject alternative name of type URI. Its bytes are not checked.
    #[must_use]
    pub fn uri(self, uri: &str) -> Self {
        self.raw_name(0x86, uri.as_bytes())
    }

    /// Adds a subject alternative name of type DNS. Its bytes are not checked.
    #[must_use]
    pub fn dns(self, name: &str) -> Self {
        self.raw_name(0x82, name.as_bytes())
    }

    /// Adds a subject alternative name of type rfc822Name (e-mail). Its bytes are not checked.
    #[must_use]
    pub fn email(self, address: &str) -> Self {
        self.raw_name(0x81, address.as_bytes())
    }

    /// Adds a subject alternative name of type iPAddress.
    #[must_use]
    pub fn ip(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.raw_name(0x87, &v4.octets()),
            IpAddr::V6(v6) => self.raw_name(0x87, &v6.octets()),
        }
    }

    /// Adds a subject alternative name with any tag and content, valid or not.
    #[must_use]
    pub fn raw_name(mut self, tag: u8, content: &[u8]) -> Self {
        self.names.push(der::element(tag, content));
        self
    }

    /// Sets the common name, which is the only attribute of the subject.
    #[must_use]
    pub fn common_name(mut self, name: &str) -> Self {
        self.subject = DistinguishedName::new();
        self.subject.push(DnType::CommonName, name);
        self
    }

    /// Sets the type of the key.
    #[must_use]
    pub const fn key(mut self, key: KeyKind) -> Self {
        self.key = key;
        self
    }

    /// Sets the key usages. The default is digitalSignature. If `usages` is empty, the
    /// extension is left out.
    #[must_use]
    pub fn key_usages(mut self, usages: &[KeyUsagePurpose]) -> Self {
        self.key_usages = usages.to_vec();
        self
    }

    /// Sets the extended key usages. The default is clientAuth. If `usages` is empty, the
    /// extension is left out.
    #[must_use]
    pub fn extended_key_usages(mut self, usages: &[ExtendedKeyUsagePurpose]) -> Self {
        self.extended_key_usages = usages.to_vec();
        self
    }

    /// Makes a server certificate: the only extended key usage is serverAuth.
    #[must_use]
    pub fn for_server(self) -> Self {
        self.extended_key_usages(&[ExtendedKeyUsagePurpose::ServerAuth])
    }

    /// Sets `cA` to true in the leaf's basicConstraints.
    #[must_use]
    pub const fn authority(mut self) -> Self {
        self.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self
    }

    /// Sets notBefore to `from` and notAfter to `until`, in seconds from now. Negative values
    /// are times in the past.
    #[must_use]
    pub fn valid(mut self, from: i64, until: i64) -> Self {
        let now = OffsetDateTime::now_utc();
        self.not_before = now + Duration::seconds(from);
        self.not_after = now + Duration::seconds(until);
        self
    }

    /// Sets the serial number. By default, each leaf has a different serial number.
    #[must_use]
    pub fn serial(mut self, serial: &[u8]) -> Self {
        self.serial = Some(serial.to_vec());
        self
    }

    /// Adds an extension with this OID. `content` is its DER value.
    #[must_use]
    pub fn extension(mut self, oid: &[u64], critical: bool, content: &[u8]) -> Self {
        let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
        extension.set_criticality(critical);
        self.extensions.push(extension);
        self
    }

    /// Changes one byte of the issuer's signature after signing, so that the signature is
    /// invalid.
    #[must_use]
    pub const fn corrupt_signature(mut self) -> Self {
        self.corrupt_signature = true;
        self
    }

    /// Issues the certificate. Returns it with its key and its serial number.
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
            // The names are a custom extension, because rcgen refuses malformed names.
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
