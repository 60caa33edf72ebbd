//! Checks whether public keys and signature algorithms are strong enough and supported.
//!
//! A key or an algorithm is supported if it is in the provider's list, because TLS handshakes use
//! the same list. The names of algorithms in this file are used only in messages.

use x509_parser::der_parser::asn1_rs::{Any, FromDer as _, Oid, Tag};
use x509_parser::prelude::X509Certificate;
use x509_parser::public_key::{ECPoint, PublicKey, RSAPublicKey};
use x509_parser::signature_algorithm::RsaSsaPssParams;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::error::PathError;
use crate::crypto;
use crate::identity::leaf::rfc4514;
use crate::reason::ReasonCode;

/// The reason why a key or a signature algorithm is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlgorithmError {
    /// The named algorithm is too weak.
    Weak(String),
    /// The provider does not support the named algorithm or key.
    Unsupported(String),
    /// The key cannot be read.
    Damaged,
}

impl AlgorithmError {
    /// Returns the reason code, and a sentence about `what`, for example "the key of CN=a".
    pub fn describe(&self, what: &str) -> PathError {
        match self {
            Self::Weak(name) => (ReasonCode::WeakKey, format!("{what} is too weak: {name}")),
            Self::Unsupported(name) => (
                ReasonCode::UnsupportedKey,
                format!("{what} is not supported: {name}"),
            ),
            Self::Damaged => (
                ReasonCode::MalformedIdentity,
                format!("{what} cannot be read"),
            ),
        }
    }
}

/// Minimum size of an RSA key, in bits. Smaller keys are too weak.
const MIN_RSA_BITS: usize = 2048;
/// Maximum size of an RSA key, in bits. The providers support no larger keys.
const MAX_RSA_BITS: usize = 8192;
/// Maximum public exponent of an RSA key that the providers support.
const MAX_RSA_EXPONENT: u64 = (1 << 33) - 1;
/// Minimum size of an elliptic curve, in bits. Smaller curves are too weak.
const MIN_CURVE_BITS: usize = 256;

/// Checks that the provider can verify signatures with a key. `key` is a SubjectPublicKeyInfo in
/// DER.
///
/// # Errors
/// Returns the reason why the key cannot be used.
pub fn check_key(key: &[u8]) -> Result<(), AlgorithmError> {
    let (_, info) = SubjectPublicKeyInfo::from_der(key).map_err(|_| AlgorithmError::Damaged)?;
    match info.parsed() {
        Ok(PublicKey::RSA(rsa)) => check_rsa_size(&rsa)?,
        Ok(PublicKey::EC(point)) => check_curve_size(&info, &point)?,
        Ok(PublicKey::DSA(_)) => return Err(AlgorithmError::Weak("DSA".to_owned())),
        Ok(_) => {}
        Err(_) => return Err(AlgorithmError::Damaged),
    }
    let algorithm = key_algorithm(key).ok_or(AlgorithmError::Damaged)?;
    let provider = crypto::provider();
    let mut known = provider.signature_verification_algorithms.all.iter();
    if !known.any(|known| known.public_key_alg_id().as_ref() == algorithm) {
        return Err(AlgorithmError::Unsupported(key_name(&info)));
    }
    match info.parsed() {
        Ok(PublicKey::RSA(rsa)) => check_rsa_form(&rsa),
        Ok(PublicKey::EC(point)) => check_point_form(&info, &point),
        _ => Ok(()),
    }
}

/// Returns the reason why the key of a certificate (in DER) cannot be used. Returns `None` if the
/// key can be used, or if the certificate cannot be read.
pub fn unusable_key(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let error = check_key(certificate.public_key().raw).err()?;
    let subject = rfc4514(certificate.subject());
    Some(error.describe(&format!("the key of {subject}")).1)
}

fn check_rsa_size(rsa: &RSAPublicKey<'_>) -> Result<(), AlgorithmError> {
    let bits = rsa.key_size();
    if bits < MIN_RSA_BITS {
        return Err(AlgorithmError::Weak(format!("RSA with {bits} bits")));
    }
    Ok(())
}

