//! Certificates, CRLs and certificate requests with keys and signature algorithms that rcgen does
//! not make.
//!
//! The keys are useless outside of tests, because their bytes are arbitrary.

use rustls_pki_types::CertificateDer;

use crate::ca::Authority;
use crate::der::{element, elements, sequence};

const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const RSASSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
const NULL: &[u8] = &[5, 0];

/// The content of an AlgorithmIdentifier for ecdsa-with-SHA224 (RFC 5758 section 3.2). No
/// cryptography provider verifies such signatures.
pub const ECDSA_SHA224: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 1];
/// The content of an AlgorithmIdentifier for ecdsa-with-SHA512. AWS-LC verifies such signatures,
/// ring does not.
pub const ECDSA_SHA512: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4];
/// The content of an AlgorithmIdentifier for ecdsa-with-SHA1, which is too weak.
pub const ECDSA_SHA1: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];

fn key(algorithm: &[u8], parameters: &[u8], content: &[u8]) -> Vec<u8> {
    sequence(&[
        sequence(&[element(6, algorithm), parameters.to_vec()]),
        element(3, &[&[0][..], content].concat()),
    ])
}

/// Returns a key on the curve with the OID `curve`. `form` is the first byte of the point, and
/// `bytes` is the number of bytes that follow.
fn point(curve: &[u8], form: u8, bytes: usize) -> Vec<u8> {
    let content = [vec![form], vec![7; bytes]].concat();
    key(EC, &element(6, curve), &content)
}

/// Returns keys with which no cryptography provider verifies a signature, each with the name of its
/// algorithm. The keys are SubjectPublicKeyInfo in DER.
#[must_use]
pub fn unsupported_keys() -> Vec<(&'static str, Vec<u8>)> {
    let brainpool = [0x2b, 0x24, 3, 3, 2, 8, 1, 1, 7];
    let modulus = [vec![0], vec![0xff; 2048]].concat();
    let rsa = sequence(&[element(2, &modulus), element(2, &[1, 0, 1])]);
    vec![
        ("secp256k1", point(&[0x2b, 0x81, 4, 0, 10], 4, 64)),
        ("brainpoolP256r1", point(&brainpool, 4, 64)),
        ("Ed448", key(&[0x2b, 0x65, 0x71], &[], &[7; 57])),
        ("RSASSA-PSS", key(RSASSA_PSS, &[], &[7; 270])),
        ("RSA with 16384 bits", key(RSA, NULL, &rsa)),
    ]
}

/// Returns keys that AWS-LC supports and ring does not, each with the name of its type.
#[must_use]
pub fn keys_beyond_ring() -> Vec<(&'static str, Vec<u8>)> {
    let p_256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    vec![
        ("P-521", point(&[0x2b, 0x81, 4, 0, 35], 4, 132)),
        ("P-256 with a compressed point", point(&p_256, 2, 32)),
    ]
}

/// Returns a copy of `certificate` that contains `key` in place of its public key. `issuer` signs
/// the copy.
#[must_use]
pub fn with_key(
    issuer: &Authority,
    certificate: &CertificateDer<'_>,
    key: &[u8],
) -> CertificateDer<'static> {
    let mut fields = elements(&elements(certificate)[0]);
    // The fields before the key are version, serialNumber, signature, issuer, validity and subject.
    fields[6] = key.to_vec();
    CertificateDer::from(issuer.signed(&sequence(&fields)))
}

/// Returns a copy of `certificate` whose signature algorithm is replaced by `algorithm`. The
/// signature itself is not changed.
#[must_use]
pub fn certificate_claiming(
    certificate: &CertificateDer<'_>,
    algorithm: &[u8],
) -> CertificateDer<'static> {
    // The fields before the algorithm are version and serialNumber.
    CertificateDer::from(claiming(certificate, Some(2), algorithm))
}

/// Returns a copy of a CRL whose signature algorithm is replaced by `algorithm`. The signature
/// itself is not changed.
#[must_use]
pub fn list_claiming(list: &[u8], algorithm: &[u8]) -> Vec<u8> {
    // The only field before the algorithm is version.
    claiming(list, Some(1), algorithm)
}

/// Returns a copy of a certificate request (RFC 2986) whose signature algorithm is replaced by
/// `algorithm`. The signature itself is not changed.
#[must_use]
pub fn request_claiming(request: &[u8], algorithm: &[u8]) -> Vec<u8> {
    claiming(request, None, algorithm)
}

/// Replaces the signature algorithm after the signed part. If `position` is given, also replaces
/// the field at this position of the signed part.
fn claiming(signed: &[u8], position: Option<usize>, algorithm: &[u8]) -> Vec<u8> {
    let mut parts = elements(signed);
    let algorithm = element(0x30, algorithm);
    if let Some(position) = position {
        let mut fields = elements(&parts[0]);
        fields[position].clone_from(&algorithm);
        parts[0] = sequence(&fields);
    }
    parts[1] = algorithm;
    sequence(&parts)
}
