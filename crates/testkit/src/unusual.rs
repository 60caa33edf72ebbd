//! Keys and signature algorithms that rcgen does not make, in certificates, lists and requests.
//!
//! The keys are of no use to anybody: their bytes are arbitrary.

use rustls_pki_types::CertificateDer;

use crate::ca::Authority;
use crate::der::{element, elements, sequence};

const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const RSASSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
const NULL: &[u8] = &[5, 0];

/// ecdsa-with-SHA224 (RFC 5758 section 3.2), as the content of an AlgorithmIdentifier. No
/// provider verifies it.
pub const ECDSA_SHA224: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 1];
/// ecdsa-with-SHA512. AWS-LC verifies it, ring does not.
pub const ECDSA_SHA512: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4];
/// ecdsa-with-SHA1, which is too weak.
pub const ECDSA_SHA1: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];

fn key(algorithm: &[u8], parameters: &[u8], content: &[u8]) -> Vec<u8> {
    sequence(&[
        sequence(&[element(6, algorithm), parameters.to_vec()]),
        element(3, &[&[0][..], content].concat()),
    ])
}

/// A key on the curve with this OID; `form` is the first byte of the point.
fn point(curve: &[u8], form: u8, bytes: usize) -> Vec<u8> {
    let content = [vec![form], vec![7; bytes]].concat();
    key(EC, &element(6, curve), &content)
}

/// Keys (SubjectPublicKeyInfo, DER) under which no provider verifies a signature, with the name of
/// their algorithm.
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

/// Keys that AWS-LC supports and ring does not.
#[must_use]
pub fn keys_beyond_ring() -> Vec<(&'static str, Vec<u8>)> {
    let p_256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    vec![
        ("P-521", point(&[0x2b, 0x81, 4, 0, 35], 4, 132)),
        ("P-256 with a compressed point", point(&p_256, 2, 32)),
    ]
}

/// A certificate of `issuer` for another key.
#[must_use]
pub fn with_key(
    issuer: &Authority,
    certificate: &CertificateDer<'_>,
    key: &[u8],
) -> CertificateDer<'static> {
    let mut fields = elements(&elements(certificate)[0]);
    // After version, serialNumber, signature, issuer, validity and subject.
    fields[6] = key.to_vec();
    CertificateDer::from(issuer.signed(&sequence(&fields)))
}

/// A certificate that claims to be signed with this algorithm.
#[must_use]
pub fn certificate_claiming(
    certificate: &CertificateDer<'_>,
    algorithm: &[u8],
) -> CertificateDer<'static> {
    // After version and serialNumber.
    CertificateDer::from(claiming(certificate, Some(2), algorithm))
}

/// A revocation list that claims to be signed with this algorithm.
#[must_use]
pub fn list_claiming(list: &[u8], algorithm: &[u8]) -> Vec<u8> {
    // After version.
    claiming(list, Some(1), algorithm)
}

/// A request (RFC 2986) that claims to be signed with this algorithm.
#[must_use]
pub fn request_claiming(request: &[u8], algorithm: &[u8]) -> Vec<u8> {
    claiming(request, None, algorithm)
}

/// Replaces the algorithm after the message, and in the message if it is there too.
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
