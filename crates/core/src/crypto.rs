//! The only module that names the cryptography provider.
//!
//! The provider is `ring` by default, and AWS-LC with the feature `aws-lc-rs`. If both features are
//! on, AWS-LC is used. All other modules get algorithms, digests and the rustls provider from this
//! module.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use zeroize::Zeroizing;

use crate::secret::Secret;

#[cfg(feature = "aws-lc-rs")]
use aws_lc_rs::{aead, hkdf};
#[cfg(feature = "aws-lc-rs")]
pub(crate) use aws_lc_rs::{digest, hmac, rand, signature};
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
use ring::{aead, hkdf};
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
pub(crate) use ring::{digest, hmac, rand, signature};

#[cfg(feature = "aws-lc-rs")]
mod key_schedule;

#[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
compile_error!("choose a cryptography provider: feature \"ring\" (default) or \"aws-lc-rs\"");

/// The name of the provider, for status and metrics.
pub const PROVIDER: &str = if cfg!(feature = "aws-lc-rs") {
    "aws-lc-rs"
} else {
    "ring"
};

/// The text that `--version` prints: the program's version and the provider's name.
pub const VERSION: &str = if cfg!(feature = "aws-lc-rs") {
    concat!(env!("CARGO_PKG_VERSION"), " (aws-lc-rs)")
} else {
    concat!(env!("CARGO_PKG_VERSION"), " (ring)")
};

/// Whether the provider reads compressed points of elliptic curves (SEC 1 section 2.3.3).
pub const COMPRESSED_POINTS: bool = cfg!(feature = "aws-lc-rs");

static RUSTLS_PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    #[cfg(feature = "aws-lc-rs")]
    let provider = key_schedule::provider(given_provider());
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    let provider = given_provider();
    Arc::new(provider)
});

/// Returns the cryptography provider as rustls configures it by default.
fn given_provider() -> CryptoProvider {
    #[cfg(feature = "aws-lc-rs")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    let provider = rustls::crypto::ring::default_provider();
    provider
}

/// Returns the cryptography provider that every rustls configuration of this process must use.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&RUSTLS_PROVIDER)
}

/// The error if the system's random generator could not be read.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the system's random generator does not answer")]
pub struct NoRandomness;

/// Fills an array with random bytes from the operating system.
///
/// # Errors
/// Returns [`NoRandomness`] if the system's random generator fails.
pub fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    use rand::SecureRandom as _;
    let mut bytes = [0_u8; N];
    rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// A store of random bytes for identifiers. Each thread has its own store.
struct Store {
    bytes: [u8; Self::SIZE],
    /// Number of bytes in the store that were not used yet.
    left: usize,
}

impl Store {
    const SIZE: usize = 1024;
}

thread_local! {
    static STORE: RefCell<Store> = const {
        RefCell::new(Store {
            bytes: [0; Store::SIZE],
            left: 0,
        })
    };
}

/// Returns 128 random bits for a public identifier. For speed, one call to the operating system
/// provides the bits for many identifiers, which stay in memory until they are used. For secrets,
/// use [`random`] instead.
///
/// # Errors
/// Returns [`NoRandomness`] if the system's random generator fails.
pub fn random_id() -> Result<[u8; 16], NoRandomness> {
    STORE.with_borrow_mut(|store| {
        if store.left < 16 {
            store.bytes = random()?;
            store.left = Store::SIZE;
        }
        store.left -= 16;
        let id = store
            .bytes
            .get(store.left..)
            .and_then(|rest| rest.first_chunk::<16>().copied());
        id.ok_or(NoRandomness)
    })
}

/// Computes the SHA-256 hash of `data`.
#[must_use]
pub fn sha256(data: &[u8]) -> [u8; 32] {
    sha256_of_parts([data])
}

/// Computes the SHA-256 hash of the concatenation of `parts`.
#[must_use]
pub fn sha256_of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let hash = context.finish();
    let mut output = [0_u8; 32];
    for (to, from) in output.iter_mut().zip(hash.as_ref()) {
        *to = *from;
    }
    output
}

/// Computes the SHA-1 hash of `data`. Use it only for the WebSocket handshake (RFC 6455 section
/// 4.2.2), which does not need a secure hash.
#[must_use]
pub fn sha1(data: &[u8]) -> [u8; 20] {
    let mut output = [0_u8; 20];
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, data);
    for (to, from) in output.iter_mut().zip(hash.as_ref()) {
        *to = *from;
    }
    output
}

/// Computes the HMAC-SHA-256 of `data` (RFC 2104).
#[must_use]
pub fn hmac_sha256(key: &[u8], data: &[u8]) -> [u8; 32] {
    let mut output = [0_u8; 32];
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    for (to, from) in output.iter_mut().zip(tag.as_ref()) {
        *to = *from;
    }
    output
}

