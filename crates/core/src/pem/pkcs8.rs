//! Private keys in other encodings as PKCS#8 (RFC 5958), which all code behind this reader takes.
//!
//! The functions move bytes between encodings and check no key. What they cannot read stays as it
//! is, and the cryptography refuses it.

use zeroize::Zeroizing;

use crate::der::{Element, first, secret_element};

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// The parameters (the curve) and the public key of an ECPrivateKey (RFC 5915).
const PARAMETERS: u8 = 0xa0;
const PUBLIC_KEY: u8 = 0xa1;

/// id-ecPublicKey (1.2.840.10045.2.1) as an element.
const EC_PUBLIC_KEY: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// The AlgorithmIdentifier of rsaEncryption (1.2.840.113549.1.1.1) with NULL, without its header.
const RSA: [u8; 13] = [
    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];
const VERSION_0: [u8; 3] = [INTEGER, 1, 0];

/// Reads one element with this tag, with nothing after it. Returns its content.
fn only(der: &[u8], tag: u8) -> Option<&[u8]> {
    let (element, rest) = first(der)?;
    (element.tag == tag && rest.is_empty()).then_some(element.content)
}

/// Reads all elements of a content.
fn elements(mut content: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut found = Vec::new();
    while !content.is_empty() {
        let (element, rest) = first(content)?;
        found.push(element);
        content = rest;
    }
    Some(found)
}

fn wrap(algorithm: &[&[u8]], key: &[u8]) -> Zeroizing<Vec<u8>> {
    let algorithm = secret_element(SEQUENCE, algorithm);
    let key = secret_element(OCTET_STRING, &[key]);
    secret_element(SEQUENCE, &[&VERSION_0, &algorithm, &key])
}

/// Converts an ECPrivateKey (SEC 1, RFC 5915). Returns `None` if it does not name its curve.
pub(super) fn from_sec1(sec1: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let parts = elements(only(sec1, SEQUENCE)?)?;
    let parameters = parts.iter().find(|part| part.tag == PARAMETERS)?;
    only(parameters.content, OBJECT_IDENTIFIER)?;
    Some(wrap(&[&EC_PUBLIC_KEY, parameters.content], sec1))
}

/// Converts an RSAPrivateKey (PKCS#1, RFC 8017).
pub(super) fn from_pkcs1(pkcs1: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    only(pkcs1, SEQUENCE)?;
    Some(wrap(&[&RSA], pkcs1))
}

/// The parts of an EC key in PKCS#8 that lacks its public part.
struct Partial<'a> {
    algorithm: Element<'a>,
    /// The elements of the ECPrivateKey.
    key: Vec<Element<'a>>,
}

fn without_public_part(pkcs8: &[u8]) -> Option<Partial<'_>> {
    let parts = elements(only(pkcs8, SEQUENCE)?)?;
    let [version, algorithm, key, ..] = parts.as_slice() else {
        return None;
    };
    if version.whole != VERSION_0
        || algorithm.tag != SEQUENCE
        || !algorithm.content.starts_with(&EC_PUBLIC_KEY)
        || key.tag != OCTET_STRING
    {
        return None;
    }
    let key = elements(only(key.content, SEQUENCE)?)?;
    let is_partial = !key.iter().any(|part| part.tag == PUBLIC_KEY);
    is_partial.then_some(Partial {
        algorithm: *algorithm,
        key,
    })
}

/// Whether an EC key in PKCS#8 lacks its public part, as Java writes it.
#[must_use]
pub fn lacks_public_part(pkcs8: &[u8]) -> bool {
    without_public_part(pkcs8).is_some()
}

/// Adds the public part to an EC key in PKCS#8 that lacks it. `public` is the SubjectPublicKeyInfo
/// of the key's certificate. Returns `None` if the key lacks nothing, or is of another curve.
///
/// The cryptography checks that both parts belong together when it reads the key.
#[must_use]
pub fn with_public_part(pkcs8: &[u8], public: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let partial = without_public_part(pkcs8)?;
    let info = elements(only(public, SEQUENCE)?)?;
    let [algorithm, point] = info.as_slice() else {
        return None;
    };
    if algorithm.whole != partial.algorithm.whole || point.tag != BIT_STRING {
        return None;
    }
    let point = secret_element(PUBLIC_KEY, &[point.whole]);
    let mut parts: Vec<&[u8]> = partial.key.iter().map(|part| part.whole).collect();
    parts.push(&point);
    let key = secret_element(SEQUENCE, &parts);
    Some(wrap(&[partial.algorithm.content], &key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::der::element;

    const POINT: [u8; 3] = [BIT_STRING, 1, 0];
    const CURVE: [u8; 4] = [OBJECT_IDENTIFIER, 2, 0x2b, 0x65];

    fn ec(curve: bool, public: bool) -> Vec<u8> {
        let mut parts: Vec<Vec<u8>> = vec![vec![INTEGER, 1, 1], vec![OCTET_STRING, 2, 7, 7]];
        if curve {
            parts.push(element(PARAMETERS, &[&CURVE]));
        }
        if public {
            parts.push(element(PUBLIC_KEY, &[&POINT]));
        }
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        element(SEQUENCE, &parts)
    }

    #[test]
    fn the_public_part_comes_from_the_certificate() {
        let partial = from_sec1(&ec(true, false)).unwrap();
        assert!(lacks_public_part(&partial));
        let algorithm = element(SEQUENCE, &[&EC_PUBLIC_KEY, &CURVE]);
        let public = element(SEQUENCE, &[&algorithm, &POINT]);
        let whole = with_public_part(&partial, &public).unwrap();
        assert_eq!(whole, from_sec1(&ec(true, true)).unwrap());
        assert!(!lacks_public_part(&whole));
        assert!(with_public_part(&whole, &public).is_none());
        let other = element(SEQUENCE, &[&EC_PUBLIC_KEY, &[OBJECT_IDENTIFIER, 1, 0x2b]]);
        let other = element(SEQUENCE, &[&other, &POINT]);
        assert!(with_public_part(&partial, &other).is_none());
        assert!(from_sec1(&ec(false, true)).is_none());
    }

    #[test]
    fn any_bytes_are_refused_or_read() {
        let whole = from_sec1(&ec(true, false)).unwrap();
        for end in 0..whole.len() {
            let part = whole.get(..end).unwrap();
            assert!(
                !lacks_public_part(part) && from_sec1(part).is_none(),
                "{end}"
            );
        }
        for length in [0x80, 0x85, 0xff] {
            assert!(from_sec1(&[SEQUENCE, length, 1]).is_none());
        }
        let long = vec![0; 70_000];
        let key = from_pkcs1(&element(SEQUENCE, &[&long])).unwrap();
        let parts = elements(only(&key, SEQUENCE).unwrap()).unwrap();
        assert_eq!(parts.len(), 3);
    }
}
