//! A certificate authority for one test. It also issues certificates that a careful authority
//! would not issue.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData as _, SanType, SerialNumber,
    SigningKey as _,
};
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

use crate::credentials::{Credentials, pem, write_private};
use crate::der;
pub use crate::keys::KeyKind;
use crate::keys::next_serial;
use crate::leaf::Leaf;

/// The content of an authority's certificate.
#[derive(Debug, Clone)]
pub struct AuthoritySpec {
    name: String,
    key: KeyKind,
    path_length: Option<u8>,
    key_usages: Vec<KeyUsagePurpose>,
    permitted_dns: Vec<String>,
    dns: Vec<String>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl AuthoritySpec {
    /// Creates settings with this common name, a P-256 key and a validity of one year.
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
            dns: Vec::new(),
            not_before: now - Duration::hours(1),
            not_after: now + Duration::days(365),
        }
    }

    /// Sets the type of the key.
    #[must_use]
    pub const fn key(mut self, key: KeyKind) -> Self {
        self.key = key;
        self
    }

    /// Sets `pathLenConstraint`: the maximum number of intermediates below this authority in a
    /// path.
    #[must_use]
    pub const fn path_length(mut self, most: u8) -> Self {
        self.path_length = Some(most);
        self
    }

    /// Sets the key usages. The default is keyCertSign, cRLSign and digitalSignature.
    #[must_use]
    pub fn key_usages(mut self, usages: &[KeyUsagePurpose]) -> Self {
        self.key_usages = usages.to_vec();
        self
    }

    /// Adds a name constraint that permits only DNS names below `suffix`.
    #[must_use]
    pub fn permitted_dns(mut self, suffix: &str) -> Self {
        self.permitted_dns.push(suffix.to_owned());
        self
    }

    /// Adds a DNS name to the subject alternative names of the authority's certificate.
    #[must_use]
    pub fn dns(mut self, name: &str) -> Self {
        self.dns.push(name.to_owned());
        self
    }

    /// Sets notBefore to `from` and notAfter to `until`, in seconds from now. Negative values are
    /// times in the past.
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
        for name in &self.dns {
            let name = name.as_str().try_into().expect("a host name");
            params.subject_alt_names.push(SanType::DnsName(name));
        }
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

/// A certificate authority, either a root or an intermediate.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    params: CertificateParams,
    der: CertificateDer<'static>,
    /// The certificates that a chain contains after a leaf of this authority: the intermediates,
    /// without the root.
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
    /// Creates a self-signed root.
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

    /// Creates an intermediate that this authority signs.
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

    /// Issues a certificate for the name and the key of `other`. All other content is copied from
    /// `other`'s certificate, except the issuer and the serial number.
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

    /// Same as [`Authority::cross_sign`], but takes everything except the name and the key from
    /// `spec`.
    #[must_use]
    pub fn cross_sign_as(&self, other: &Self, spec: &AuthoritySpec) -> CertificateDer<'static> {
        let mut params = spec.params();
        params.distinguished_name = other.params.distinguished_name.clone();
        params
            .signed_by(other.issuer.key(), &self.issuer)
            .expect("a cross-signed certificate")
            .der()
            .clone()
    }

    /// Issues a leaf certificate. Returns it with its key and the intermediates above it.
    #[must_use]
    pub fn issue(&self, leaf: Leaf) -> Credentials {
        let (der, key, serial) = leaf.signed_by(&self.issuer);
        let mut chain = vec![der];
        chain.extend(self.chain.iter().cloned());
        Credentials::new(chain, key.serialize_der(), serial)
    }

    /// Returns the authority's certificate in DER.
    #[must_use]
    pub const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Returns the authority's certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }

    /// Returns the serial number of the authority's own certificate.
    #[must_use]
    pub fn serial(&self) -> Vec<u8> {
        self.params
            .serial_number
            .as_ref()
            .map(SerialNumber::to_bytes)
            .unwrap_or_default()
    }

    /// Signs any message. The result has the structure of certificates, CRLs and certificate
    /// requests: a SEQUENCE of the message, the algorithm and the signature.
    ///
    /// # Panics
    /// If signing fails.
    #[must_use]
    pub fn signed(&self, message: &[u8]) -> Vec<u8> {
        let key = self.issuer.key();
        let kind = KeyKind::ALL
            .into_iter()
            .find(|kind| key.is_compatible(kind.algorithm()))
            .expect("a known type of key");
        let signature = key.sign(message).expect("a signature");
        der::sequence(&[
            message.to_vec(),
            der::element(0x30, kind.signature_oid()),
            der::element(0x03, &[&[0][..], &signature].concat()),
        ])
    }

    pub(crate) const fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Returns the authority's private key in PEM, so that a test can sign with it.
    #[must_use]
    pub fn key_pem(&self) -> String {
        pem("PRIVATE KEY", self.issuer.key().serialized_der())
    }

    /// Returns the authority's public key as SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        self.issuer.key().subject_public_key_info()
    }
}

/// A root, an intermediate below the root, and a temporary directory for the files of a test.
#[derive(Debug)]
pub struct TestCa {
    domain: String,
    root: Authority,
    intermediate: Authority,
    directory: TempDir,
}

impl TestCa {
    /// Creates a root and an intermediate for this trust domain.
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

    /// Returns the name of the trust domain.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Returns the root.
    #[must_use]
    pub const fn root(&self) -> &Authority {
        &self.root
    }

    /// Returns the intermediate, which issues the leaves.
    #[must_use]
    pub const fn intermediate(&self) -> &Authority {
        &self.intermediate
    }

    /// Returns the SPIFFE ID with this path in the trust domain.
    #[must_use]
    pub fn spiffe(&self, path: &str) -> String {
        format!("spiffe://{}{path}", self.domain)
    }

    /// Issues a valid client certificate with this SPIFFE path.
    #[must_use]
    pub fn client(&self, path: &str) -> Credentials {
        self.issue(Leaf::with_uri(&self.spiffe(path)))
    }

    /// Issues a server certificate for these DNS names and for 127.0.0.1.
    #[must_use]
    pub fn server(&self, names: &[&str]) -> Credentials {
        let leaf = names
            .iter()
            .fold(Leaf::new().for_server(), |leaf, name| leaf.dns(name));
        self.issue(leaf.ip(IpAddr::from([127, 0, 0, 1])))
    }

    /// Issues a leaf certificate from the intermediate.
    #[must_use]
    pub fn issue(&self, leaf: Leaf) -> Credentials {
        self.intermediate.issue(leaf)
    }

    /// Returns the temporary directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file into the temporary directory. Only its owner can read it. Returns its path.
    #[must_use]
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        write_private(&self.directory().join(name), content.as_ref())
    }

    /// Writes the root certificate in PEM into the temporary directory. Returns the path of the
    /// file.
    #[must_use]
    pub fn root_file(&self) -> PathBuf {
        self.write("root.pem", self.root.pem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