/// Derives 32 bytes from a secret with HKDF-SHA-256 (RFC 5869). `info` names the purpose of the
/// derived bytes. Bytes for different purposes are unrelated.
///
/// # Errors
/// Returns [`ProviderFailed`] if the provider fails.
pub fn derive_key(secret: &[u8], info: &[u8]) -> Result<Zeroizing<[u8; 32]>, ProviderFailed> {
    let mut output = Zeroizing::new([0_u8; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"countersign")
        .extract(secret)
        .expand(&[info], hkdf::HKDF_SHA256)
        .and_then(|material| material.fill(&mut *output))
        .map_err(|_| ProviderFailed)?;
    Ok(output)
}

/// Encrypts and authenticates with AES-256-GCM and random nonces. One key may encrypt at most 2^32
/// messages.
pub struct SealingKey(aead::LessSafeKey);

impl SealingKey {
    /// Makes a key from 32 secret bytes.
    ///
    /// # Errors
    /// Returns [`ProviderFailed`] if the provider rejects the key.
    pub fn new(key: &[u8; 32]) -> Result<Self, ProviderFailed> {
        aead::UnboundKey::new(&aead::AES_256_GCM, key)
            .map(|key| Self(aead::LessSafeKey::new(key)))
            .map_err(|_| ProviderFailed)
    }

    /// Returns `header`, followed by the encrypted `parts`. The header is not encrypted, but
    /// [`Self::open`] fails if the header was changed. Returns `None` if the provider fails.
    #[must_use]
    pub fn seal(&self, header: &[u8], parts: &[&[u8]]) -> Option<Vec<u8>> {
        let nonce = random::<{ aead::NONCE_LEN }>().ok()?;
        let start = header.len() + nonce.len();
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut sealed = Vec::with_capacity(start + length + self.0.algorithm().tag_len());
        sealed.extend_from_slice(header);
        sealed.extend_from_slice(&nonce);
        for part in parts {
            sealed.extend_from_slice(part);
        }
        let (_, message) = sealed.split_at_mut_checked(start)?;
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, aead::Aad::from(header), message)
            .ok()?;
        sealed.extend_from_slice(tag.as_ref());
        Some(sealed)
    }

    /// Decrypts `sealed`, the bytes that followed `header` in the output of [`Self::seal`]. Returns
    /// `None` if `header` and `sealed` do not come from the same call of `seal` with this key.
    #[must_use]
    pub fn open(&self, header: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, message) = sealed.split_at_checked(aead::NONCE_LEN)?;
        let nonce = aead::Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut message = message.to_vec();
        let length = self
            .0
            .open_in_place(nonce, aead::Aad::from(header), &mut message)
            .ok()?
            .len();
        message.truncate(length);
        Some(message)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SealingKey(redacted)")
    }
}

/// Compares two byte strings. The time that this takes depends only on their lengths, not on their
/// content.
#[must_use]
pub fn constant_time_equal(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let difference = left
        .iter()
        .zip(right)
        .fold(0_u8, |sum, (l, r)| std::hint::black_box(sum | (l ^ r)));
    difference == 0
}

/// The signature scheme of a [`SigningKeyPair`]. Signatures of both schemes have 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureScheme {
    /// ECDSA with P-256 and SHA-256. A signature is `r ‖ s`.
    EcdsaP256Sha256,
    /// Ed25519 (RFC 8032).
    Ed25519,
}

/// The error if the provider could not make a key or a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cryptography provider failed")]
pub struct ProviderFailed;

/// The error for a private key that is damaged or has another type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the private key is damaged or of another kind")]
pub struct KeyRefused;

/// A key pair for signatures.
pub struct SigningKeyPair(KeyPair);

enum KeyPair {
    P256(signature::EcdsaKeyPair),
    Ed25519(signature::Ed25519KeyPair),
}

/// In PKCS#8 version 1, the bytes before the 32 bytes of an Ed25519 key (RFC 8410 section 7). ring
/// and AWS-LC write version 2, which few programs can read. The gateway therefore writes version 1
/// itself.
const ED25519_PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

impl SigningKeyPair {
    /// Makes a new private key, encoded as PKCS#8 in DER.
    ///
    /// # Errors
    /// Returns [`ProviderFailed`] if the system provides no random bytes.
    pub fn generate_pkcs8(scheme: SignatureScheme) -> Result<Secret, ProviderFailed> {
        match scheme {
            SignatureScheme::EcdsaP256Sha256 => signature::EcdsaKeyPair::generate_pkcs8(
                &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
                &rand::SystemRandom::new(),
            )
            .map(|document| Secret::new(document.as_ref().to_vec()))
            .map_err(|_| ProviderFailed),
            SignatureScheme::Ed25519 => {
                let seed = Zeroizing::new(random::<32>().map_err(|_| ProviderFailed)?);
                let mut document = Vec::with_capacity(48);
                document.extend_from_slice(&ED25519_PKCS8_PREFIX);
                document.extend_from_slice(&*seed);
                Ok(Secret::new(document))
            }
        }
    }

