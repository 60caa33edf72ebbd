//! A throw-away certificate authority that also issues what no careful
//! authority would.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PublicKeyData as _, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

use crate::der;

/// Types of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA with P-256
    P256,
    /// ECDSA with P-384
    P384,
    /// Ed25519
    Ed25519,
}

impl KeyKind {
    fn generate(self) -> KeyPair {
        KeyPair::generate_for(match self {
            Self::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::Ed25519 => &rcgen::PKCS_ED25519,
        })
        .expect("a key pair")
    }
}

/// Serial numbers that differ within a process and never begin with a sign bit.
fn next_serial() -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut serial = vec![0x4c, 0x05];
    serial.extend_from_slice(&number.to_be_bytes());
    serial
}

/// What an authority's certificate says.
#[derive(Debug, Clone)]
pub struct AuthoritySpec {
    name: String,
    key: KeyKind,
    path_length: Option<u8>,
    key_usages: Vec<KeyUsagePurpose>,
    permitted_dns: Vec<String>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl AuthoritySpec {
    /// An authority with this common name, valid for a year, P-256.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            name: name.to_owned(),
            key: KeyKind::P256,
            path_length: None,
            key_usages: vec![
                KeyUsagePurpose::KeyCertSign,
                KeyUsagePurpose::CrlSign,
                KeyUsagePurpose::DigitalSignature,
            ],
            permitted_dns: Vec::new(),
            not_before: now - Duration::hours(1),
            not_after: now + Duration::days(365),
        }
    }

    /// Another type of key.
    #[must_use]
    pub const fn key(mut self, key: KeyKind) -> Self {
        self.key = key;
        self
    }

    /// How many intermediates may stand below it.
    #[must_use]
    pub const fn path_length(mut self, most: u8) -> Self {
        self.path_length = Some(most);
        self
    }

    /// Key usages in place of keyCertSign, cRLSign and digitalSignature.
    #[must_use]
    pub fn key_usages(mut self, usages: &[KeyUsagePurpose]) -> Self {
        self.key_usages = usages.to_vec();
        self
    }

    /// A name constraint: only DNS names below `suffix`.
    #[must_use]
    pub fn permitted_dns(mut self, suffix: &str) -> Self {
        self.permitted_dns.push(suffix.to_owned());
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

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, self.name.as_str());
        params.is_ca = IsCa::Ca(
            self.path_length
                .map_or(BasicConstraints::Unconstrained, |most| {
                    BasicConstraints::Constrained(most)
                }),
        );
        params.key_usages.clone_from(&self.key_usages);
        params.not_before = self.not_before;
        params.not_after = self.not_after;
        params.serial_number = Some(SerialNumber::from_slice(&next_serial()));
        params.use_authority_key_identifier_extension = true;
        if !self.permitted_dns.is_empty() {
            params.name_constraints = Some(NameConstraints {
                permitted_subtrees: self
                    .permitted_dns
                    .iter()
                    .cloned()
                    .map(GeneralSubtree::DnsName)
                    .collect(),
                excluded_subtrees: Vec::new(),
            });
        }
        params
    }
}

/// A certificate authority: root or intermediate.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    params: CertificateParams,
    der: CertificateDer<'static>,
    /// What a leaf of this authority presents after itself; without the root.
    chain: Vec<CertificateDer<'static>>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Authority")
            .field("subject", &self.params.distinguished_name)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// A self-signed root.
    #[must_use]
    pub fn root(spec: &AuthoritySpec) -> Self {
        let key = spec.key.generate();
        let params = spec.params();
        let der = params.self_signed(&key).expect("a root").der().clone();
        Self {
            issuer: Issuer::new(params.clone(), key),
            params,
            der,
            chain: Vec::new(),
        }
    }

    /// An intermediate below this authority.
    #[must_use]
    pub fn intermediate(&self, spec: &AuthoritySpec) -> Self {
        let key = spec.key.generate();
        let params = spec.params();
        let der = params
            .signed_by(&key, &self.issuer)
            .expect("an intermediate")
            .der()
            .clone();
        let mut chain = vec![der.clone()];
        chain.extend(self.chain.iter().cloned());
        Self {
            issuer: Issuer::new(params.clone(), key),
            params,
            der,
            chain,
        }
    }

    /// A certificate by this authority for the name and key of another one.
    #[must_use]
    pub fn cross_sign(&self, other: &Self) -> CertificateDer<'static> {
        let mut params = other.params.clone();
        params.serial_number = Some(SerialNumber::from_slice(&next_serial()));
        params
            .signed_by(other.issuer.key(), &self.issuer)
            .expect("a cross-signed certificate")
            .der()
            .clone()
    }

    /// Issues a leaf.
    #[must_use]
    pub fn issue(&self, leaf: Leaf) -> Credentials {
        let key = leaf.key.generate();
        let serial = leaf.serial.clone().unwrap_or_else(next_serial);
        let corrupt = leaf.corrupt_signature;
        let mut params = leaf.params();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let mut der = params
            .signed_by(&key, &self.issuer)
            .expect("a leaf")
            .der()
            .to_vec();
        if corrupt && let Some(last) = der.last_mut() {
            *last ^= 1;
        }
        let mut chain = vec![CertificateDer::from(der)];
        chain.extend(self.chain.iter().cloned());
        Credentials {
            chain,
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
            serial,
        }
    }

    /// The certificate in DER.
    #[must_use]
    pub const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }

    /// The serial number of its own certificate.
    #[must_use]
    pub fn serial(&self) -> Vec<u8> {
        self.params
            .serial_number
            .as_ref()
            .map(SerialNumber::to_bytes)
            .unwrap_or_default()
    }

    pub(crate) const fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Its private key in PEM, for tools that issue what rcgen cannot.
    #[must_use]
    pub fn key_pem(&self) -> String {
        pem("PRIVATE KEY", self.issuer.key().serialized_der())
    }

    /// Its key as SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        self.issuer.key().subject_public_key_info()
    }
}

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

