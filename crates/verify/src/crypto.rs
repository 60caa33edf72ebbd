//! Cryptographic operations. This is the only file that names `ring` or `aws-lc-rs`.
//!
//! All functions that this crate needs have the same names in `ring` and in `aws-lc-rs`. Therefore
//! this file calls `backend`, which is an alias of one of the two libraries. If both features are
//! enabled, `backend` is `aws-lc-rs`. This file does not parse JOSE: its callers pass decoded
//! bytes.

#[cfg(feature = "aws-lc-rs")]
use aws_lc_rs as backend;
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
use ring as backend;

#[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
compile_error!("countersign-verify needs one of the features `ring` (the default) and `aws-lc-rs`");

use backend::{digest, signature};

/// The signature schemes for elliptic curve keys. One scheme may have several JOSE names.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scheme {
    /// ECDSA on P-256 with SHA-256; the signature is `r ‖ s`, 64 bytes.
    EcdsaP256,
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// ECDSA on P-384 with SHA-384; the signature is `r ‖ s`, 96 bytes.
    #[cfg(feature = "all-algorithms")]
    EcdsaP384,
}

/// The RSA signature schemes (RFC 8017). The modulus has 2048 to 8192 bits.
#[cfg(feature = "all-algorithms")]
#[derive(Clone, Copy, Debug)]
pub(crate) enum RsaScheme {
    Pkcs1Sha256,
    Pkcs1Sha384,
    Pkcs1Sha512,
    PssSha256,
    PssSha384,
    PssSha512,
}

/// Returns the SHA-256 of `data`.
pub(crate) fn sha256(data: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    for (to, from) in out
        .iter_mut()
        .zip(digest::digest(&digest::SHA256, data).as_ref())
    {
        *to = *from;
    }
    out
}

/// Returns whether `signature_octets` is a valid signature of `message` by `public_key`.
///
/// `public_key` is an uncompressed SEC 1 point (`04 ‖ x ‖ y`) or the 32 bytes
/// of an Ed25519 key. The library checks that the point is on its curve.
pub(crate) fn verify(
    scheme: Scheme,
    public_key: &[u8],
    message: &[u8],
    signature_octets: &[u8],
) -> bool {
    let algorithm: &'static dyn signature::VerificationAlgorithm = match scheme {
        Scheme::EcdsaP256 => &signature::ECDSA_P256_SHA256_FIXED,
        Scheme::Ed25519 => &signature::ED25519,
        #[cfg(feature = "all-algorithms")]
        Scheme::EcdsaP384 => &signature::ECDSA_P384_SHA384_FIXED,
    };
    signature::UnparsedPublicKey::new(algorithm, public_key)
        .verify(message, signature_octets)
        .is_ok()
}

/// Returns whether `signature_octets` is a valid signature of `message` by an RSA key.
/// `modulus` and `exponent` are big-endian numbers without leading zero bytes.
#[cfg(feature = "all-algorithms")]
pub(crate) fn verify_rsa(
    scheme: RsaScheme,
    modulus: &[u8],
    exponent: &[u8],
    message: &[u8],
    signature_octets: &[u8],
) -> bool {
    let parameters = match scheme {
        RsaScheme::Pkcs1Sha256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        RsaScheme::Pkcs1Sha384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        RsaScheme::Pkcs1Sha512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        RsaScheme::PssSha256 => &signature::RSA_PSS_2048_8192_SHA256,
        RsaScheme::PssSha384 => &signature::RSA_PSS_2048_8192_SHA384,
        RsaScheme::PssSha512 => &signature::RSA_PSS_2048_8192_SHA512,
    };
    signature::RsaPublicKeyComponents {
        n: modulus,
        e: exponent,
    }
    .verify(parameters, message, signature_octets)
    .is_ok()
}

/// Compares two byte strings in a time that depends only on their lengths.
pub(crate) fn constant_time_equal(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let difference = left
        .iter()
        .zip(right)
        .fold(0_u8, |sum, (l, r)| std::hint::black_box(sum | (l ^ r)));
    difference == 0
}

/// Returns the TLS cryptography provider for connections to the key server.
#[cfg(feature = "fetch")]
pub(crate) fn tls_provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    let provider = rustls::crypto::ring::default_provider();
    std::sync::Arc::new(provider)
}