fn check_rsa_form(rsa: &RSAPublicKey<'_>) -> Result<(), AlgorithmError> {
    let bits = rsa.key_size();
    if bits > MAX_RSA_BITS {
        return Err(AlgorithmError::Unsupported(format!("RSA with {bits} bits")));
    }
    let is_supported = |exponent| (3..=MAX_RSA_EXPONENT).contains(&exponent) && exponent % 2 == 1;
    if !rsa.try_exponent().is_ok_and(is_supported) {
        return Err(AlgorithmError::Unsupported(
            "RSA with an exponent that is even, less than 3, or longer than 33 bits".to_owned(),
        ));
    }
    Ok(())
}

fn check_curve_size(
    info: &SubjectPublicKeyInfo<'_>,
    point: &ECPoint<'_>,
) -> Result<(), AlgorithmError> {
    let bits = match curve(info) {
        Some(curve) => curve.bytes * 8,
        // x509-parser reports the size 0 for a point in an unknown form. The size is not checked
        // then. This curve is unknown, so the key is refused later as unsupported.
        None if point.key_size() == 0 => return Ok(()),
        None => point.key_size(),
    };
    if bits < MIN_CURVE_BITS {
        return Err(AlgorithmError::Weak(key_name(info)));
    }
    Ok(())
}

/// Checks the encoding of a point (SEC 1 section 2.3.3). RFC 5480 section 2.2 allows two forms:
/// uncompressed and compressed.
fn check_point_form(
    info: &SubjectPublicKeyInfo<'_>,
    point: &ECPoint<'_>,
) -> Result<(), AlgorithmError> {
    let bytes = curve(info).ok_or(AlgorithmError::Damaged)?.bytes;
    match point.data() {
        [4, rest @ ..] if rest.len() == 2 * bytes => Ok(()),
        [2 | 3, rest @ ..] if rest.len() == bytes => match crypto::COMPRESSED_POINTS {
            true => Ok(()),
            false => Err(AlgorithmError::Unsupported(format!(
                "{} with a compressed point",
                key_name(info)
            ))),
        },
        _ => Err(AlgorithmError::Damaged),
    }
}

/// Checks that the provider can verify signatures with an algorithm. `algorithm` is the content of
/// an AlgorithmIdentifier.
///
/// # Errors
/// Returns the reason why the algorithm cannot be used.
pub fn check_signature(algorithm: &[u8]) -> Result<(), AlgorithmError> {
    let provider = crypto::provider();
    let mut known = provider.signature_verification_algorithms.all.iter();
    if known.any(|known| known.signature_alg_id().as_ref() == algorithm) {
        return Ok(());
    }
    let Some((oid, parameters)) = read_oid(algorithm) else {
        return Err(AlgorithmError::Unsupported(
            "unreadable algorithm".to_owned(),
        ));
    };
    if let Some((_, name)) = WEAK_SIGNATURES.iter().find(|(weak, _)| *weak == oid) {
        return Err(AlgorithmError::Weak((*name).to_owned()));
    }
    if oid == RSA_PSS {
        return Err(check_pss(parameters));
    }
    let name = SIGNATURES.iter().find(|(known, _)| *known == oid);
    let name = name.map_or_else(|| unknown(&oid), |(_, name)| (*name).to_owned());
    let mut known = provider.signature_verification_algorithms.all.iter();
    let same_name = known.any(|known| {
        read_oid(known.signature_alg_id().as_ref()).is_some_and(|(known, _)| known == oid)
    });
    Err(AlgorithmError::Unsupported(match same_name {
        true => format!("{name} with parameters that it must not have"),
        false => name,
    }))
}