    /// Reads a private key from PKCS#8 in DER.
    ///
    /// # Errors
    /// Returns [`KeyRefused`] if the key is damaged or for another scheme.
    pub fn from_pkcs8(scheme: SignatureScheme, document: &[u8]) -> Result<Self, KeyRefused> {
        let pair = match scheme {
            SignatureScheme::EcdsaP256Sha256 => {
                let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
                #[cfg(feature = "aws-lc-rs")]
                let pair = signature::EcdsaKeyPair::from_pkcs8(algorithm, document);
                #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
                let pair = signature::EcdsaKeyPair::from_pkcs8(
                    algorithm,
                    document,
                    &rand::SystemRandom::new(),
                );
                pair.map(KeyPair::P256)
            }
            SignatureScheme::Ed25519 => {
                signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(document)
                    .map(KeyPair::Ed25519)
            }
        };
        pair.map(Self).map_err(|_| KeyRefused)
    }

    /// Returns the public key: an uncompressed SEC 1 point, or the 32 bytes of an Ed25519 key.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        use signature::KeyPair as _;
        match &self.0 {
            KeyPair::P256(pair) => pair.public_key().as_ref(),
            KeyPair::Ed25519(pair) => pair.public_key().as_ref(),
        }
    }

    /// Signs `message`.
    ///
    /// # Errors
    /// Returns [`ProviderFailed`] if the system provides no random bytes.
    pub fn sign(&self, message: &[u8]) -> Result<[u8; 64], ProviderFailed> {
        let signature = match &self.0 {
            KeyPair::P256(pair) => pair
                .sign(&rand::SystemRandom::new(), message)
                .map_err(|_| ProviderFailed)?,
            KeyPair::Ed25519(pair) => pair.sign(message),
        };
        signature.as_ref().try_into().map_err(|_| ProviderFailed)
    }
}

impl fmt::Debug for SigningKeyPair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match &self.0 {
            KeyPair::P256(_) => "SigningKeyPair(P-256, redacted)",
            KeyPair::Ed25519(_) => "SigningKeyPair(Ed25519, redacted)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_pair_is_read_back_for_its_own_scheme_only() {
        use SignatureScheme::{EcdsaP256Sha256, Ed25519};
        for (scheme, other, length) in [
            (EcdsaP256Sha256, Ed25519, 65),
            (Ed25519, EcdsaP256Sha256, 32),
        ] {
            let document = SigningKeyPair::generate_pkcs8(scheme).unwrap();
            let pair = SigningKeyPair::from_pkcs8(scheme, document.expose()).unwrap();
            assert_eq!(pair.public_key().len(), length);
            assert!(pair.sign(b"message").is_ok());
            assert!(SigningKeyPair::from_pkcs8(other, document.expose()).is_err());
            let half = &document.expose()[..document.expose().len() / 2];
            assert!(SigningKeyPair::from_pkcs8(scheme, half).is_err());
            assert!(!format!("{pair:?}").contains('['));
        }
    }

    #[test]
    fn ed25519_signs_as_rfc_8037_appendix_a_says() {
        let seed = [
            0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec,
            0x2c, 0xc4, 0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03,
            0x1c, 0xae, 0x7f, 0x60,
        ];
        let document = [&ED25519_PKCS8_PREFIX[..], &seed].concat();
        let pair = SigningKeyPair::from_pkcs8(SignatureScheme::Ed25519, &document).unwrap();
        let signature = pair
            .sign(b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc")
            .unwrap();
        assert_eq!(
            countersign_verify::jose::base64url_encode(&signature),
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
        );
    }

    #[test]
    fn hmac_is_that_of_rfc_4231_case_2() {
        let tag = hmac_sha256(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(tag.first_chunk::<4>(), Some(&[0x5b, 0xdc, 0xc1, 0x46]));
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_and_header_only() {
        let key = SealingKey::new(&[7; 32]).unwrap();
        let sealed = key.seal(b"head", &[b"mes", b"sage"]).unwrap();
        let (head, rest) = sealed.split_at(4);
        assert_eq!(head, b"head");
        assert_eq!(key.open(b"head", rest).unwrap(), b"message");
        assert!(key.open(b"Head", rest).is_none());
        assert!(
            SealingKey::new(&[8; 32])
                .unwrap()
                .open(head, rest)
                .is_none()
        );
        for length in 0..rest.len() {
            assert!(key.open(b"head", &rest[..length]).is_none());
        }
        assert_ne!(key.seal(b"head", &[b"message"]).unwrap(), sealed);
    }

    #[test]
    fn derived_keys_differ_by_secret_and_use() {
        let key = |secret: &[u8], info: &[u8]| *derive_key(secret, info).unwrap();
        assert_eq!(key(b"a", b"x"), key(b"a", b"x"));
        assert_ne!(key(b"a", b"x"), key(b"b", b"x"));
        assert_ne!(key(b"a", b"x"), key(b"a", b"y"));
    }

    #[test]
    fn equality_is_equality() {
        assert!(constant_time_equal(b"", b""));
        assert!(constant_time_equal(b"abc", b"abc"));
        assert!(!constant_time_equal(b"abc", b"abd"));
        assert!(!constant_time_equal(b"abc", b"ab"));
    }

    #[test]
    fn sha256_of_nothing() {
        assert_eq!(
            sha256(b"").first_chunk::<4>(),
            Some(&[0xe3, 0xb0, 0xc4, 0x42])
        );
    }
}
