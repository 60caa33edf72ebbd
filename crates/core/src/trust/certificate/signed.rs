//! The three parts of a signed certificate or revocation list: message, algorithm and signature
//! (RFC 5280 sections 4.1.1 and 5.1.1).

use rustls_pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use webpki::RawPublicKeyEntity;
use x509_parser::der_parser::asn1_rs::{Any, FromDer as _};

use crate::crypto;

/// The three parts of a certificate or a revocation list.
#[derive(Debug, Clone, Copy)]
pub struct SignedParts<'a> {
    /// The signed message: tbsCertificate or tbsCertList, in DER.
    pub message: &'a [u8],
    /// The signature algorithm: the content of the AlgorithmIdentifier, in DER.
    pub algorithm: &'a [u8],
    /// The signature: the content of the BIT STRING after its first byte. The first byte is the
    /// number of unused bits and must be 0.
    pub signature: &'a [u8],
}

impl<'a> SignedParts<'a> {
    /// Splits a certificate or CRL into message, algorithm and signature. Returns `None` if `der`
    /// is malformed.
    pub fn read(der: &'a [u8]) -> Option<Self> {
        let (rest, whole) = Any::from_der(der).ok()?;
        let (after_message, _message) = Any::from_der(whole.data).ok()?;
        let length = whole.data.len().checked_sub(after_message.len())?;
        let (after_algorithm, algorithm) = Any::from_der(after_message).ok()?;
        let (end, signature) = Any::from_der(after_algorithm).ok()?;
        let (unused_bits, signature) = signature.data.split_first()?;
        if !rest.is_empty() || !end.is_empty() || *unused_bits != 0 {
            return None;
        }
        Some(Self {
            message: whole.data.get(..length)?,
            algorithm: algorithm.data,
            signature,
        })
    }

    /// Whether the signature was made with the private key of `key` (SubjectPublicKeyInfo in DER).
    pub fn is_signed_by(&self, key: &[u8]) -> bool {
        let provider = crypto::provider();
        let algorithms = provider.signature_verification_algorithms.all;
        self.is_signed_under(key, algorithms.iter().copied())
    }

    /// Does the same as [`Self::is_signed_by`], but only with the given algorithms.
    pub fn is_signed_under<'b>(
        &self,
        key: &[u8],
        algorithms: impl IntoIterator<Item = &'b dyn SignatureVerificationAlgorithm>,
    ) -> bool {
        let key = SubjectPublicKeyInfoDer::from(key);
        let Ok(entity) = RawPublicKeyEntity::try_from(&key) else {
            return false;
        };
        algorithms
            .into_iter()
            .filter(|algorithm| algorithm.signature_alg_id().as_ref() == self.algorithm)
            .any(|algorithm| {
                entity
                    .verify_signature(algorithm, self.message, self.signature)
                    .is_ok()
            })
    }
}