/// Returns the reason why RSASSA-PSS with these parameters cannot be used. All providers demand
/// that the message and the mask use the same hash, and that the salt is as long as the hash.
fn check_pss(parameters: &[u8]) -> AlgorithmError {
    let unsupported = AlgorithmError::Unsupported;
    let parsed = Any::from_der(parameters).ok();
    let parsed = parsed.and_then(|(_, any)| {
        let parsed = RsaSsaPssParams::try_from(&any).ok()?;
        Some((
            parsed.hash_algorithm_oid().to_id_string(),
            parsed.salt_length(),
        ))
    });
    // RFC 4055 section 3.1: without parameters, the hash is SHA-1.
    let (hash, salt) = match parsed {
        Some(parsed) => parsed,
        None if parameters.is_empty() => (SHA_1.to_owned(), 20),
        None => return unsupported("RSA-PSS with parameters that cannot be read".to_owned()),
    };
    match HASHES.iter().find(|(oid, ..)| *oid == hash) {
        Some((_, "SHA-1", _)) => AlgorithmError::Weak("RSA-PSS with SHA-1".to_owned()),
        Some((_, name, length)) if salt != *length => unsupported(format!(
            "RSA-PSS with {name} and a salt of {salt} bytes, {length} are supported"
        )),
        Some((_, name, _)) => unsupported(format!(
            "RSA-PSS with {name} and another mask or trailer than usual"
        )),
        None => unsupported(format!("RSA-PSS with hash {hash}")),
    }
}

/// Returns the name of a key's algorithm. For a key on an elliptic curve, returns the name of the
/// curve.
pub fn key_name(info: &SubjectPublicKeyInfo<'_>) -> String {
    let oid = info.algorithm.algorithm.to_id_string();
    if let Some(curve) = curve(info) {
        return curve.name.to_owned();
    }
    if oid == EC_PUBLIC_KEY {
        return match curve_oid(info) {
            Some(oid) => format!("unknown curve {oid}"),
            None => "explicit curve parameters".to_owned(),
        };
    }
    match KEYS.iter().find(|(known, _)| *known == oid) {
        Some((_, name)) => (*name).to_owned(),
        None => unknown(&oid),
    }
}

fn unknown(oid: &str) -> String {
    format!("unknown algorithm {oid}")
}

/// Returns the content of the AlgorithmIdentifier of a key.
fn key_algorithm(key: &[u8]) -> Option<&[u8]> {
    let (_, whole) = Any::from_der(key).ok()?;
    let (_, algorithm) = Any::from_der(whole.data).ok()?;
    Some(algorithm.data)
}

/// Reads an OBJECT IDENTIFIER. Returns it with the remaining input.
fn read_oid(der: &[u8]) -> Option<(String, &[u8])> {
    let (rest, any) = Any::from_der(der).ok()?;
    Some((oid_of(&any)?, rest))
}

fn oid_of(any: &Any<'_>) -> Option<String> {
    // `Oid::try_from` does not check the tag.
    if any.tag() != Tag::Oid {
        return None;
    }
    Some(Oid::try_from(any).ok()?.to_id_string())
}

fn curve_oid(info: &SubjectPublicKeyInfo<'_>) -> Option<String> {
    oid_of(info.algorithm.parameters.as_ref()?)
}

