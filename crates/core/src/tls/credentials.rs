//! `Credentials`: a certificate chain of the gateway with its private key.

use std::sync::Arc;

use crate::clock;
use crate::crypto;
use crate::identity::LeafFacts;
use crate::pem::{self, PemError};
use crate::trust::unusable_key;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The reason why a certificate chain and key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// The certificate file is not a PEM file of certificates.
    #[error("the certificate file cannot be read: {0}")]
    CertificateFile(PemError),
    /// The first certificate in the file cannot be used.
    #[error("the certificate file has no usable certificate: {0}")]
    Certificate(String),
    /// The key file is not a PEM file with an unencrypted private key.
    #[error("the key file cannot be read: {0}")]
    KeyFile(PemError),
    /// The private key cannot be used.
    #[error("the key file has no usable private key: {0}")]
    Key(String),
    /// The private key does not belong to the first certificate.
    #[error("the private key does not belong to the first certificate of the file")]
    Mismatch,
    /// The certificate is not valid yet, or has expired.
    #[error("{0}")]
    NotValid(String),
}

/// Completes an EC key without public part, as Java writes it, from its certificate.
#[must_use]
pub fn complete_key(
    key: PrivateKeyDer<'static>,
    leaf: Option<&CertificateDer<'_>>,
) -> PrivateKeyDer<'static> {
    match leaf.map(|leaf| X509Certificate::from_der(leaf)) {
        Some(Ok((_, leaf))) => pem::complete(key, leaf.public_key().raw),
        _ => key,
    }
}

/// A certificate chain of the gateway, leaf first, with its private key.
#[derive(Debug, Clone)]
pub struct Credentials {
    certified: Arc<CertifiedKey>,
    facts: LeafFacts,
}

impl Credentials {
    /// Reads a PEM chain (leaf first, then intermediates) and a PEM private key.
    ///
    /// # Errors
    /// If the chain or the key cannot be read, or if the key does not belong to the leaf. If the
    /// leaf is not valid at `now` (seconds since the Unix epoch).
    pub fn from_pem(chain: &[u8], key: &[u8], now: i64) -> Result<Self, CredentialsError> {
        let chain =
            pem::certificates_beside_key(chain).map_err(CredentialsError::CertificateFile)?;
        let leaf = chain
            .first()
            .ok_or_else(|| CredentialsError::Certificate("it has no certificate block".into()))?;
        let facts = LeafFacts::read(leaf)
            .map_err(|error| CredentialsError::Certificate(error.to_string()))?;
        let key = pem::private_key(key).map_err(CredentialsError::KeyFile)?;
        let key = complete_key(key, Some(leaf));
        let signing_key = crypto::provider()
            .key_provider
            .load_private_key(key)
            .map_err(|error| {
                CredentialsError::Key(unusable_key(leaf).unwrap_or_else(|| error.to_string()))
            })?;
        let certified = CertifiedKey::new(chain, signing_key);
        match certified.keys_match() {
            Ok(()) => {}
            Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => return Err(CredentialsError::Mismatch),
        }
        if clock::certificate_is_over(facts.not_after, now) {
            return Err(CredentialsError::NotValid(format!(
                "the certificate expired at {}",
                clock::rfc3339(facts.not_after)
            )));
        }
        if now < facts.not_before {
            return Err(CredentialsError::NotValid(format!(
                "the certificate is valid only from {}",
                clock::rfc3339(facts.not_before)
            )));
        }
        Ok(Self {
            certified: Arc::new(certified),
            facts,
        })
    }

    /// Returns the chain and key for rustls.
    #[must_use]
    pub const fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// Returns the facts that the leaf states.
    #[must_use]
    pub const fn facts(&self) -> &LeafFacts {
        &self.facts
    }
}

#[cfg(test)]
mod tests {
    use base64ct::{Base64, Encoding as _};
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// A P-256 key in PKCS#8 as Java writes it, without its public part.
    fn as_java_writes_it(key: &KeyPair) -> String {
        let whole = key.serialized_der();
        let mark = [0x02, 0x01, 0x01, 0x04, 0x20];
        let begin = whole.windows(5).position(|part| part == mark).unwrap() + 5;
        let scalar = &whole[begin..begin + 32];
        let mut der = vec![0x30, 0x41, 2, 1, 0, 0x30, 0x13, 6, 7];
        der.extend([0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8]);
        der.extend([0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7, 4, 0x27, 0x30, 0x25]);
        der.extend(mark);
        der.extend(scalar);
        let text = Base64::encode_string(&der);
        format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
    }

    #[test]
    fn the_certificate_completes_a_key_without_public_part() {
        let [key, other] = [(); 2].map(|()| KeyPair::generate().unwrap());
        let params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        let chain = params.self_signed(&key).unwrap().pem();
        let now = clock::certificate_now();
        let read = |key: &str| Credentials::from_pem(chain.as_bytes(), key.as_bytes(), now);
        read(&key.serialize_pem()).unwrap();
        read(&as_java_writes_it(&key)).unwrap();
        // The public part of another key is not put to this one.
        assert!(read(&as_java_writes_it(&other)).is_err());
        assert_eq!(
            read(&other.serialize_pem()).unwrap_err(),
            CredentialsError::Mismatch
        );
    }
}