#[cfg(test)]
mod tests {
    use base64ct::{Base64, Encoding};

    use super::{Scheme, constant_time_equal, verify};
    use crate::jose::base64url_decode;

    #[test]
    fn the_published_message_signature_verifies() {
        // The message, key and signature of RFC 9421 appendix B.2.6.
        let message = "\"date\": Tue, 20 Apr 2021 02:07:55 GMT\n\
            \"@method\": POST\n\
            \"@path\": /foo\n\
            \"@authority\": example.com\n\
            \"content-type\": application/json\n\
            \"content-length\": 18\n\
            \"@signature-params\": (\"date\" \"@method\" \"@path\" \"@authority\" \"content-type\" \"content-length\");created=1618884473;keyid=\"test-key-ed25519\"";
        let key = base64url_decode("JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs", "x").unwrap();
        let mut signature = Base64::decode_vec("wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==").unwrap();
        let good = |signature: &[u8]| verify(Scheme::Ed25519, &key, message.as_bytes(), signature);
        assert!(good(&signature));
        signature[0] ^= 1;
        assert!(!good(&signature));
    }

    #[test]
    fn the_signature_of_a_tls_proxy_verifies() {
        // The message of RFC 9421 appendix B.3, with the certificate of RFC 9440 appendix A.
        let message = "\"@path\": /foo\n\
            \"@query\": ?param=Value&Pet=dog\n\
            \"@method\": POST\n\
            \"@authority\": service.internal.example\n\
            \"client-cert\": :MIIBqDCCAU6gAwIBAgIBBzAKBggqhkjOPQQDAjA6MRswGQYDVQQKDBJMZXQncyBBdXRoZW50aWNhdGUxGzAZBgNVBAMMEkxBIEludGVybWVkaWF0ZSBDQTAeFw0yMDAxMTQyMjU1MzNaFw0yMTAxMjMyMjU1MzNaMA0xCzAJBgNVBAMMAkJDMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8YnXXfaUgmnMtOXU/IncWalRhebrXmckC8vdgJ1p5Be5F/3YC8OthxM4+k1M6aEAEFcGzkJiNy6J84y7uzo9M6NyMHAwCQYDVR0TBAIwADAfBgNVHSMEGDAWgBRm3WjLa38lbEYCuiCPct0ZaSED2DAOBgNVHQ8BAf8EBAMCBsAwEwYDVR0lBAwwCgYIKwYBBQUHAwIwHQYDVR0RAQH/BBMwEYEPYmRjQGV4YW1wbGUuY29tMAoGCCqGSM49BAMCA0gAMEUCIBHda/r1vaL6G3VliL4/Di6YK0Q6bMjeSkC3dFCOOB8TAiEAx/kHSB4urmiZ0NX5r5XarmPk0wmuydBVoU4hBVZ1yhk=:\n\
            \"@signature-params\": (\"@path\" \"@query\" \"@method\" \"@authority\" \"client-cert\");created=1618884473;keyid=\"test-key-ecc-p256\"";
        // The key of RFC 9421 appendix B.1.3, as an uncompressed SEC 1 point.
        let mut key = vec![4];
        for coordinate in [
            "qIVYZVLCrPZHGHjP17CTW0_-D9Lfw0EkjqF7xB4FivA",
            "Mc4nN9LTDOBhfoUeg8Ye9WedFRhnZXZJA12Qp0zZ6F0",
        ] {
            key.extend(base64url_decode(coordinate, "x").unwrap());
        }
        let mut signature = Base64::decode_vec("xVMHVpawaAC/0SbHrKRs9i8I3eOs5RtTMGCWXm/9nvZzoHsIg6Mce9315T6xoklyy0yzhD9ah4JHRwMLOgmizw==").unwrap();
        let good =
            |signature: &[u8]| verify(Scheme::EcdsaP256, &key, message.as_bytes(), signature);
        assert!(good(&signature));
        signature[63] ^= 1;
        assert!(!good(&signature));
    }

    #[test]
    fn equality_is_equality() {
        assert!(constant_time_equal(b"", b""));
        assert!(constant_time_equal(b"abc", b"abc"));
        assert!(!constant_time_equal(b"abc", b"abd"));
        assert!(!constant_time_equal(b"abc", b"ab"));
    }
}