fn curve(info: &SubjectPublicKeyInfo<'_>) -> Option<&'static Curve> {
    if info.algorithm.algorithm.to_id_string() != EC_PUBLIC_KEY {
        return None;
    }
    let oid = curve_oid(info)?;
    CURVES.iter().find(|curve| curve.oid == oid)
}

/// A named elliptic curve.
struct Curve {
    oid: &'static str,
    name: &'static str,
    /// Length in bytes of one coordinate of a point.
    bytes: usize,
}

const fn named(oid: &'static str, name: &'static str, bytes: usize) -> Curve {
    Curve { oid, name, bytes }
}

const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
const RSA_PSS: &str = "1.2.840.113549.1.1.10";
const SHA_1: &str = "1.3.14.3.2.26";

/// Named curves, for example from RFC 5480 section 2.1.1.1, SEC 2 and RFC 5639.
static CURVES: [Curve; 13] = [
    named("1.2.840.10045.3.1.1", "P-192", 24),
    named("1.3.132.0.33", "P-224", 28),
    named("1.2.840.10045.3.1.7", "P-256", 32),
    named("1.3.132.0.34", "P-384", 48),
    named("1.3.132.0.35", "P-521", 66),
    named("1.3.132.0.10", "secp256k1", 32),
    named("1.3.36.3.3.2.8.1.1.5", "brainpoolP224r1", 28),
    named("1.3.36.3.3.2.8.1.1.7", "brainpoolP256r1", 32),
    named("1.3.36.3.3.2.8.1.1.9", "brainpoolP320r1", 40),
    named("1.3.36.3.3.2.8.1.1.11", "brainpoolP384r1", 48),
    named("1.3.36.3.3.2.8.1.1.13", "brainpoolP512r1", 64),
    named("1.2.156.10197.1.301", "SM2", 32),
    named("1.3.36.3.3.2.8.1.1.8", "brainpoolP256t1", 32),
];

/// Names of key algorithms without a named curve.
const KEYS: [(&str, &str); 11] = [
    ("1.2.840.113549.1.1.1", "RSA with unusual parameters"),
    (RSA_PSS, "RSASSA-PSS"),
    ("1.2.840.113549.1.1.7", "RSAES-OAEP"),
    ("1.2.840.10040.4.1", "DSA"),
    ("1.3.101.110", "X25519"),
    ("1.3.101.111", "X448"),
    ("1.3.101.112", "Ed25519"),
    ("1.3.101.113", "Ed448"),
    ("2.16.840.1.101.3.4.3.17", "ML-DSA-44"),
    ("2.16.840.1.101.3.4.3.18", "ML-DSA-65"),
    ("2.16.840.1.101.3.4.3.19", "ML-DSA-87"),
];

const WEAK_SIGNATURES: [(&str, &str); 6] = [
    ("1.2.840.113549.1.1.2", "RSA with MD2"),
    ("1.2.840.113549.1.1.4", "RSA with MD5"),
    ("1.2.840.113549.1.1.5", "RSA with SHA-1"),
    ("1.3.14.3.2.29", "RSA with SHA-1"),
    ("1.2.840.10045.4.1", "ECDSA with SHA-1"),
    ("1.2.840.10040.4.3", "DSA with SHA-1"),
];

const SIGNATURES: [(&str, &str); 22] = [
    ("1.2.840.113549.1.1.11", "RSA with SHA-256"),
    ("1.2.840.113549.1.1.12", "RSA with SHA-384"),
    ("1.2.840.113549.1.1.13", "RSA with SHA-512"),
    ("1.2.840.113549.1.1.14", "RSA with SHA-224"),
    ("1.2.840.113549.1.1.15", "RSA with SHA-512/224"),
    ("1.2.840.113549.1.1.16", "RSA with SHA-512/256"),
    ("1.2.840.10045.4.3.1", "ECDSA with SHA-224"),
    ("1.2.840.10045.4.3.2", "ECDSA with SHA-256"),
    ("1.2.840.10045.4.3.3", "ECDSA with SHA-384"),
    ("1.2.840.10045.4.3.4", "ECDSA with SHA-512"),
    ("2.16.840.1.101.3.4.3.1", "DSA with SHA-224"),
    ("2.16.840.1.101.3.4.3.2", "DSA with SHA-256"),
    ("2.16.840.1.101.3.4.3.10", "ECDSA with SHA3-256"),
    ("2.16.840.1.101.3.4.3.11", "ECDSA with SHA3-384"),
    ("2.16.840.1.101.3.4.3.12", "ECDSA with SHA3-512"),
    ("2.16.840.1.101.3.4.3.14", "RSA with SHA3-256"),
    ("2.16.840.1.101.3.4.3.17", "ML-DSA-44"),
    ("2.16.840.1.101.3.4.3.18", "ML-DSA-65"),
    ("2.16.840.1.101.3.4.3.19", "ML-DSA-87"),
    ("1.2.156.10197.1.501", "SM2 with SM3"),
    ("1.3.101.112", "Ed25519"),
    ("1.3.101.113", "Ed448"),
];

/// Hashes of RSA-PSS: the OID, the name, and the length of the output in bytes.
const HASHES: [(&str, &str, u32); 5] = [
    (SHA_1, "SHA-1", 20),
    ("2.16.840.1.101.3.4.2.4", "SHA-224", 28),
    ("2.16.840.1.101.3.4.2.1", "SHA-256", 32),
    ("2.16.840.1.101.3.4.2.2", "SHA-384", 48),
    ("2.16.840.1.101.3.4.2.3", "SHA-512", 64),
];

#[cfg(test)]
mod tests {
    use countersign_testkit::der::{element, sequence};

    use super::*;

    const OID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
    const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
    const OID_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
    const NULL: &[u8] = &[5, 0];
    const P_256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    const P_384: &[u8] = &[0x2b, 0x81, 4, 0, 34];
    const P_521: &[u8] = &[0x2b, 0x81, 4, 0, 35];

    fn spki(algorithm: &[u8], parameters: &[u8], key: &[u8]) -> Vec<u8> {
        sequence(&[
            sequence(&[element(6, algorithm), parameters.to_vec()]),
            element(3, &[&[0][..], key].concat()),
        ])
    }

    /// Returns a key on a curve. `form` is the first byte of the point, and `bytes` other bytes
    /// follow.
    fn point(curve: &[u8], form: u8, bytes: usize) -> Vec<u8> {
        let point = [vec![form], vec![7; bytes]].concat();
        spki(OID_EC, &element(6, curve), &point)
    }

    fn rsa(parameters: &[u8], bytes: usize, exponent: &[u8]) -> Vec<u8> {
        let modulus = [vec![0], vec![0xff; bytes]].concat();
        let key = sequence(&[element(2, &modulus), element(2, exponent)]);
        spki(OID_RSA, parameters, &key)
    }

    fn unsupported(name: &str) -> Result<(), AlgorithmError> {
        Err(AlgorithmError::Unsupported(name.to_owned()))
    }

    fn weak(name: &str) -> Result<(), AlgorithmError> {
        Err(AlgorithmError::Weak(name.to_owned()))
    }

    #[test]
    fn keys_of_the_provider_are_accepted() {
        for key in [
            point(P_256, 4, 64),
            point(P_384, 4, 96),
            spki(&[0x2b, 0x65, 0x70], &[], &[7; 32]),
            rsa(NULL, 256, &[1, 0, 1]),
            rsa(NULL, 1024, &[3]),
        ] {
            assert_eq!(check_key(&key), Ok(()));
        }
        let p_521 = check_key(&point(P_521, 4, 132));
        let compressed = check_key(&point(P_256, 3, 32));
        if crypto::PROVIDER == "ring" {
            assert_eq!(p_521, unsupported("P-521"));
            assert_eq!(compressed, unsupported("P-256 with a compressed point"));
        } else {
            assert_eq!((p_521, compressed), (Ok(()), Ok(())));
        }
    }

    #[test]
    fn other_keys_are_named() {
        let brainpool: &[u8] = &[0x2b, 0x24, 3, 3, 2, 8, 1, 1, 7];
        for (key, expected) in [
            (
                point(&[0x2b, 0x81, 4, 0, 10], 4, 64),
                unsupported("secp256k1"),
            ),
            (point(brainpool, 4, 64), unsupported("brainpoolP256r1")),
            (point(brainpool, 2, 32), unsupported("brainpoolP256r1")),
            (point(&[0x2b, 0x81, 4, 0, 33], 4, 56), weak("P-224")),
            (
                spki(OID_EC, &sequence(&[]), &[&[4][..], &[7; 64]].concat()),
                unsupported("explicit curve parameters"),
            ),
            (
                spki(&[0x2b, 0x65, 0x71], &[], &[7; 57]),
                unsupported("Ed448"),
            ),
            (spki(OID_PSS, &[], &[7; 32]), unsupported("RSASSA-PSS")),
            (rsa(NULL, 128, &[1, 0, 1]), weak("RSA with 1024 bits")),
            (
                rsa(&[], 256, &[1, 0, 1]),
                unsupported("RSA with unusual parameters"),
            ),
            (
                rsa(NULL, 2048, &[1, 0, 1]),
                unsupported("RSA with 16384 bits"),
            ),
            (
                rsa(NULL, 256, &[2]),
                unsupported(
                    "RSA with an exponent that is even, less than 3, or longer than 33 bits",
                ),
            ),
            (
                spki(&[0x2b, 6], &[], &[7]),
                unsupported("unknown algorithm 1.3.6"),
            ),
            (point(P_256, 6, 64), Err(AlgorithmError::Damaged)),
            (point(P_256, 4, 63), Err(AlgorithmError::Damaged)),
            (point(P_384, 4, 64), Err(AlgorithmError::Damaged)),
            (spki(OID_RSA, NULL, &[7]), Err(AlgorithmError::Damaged)),
            (vec![0x30, 0], Err(AlgorithmError::Damaged)),
        ] {
            assert_eq!(check_key(&key), expected);
        }
    }

    #[test]
    fn signatures_are_named() {
        let ecdsa = |hash: u8| element(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, hash]);
        let rsa = |hash: u8| element(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, hash]);
        let with_null = |oid: Vec<u8>| [&oid[..], NULL].concat();
        for good in [
            ecdsa(2),
            ecdsa(3),
            with_null(rsa(11)),
            rsa(11),
            with_null(rsa(13)),
        ] {
            assert_eq!(check_signature(&good), Ok(()));
        }
        let sha_512 = check_signature(&ecdsa(4));
        match crypto::PROVIDER {
            "ring" => assert_eq!(sha_512, unsupported("ECDSA with SHA-512")),
            _ => assert_eq!(sha_512, Ok(())),
        }
        for (algorithm, expected) in [
            (
                with_null(ecdsa(2)),
                unsupported("ECDSA with SHA-256 with parameters that it must not have"),
            ),
            (ecdsa(1), unsupported("ECDSA with SHA-224")),
            (with_null(rsa(5)), weak("RSA with SHA-1")),
            (with_null(rsa(14)), unsupported("RSA with SHA-224")),
            (element(6, &[0x2b, 0x65, 0x71]), unsupported("Ed448")),
            (
                element(6, &[0x2b, 6]),
                unsupported("unknown algorithm 1.3.6"),
            ),
            (vec![1], unsupported("unreadable algorithm")),
        ] {
            assert_eq!(check_signature(&algorithm), expected);
        }
    }

    /// Returns the algorithm RSASSA-PSS with SHA-256 and a salt of `salt` bytes.
    fn pss(salt: u8) -> Vec<u8> {
        let sha_256 = [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
        let hash = sequence(&[element(6, &sha_256), NULL.to_vec()]);
        let mgf_1 = element(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 8]);
        let salt = if salt > 127 {
            vec![0, salt]
        } else {
            vec![salt]
        };
        let parameters = sequence(&[
            element(0xa0, &hash),
            element(0xa1, &sequence(&[mgf_1, hash.clone()])),
            element(0xa2, &element(2, &salt)),
        ]);
        [element(6, OID_PSS), parameters].concat()
    }

    #[test]
    fn the_salt_of_rsa_pss_is_named() {
        assert_eq!(check_signature(&pss(32)), Ok(()));
        let expected = "RSA-PSS with SHA-256 and a salt of 222 bytes, 32 are supported";
        assert_eq!(check_signature(&pss(222)), unsupported(expected));
        let without = element(6, OID_PSS);
        assert_eq!(check_signature(&without), weak("RSA-PSS with SHA-1"));
        let empty = [without.clone(), sequence(&[])].concat();
        assert_eq!(check_signature(&empty), weak("RSA-PSS with SHA-1"));
        let damaged = [&without[..], NULL].concat();
        let expected = "RSA-PSS with parameters that cannot be read";
        assert_eq!(check_signature(&damaged), unsupported(expected));
    }
}
