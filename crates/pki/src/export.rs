//! Exports certificates in the formats of other programs.
//!
//! The formats are PEM, DER, PKCS#12 for browsers and Java, a Java truststore, and the bundle of a
//! SPIFFE trust domain. The functions read files and return bytes. The command writes the bytes to
//! a file.

use std::path::{Path, PathBuf};

use base64ct::{Base64, Base64UrlUnpadded, Encoding as _};
use p12_keystore::{
    Certificate, EncryptionAlgorithm, KeyStore, KeyStoreEntry, MacAlgorithm, PrivateKey,
    PrivateKeyChain,
};
use rcgen::PublicKeyData as _;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::directory::Pki;
use super::files::certificates;
use super::files::error::PkiError;
use super::files::own::refuse_own;
use super::store::{self, Audience, Existing, key};
use crate::clock;
use crate::secret::Secret;

/// Number of iterations of the key derivation in a PKCS#12 file. A high number makes guessing the
/// passphrase slow.
const ITERATIONS: u32 = 100_000;

/// The algorithms that encrypt and authenticate a PKCS#12 file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pkcs12Cipher {
    /// AES-256 and HMAC-SHA-256, for OpenSSL 3, Java 8u301 and later, and Windows 11.
    Modern,
    /// Triple DES and HMAC-SHA-1, for older systems and the keychain of macOS.
    Legacy,
}

/// The content of a certificate file: the leaf, then its intermediates.
#[derive(Debug)]
pub struct ChainFile {
    path: PathBuf,
    chain: Vec<CertificateDer<'static>>,
}

impl ChainFile {
    /// Reads a PEM file of certificates.
    ///
    /// # Errors
    /// If the file contains no certificate.
    pub fn read(path: &Path) -> Result<Self, PkiError> {
        Ok(Self {
            path: path.to_owned(),
            chain: certificates::read_named(path)?,
        })
    }

    /// Returns the leaf as PEM.
    #[must_use]
    pub fn leaf_pem(&self) -> String {
        self.chain
            .first()
            .map(certificates::pem)
            .unwrap_or_default()
    }

    /// Returns the leaf and its intermediates as PEM.
    #[must_use]
    pub fn full_pem(&self) -> String {
        self.chain.iter().map(certificates::pem).collect()
    }

    /// Returns the leaf as DER.
    #[must_use]
    pub fn leaf_der(&self) -> &[u8] {
        self.chain.first().map_or(&[], AsRef::as_ref)
    }

    /// Returns a PKCS#12 file with the private key, the leaf and the intermediates. Reads the
    /// private key from `key_path`.
    ///
    /// # Errors
    /// If the key cannot be read, or belongs to another certificate.
    pub fn pkcs12(
        &self,
        key_path: &Path,
        passphrase: &Secret,
        cipher: Pkcs12Cipher,
    ) -> Result<Vec<u8>, PkiError> {
        let unreadable = |why: &dyn std::fmt::Display| PkiError::unreadable(&self.path, why);
        let (_, leaf) =
            X509Certificate::from_der(self.leaf_der()).map_err(|error| unreadable(&error))?;
        let key = key::read_named(key_path, None, leaf.public_key().raw)?;
        if key.subject_public_key_info() != leaf.public_key().raw {
            return Err(PkiError::Disagree {
                path: key_path.to_owned(),
                why: format!("it is not the key of {}", self.path.display()),
            });
        }
        let alias = self.path.file_stem().map_or_else(
            || "1".to_owned(),
            |stem| stem.to_string_lossy().into_owned(),
        );
        let chain = self
            .chain
            .iter()
            .map(|der| Certificate::from_der(der))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unreadable(&error))?;
        let key = PrivateKey::from_der(key.serialized_der()).map_err(|error| unreadable(&error))?;
        let entry = PrivateKeyChain::new(vec![1_u8], key, chain);
        let mut store = KeyStore::new();
        store.add_entry(&alias, KeyStoreEntry::PrivateKeyChain(entry));
        sealed(&store, passphrase, cipher).map_err(|error| unreadable(&error))
    }
}