/// A certificate chain and its key.
pub struct Credentials {
    /// The leaf first, then its intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
    serial: Vec<u8>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("certificates", &self.chain.len())
            .field("serial", &self.serial_hex())
            .finish_non_exhaustive()
    }
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            serial: self.serial.clone(),
        }
    }
}

impl Credentials {
    /// A chain made elsewhere with its key in PKCS#8.
    #[must_use]
    pub fn from_parts(chain: Vec<CertificateDer<'static>>, key: Vec<u8>) -> Self {
        Self {
            chain,
            key: PrivatePkcs8KeyDer::from(key),
            serial: Vec::new(),
        }
    }

    /// The leaf in DER.
    #[must_use]
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// The private key.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }

    /// The leaf's serial number.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// The leaf's serial number in lower-case hexadecimal.
    #[must_use]
    pub fn serial_hex(&self) -> String {
        self.serial.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The chain in PEM.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        self.chain
            .iter()
            .map(|der| pem("CERTIFICATE", der))
            .collect()
    }

    /// The key in PEM.
    #[must_use]
    pub fn key_pem(&self) -> String {
        pem("PRIVATE KEY", self.key.secret_pkcs8_der())
    }

    /// The same chain with another certificate at the end.
    #[must_use]
    pub fn with_extra(mut self, der: CertificateDer<'static>) -> Self {
        self.chain.push(der);
        self
    }

    /// The leaf alone.
    #[must_use]
    pub fn without_intermediates(mut self) -> Self {
        self.chain.truncate(1);
        self
    }
}

/// A root, an intermediate below it, and a directory for files.
#[derive(Debug)]
pub struct TestCa {
    domain: String,
    root: Authority,
    intermediate: Authority,
    directory: TempDir,
}

impl TestCa {
    /// Authorities for this trust domain.
    #[must_use]
    pub fn new(domain: &str) -> Self {
        let root = Authority::root(&AuthoritySpec::new(&format!("{domain} root")));
        let intermediate =
            root.intermediate(&AuthoritySpec::new(&format!("{domain} intermediate")));
        Self {
            domain: domain.to_owned(),
            root,
            intermediate,
            directory: TempDir::with_prefix("countersign-pki-").expect("a directory"),
        }
    }

    /// The trust domain.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The root.
    #[must_use]
    pub const fn root(&self) -> &Authority {
        &self.root
    }

    /// The intermediate, which issues leaves.
    #[must_use]
    pub const fn intermediate(&self) -> &Authority {
        &self.intermediate
    }

    /// The SPIFFE ID with this path.
    #[must_use]
    pub fn spiffe(&self, path: &str) -> String {
        format!("spiffe://{}{path}", self.domain)
    }

    /// A good client with this SPIFFE path.
    #[must_use]
    pub fn client(&self, path: &str) -> Credentials {
        self.issue(Leaf::with_uri(&self.spiffe(path)))
    }

    /// A server with these DNS names, reachable as 127.0.0.1 too.
    #[must_use]
    pub fn server(&self, names: &[&str]) -> Credentials {
        let leaf = names
            .iter()
            .fold(Leaf::new().for_server(), |leaf, name| leaf.dns(name));
        self.issue(leaf.ip(IpAddr::from([127, 0, 0, 1])))
    }

    /// A leaf below the intermediate.
    #[must_use]
    pub fn issue(&self, leaf: Leaf) -> Credentials {
        self.intermediate.issue(leaf)
    }

    /// Where its files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file, readable by its owner alone.
    #[must_use]
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        write_private(&self.directory().join(name), content.as_ref())
    }

    /// Writes the root's certificate.
    #[must_use]
    pub fn root_file(&self) -> PathBuf {
        self.write("root.pem", self.root.pem())
    }
}

pub(crate) fn write_private(path: &Path, content: &[u8]) -> PathBuf {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path.to_owned()
}

/// A PEM block.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let word = group
                .iter()
                .chain([0_u8, 0].iter())
                .take(3)
                .fold(0_usize, |word, octet| word << 8 | usize::from(*octet));
            for position in 0..4 {
                text.push(if position <= group.len() {
                    char::from(ALPHABET[word >> (18 - 6 * position) & 63])
                } else {
                    '='
                });
            }
        }
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_is_base64_with_padding() {
        assert_eq!(
            pem("X", b"ab"),
            "-----BEGIN X-----\nYWI=\n-----END X-----\n"
        );
        assert_eq!(pem("X", b"a"), "-----BEGIN X-----\nYQ==\n-----END X-----\n");
        assert_eq!(
            pem("X", b"abc"),
            "-----BEGIN X-----\nYWJj\n-----END X-----\n"
        );
    }

    #[test]
    fn leaves_carry_the_names_they_were_given() {
        let ca = TestCa::new("example.org");
        let leaf = ca.client("/a");
        let needle = b"spiffe://example.org/a";
        assert!(leaf.leaf().windows(needle.len()).any(|w| w == needle));
        assert_eq!(leaf.chain.len(), 2);
        assert_ne!(ca.client("/a").serial(), leaf.serial());
    }
}
