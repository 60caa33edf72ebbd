//! RSA keys: checks their strength, and maps JOSE algorithms to signature schemes.

use super::{Algorithm, JoseError};
use crate::crypto::RsaScheme;

/// The primes for the ROCA test (CVE-2017-15361). For each of these primes, the moduli of the
/// flawed key generator are always congruent to a power of 65537.
const ROCA_PRIMES: [u32; 17] = [
    11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157,
];

/// Returns the signature scheme of an `RS…` or `PS…` algorithm.
pub(super) const fn scheme(algorithm: Algorithm) -> Option<RsaScheme> {
    match algorithm {
        Algorithm::Rs256 => Some(RsaScheme::Pkcs1Sha256),
        Algorithm::Rs384 => Some(RsaScheme::Pkcs1Sha384),
        Algorithm::Rs512 => Some(RsaScheme::Pkcs1Sha512),
        Algorithm::Ps256 => Some(RsaScheme::PssSha256),
        Algorithm::Ps384 => Some(RsaScheme::PssSha384),
        Algorithm::Ps512 => Some(RsaScheme::PssSha512),
        Algorithm::Es256 | Algorithm::EdDsa | Algorithm::Es384 => None,
    }
}

/// Refuses weak keys. RFC 7518 sections 3.3 and 6.3.1 require at least 2048 bits, no
/// leading zero bytes, and an odd exponent of 3 or more. In addition, a key may have at
/// most 8192 bits, to limit the verification time. Moduli from a key generator whose keys
/// can be factored (ROCA) are refused too.
pub(super) fn refuse_weak_key(modulus: &[u8], exponent: &[u8]) -> Result<(), JoseError> {
    let (Some(first), Some(last)) = (modulus.first(), modulus.last()) else {
        return Err(JoseError::WeakKey);
    };
    let bits = (modulus.len() * 8).saturating_sub(first.leading_zeros() as usize);
    let modulus_good = *first != 0 && last % 2 == 1 && (2048..=8192).contains(&bits);
    // The exponent may have at most 33 bits, because the cryptographic libraries accept no longer
    // exponents.
    let value = exponent
        .iter()
        .fold(0_u64, |sum, octet| (sum << 8) | u64::from(*octet));
    let exponent_good = exponent.len() <= 5
        && exponent.first().is_some_and(|octet| *octet != 0)
        && value % 2 == 1
        && (3..1 << 33).contains(&value);
    if modulus_good && exponent_good && !is_roca(modulus) {
        Ok(())
    } else {
        Err(JoseError::WeakKey)
    }
}

/// Returns whether the modulus is congruent to a power of 65537 for each of [`ROCA_PRIMES`]. A
/// random modulus has this property with a probability below 2⁻²⁷.
fn is_roca(modulus: &[u8]) -> bool {
    ROCA_PRIMES.iter().all(|prime| {
        let remainder = modulus
            .iter()
            .fold(0, |sum, octet| (sum * 256 + u32::from(*octet)) % prime);
        let mut power = 1;
        for _ in 0..*prime {
            if power == remainder {
                return true;
            }
            power = power * (65_537 % prime) % prime;
        }
        false
    })
}