impl Pki {
    /// Returns a PKCS#12 file with the trusted roots. Java can use the file as truststore.
    ///
    /// # Errors
    /// If the roots cannot be read.
    pub fn truststore(
        &self,
        passphrase: &Secret,
        cipher: Pkcs12Cipher,
    ) -> Result<Vec<u8>, PkiError> {
        let path = self.layout().trust();
        let mut store = KeyStore::new();
        for (index, der) in certificates::read(&path)?.iter().enumerate() {
            let root =
                Certificate::from_der(der).map_err(|error| PkiError::unreadable(&path, error))?;
            let alias = format!("{}-{}", self.trust_domain(), index + 1);
            store.add_entry(&alias, KeyStoreEntry::Certificate(root));
        }
        sealed(&store, passphrase, cipher).map_err(|error| PkiError::unreadable(&path, error))
    }

    /// Returns the SPIFFE bundle of the trust domain (SPIFFE Trust Domain and Bundle section 4).
    ///
    /// # Errors
    /// If the roots cannot be read.
    pub fn spiffe_bundle(&self) -> Result<Value, PkiError> {
        let path = self.layout().trust();
        let keys = certificates::read(&path)?
            .iter()
            .map(|der| {
                jwk(der).ok_or_else(|| PkiError::unreadable(&path, "an unknown kind of key"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(json!({
            // SPIFFE requires that the sequence number never decreases. The authority has no
            // counter, so the current time is used.
            "spiffe_sequence": clock::certificate_now(),
            "spiffe_refresh_hint": 300,
            "keys": keys,
        }))
    }
}

/// Writes a file completely, or not at all. If `private` is true, only its owner can read it.
///
/// # Errors
/// If the file already exists and `overwrite` is false. If the path belongs to an authority. If the
/// file cannot be written.
pub fn write(path: &Path, content: &[u8], private: bool, overwrite: bool) -> Result<(), PkiError> {
    refuse_own(path)?;
    let audience = if private {
        Audience::Owner
    } else {
        Audience::Public
    };
    let existing = if overwrite {
        Existing::Replace
    } else {
        Existing::Refuse
    };
    Ok(store::write(path, content, audience, existing)?)
}

fn sealed(store: &KeyStore, passphrase: &Secret, cipher: Pkcs12Cipher) -> Result<Vec<u8>, String> {
    let passphrase = str::from_utf8(passphrase.expose())
        .map_err(|_| "the passphrase for PKCS#12 must be text".to_owned())?;
    let writer = store.writer(passphrase);
    match cipher {
        Pkcs12Cipher::Modern => writer
            .encryption_algorithm(EncryptionAlgorithm::PbeWithHmacSha256AndAes256)
            .encryption_iterations(ITERATIONS)
            .mac_algorithm(MacAlgorithm::HmacSha256)
            .mac_iterations(ITERATIONS),
        Pkcs12Cipher::Legacy => writer
            .encryption_algorithm(EncryptionAlgorithm::PbeWithShaAnd3KeyTripleDesCbc)
            .mac_algorithm(MacAlgorithm::HmacSha1),
    }
    .write()
    .map_err(|error| error.to_string())
}

/// Returns a root certificate as a JWK of a SPIFFE bundle. Such a JWK must have no `kid`. Returns
/// `None` if the key is not P-256, P-384 or Ed25519.
fn jwk(der: &CertificateDer<'_>) -> Option<Value> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let info = certificate.public_key();
    let key = info.subject_public_key.as_ref();
    let mut jwk = json!({ "use": "x509-svid", "x5c": [Base64::encode_string(der)] });
    let members = jwk.as_object_mut()?;
    let text = |bytes: &[u8]| Value::from(Base64UrlUnpadded::encode_string(bytes));
    match (info.algorithm.algorithm.to_id_string().as_str(), key) {
        ("1.2.840.10045.2.1", [0x04, point @ ..]) => {
            let (x, y) = point.split_at_checked(point.len() / 2)?;
            let curve = match x.len() {
                32 => "P-256",
                48 => "P-384",
                _ => return None,
            };
            members.insert("kty".to_owned(), "EC".into());
            members.insert("crv".to_owned(), curve.into());
            members.insert("x".to_owned(), text(x));
            members.insert("y".to_owned(), text(y));
        }
        ("1.3.101.112", x) => {
            members.insert("kty".to_owned(), "OKP".into());
            members.insert("crv".to_owned(), "Ed25519".into());
            members.insert("x".to_owned(), text(x));
        }
        _ => return None,
    }
    Some(jwk)
}
