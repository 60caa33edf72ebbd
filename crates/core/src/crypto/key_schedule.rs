//! The key schedule and transcript hash of TLS 1.3 (RFC 8446 sections 7.1 and 4.4.1), with the
//! SHA-2 and HMAC of RustCrypto.
//!
//! A handshake derives about thirty secrets, several of them from the same HMAC key. aws-lc-rs
//! processes the key again for each secret, and allocates memory each time. This code processes a
//! key once, and copies the resulting HMAC state for each secret. The rustls cryptography provider
//! does all other cryptography of a connection.

use std::marker::PhantomData;
use std::sync::OnceLock;

use hmac::digest::Digest;
use hmac::digest::common::Key as KeyBlock;
use hmac::{Hmac, KeyInit, Mac};
use rustls::crypto::hash::{Context, Hash, HashAlgorithm, Output};
use rustls::crypto::hmac::{Hmac as MakesKeys, Key, Tag};
use rustls::crypto::tls13::{Hkdf, HkdfUsingHmac};
use rustls::crypto::{CipherSuiteCommon, CryptoProvider};
use rustls::{SupportedCipherSuite, Tls13CipherSuite};
use sha2::{Sha256, Sha384};
use zeroize::Zeroize as _;

/// The HMAC type `M` (RFC 2104), which uses the hash function `D`.
struct HmacWith<M, D>(PhantomData<fn() -> (M, D)>);

/// The state of an HMAC computation after its key was processed, and before data was added.
struct Keyed<M>(M);

impl<M, D> MakesKeys for HmacWith<M, D>
where
    M: Mac + KeyInit + Clone + Send + Sync + 'static,
    D: Digest,
{
    fn with_key(&self, key: &[u8]) -> Box<dyn Key> {
        let mut block = KeyBlock::<M>::default();
        match block.get_mut(..key.len()) {
            Some(start) => start.copy_from_slice(key),
            None => {
                for (to, from) in block.iter_mut().zip(D::digest(key)) {
                    *to = from;
                }
            }
        }
        let keyed = Keyed(<M as KeyInit>::new(&block));
        block.as_mut_slice().zeroize();
        Box::new(keyed)
    }

    fn hash_output_len(&self) -> usize {
        <D as Digest>::output_size()
    }
}

impl<M: Mac + Clone + Send + Sync> Key for Keyed<M> {
    fn sign_concat(&self, first: &[u8], middle: &[&[u8]], last: &[u8]) -> Tag {
        let mut mac = self.0.clone();
        mac.update(first);
        for part in middle {
            mac.update(part);
        }
        mac.update(last);
        Tag::new(&mac.finalize().into_bytes())
    }

    fn tag_len(&self) -> usize {
        M::output_size()
    }
}

/// The hash function `D`, for the transcript hash.
struct HashWith<D>(HashAlgorithm, PhantomData<fn() -> D>);

/// A hash computation that is in progress.
#[derive(Clone)]
struct Hashing<D>(D);

impl<D: Digest + Clone + Send + Sync + 'static> Hash for HashWith<D> {
    fn start(&self) -> Box<dyn Context> {
        Box::new(Hashing(D::new()))
    }

    fn hash(&self, data: &[u8]) -> Output {
        Output::new(&D::digest(data))
    }

    fn output_len(&self) -> usize {
        <D as Digest>::output_size()
    }

    fn algorithm(&self) -> HashAlgorithm {
        self.0
    }
}

impl<D: Digest + Clone + Send + Sync + 'static> Context for Hashing<D> {
    fn fork_finish(&self) -> Output {
        Output::new(&self.0.clone().finalize())
    }

    fn fork(&self) -> Box<dyn Context> {
        Box::new(self.clone())
    }

    fn finish(self: Box<Self>) -> Output {
        Output::new(&self.0.finalize())
    }

    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }
}

static HASH_SHA256: HashWith<Sha256> = HashWith(HashAlgorithm::SHA256, PhantomData);
static HASH_SHA384: HashWith<Sha384> = HashWith(HashAlgorithm::SHA384, PhantomData);
static HMAC_SHA256: HmacWith<Hmac<Sha256>, Sha256> = HmacWith(PhantomData);
static HMAC_SHA384: HmacWith<Hmac<Sha384>, Sha384> = HmacWith(PhantomData);
static HKDF_SHA256: HkdfUsingHmac<'static> = HkdfUsingHmac(&HMAC_SHA256);
static HKDF_SHA384: HkdfUsingHmac<'static> = HkdfUsingHmac(&HMAC_SHA384);

/// Returns the hash function for `algorithm`, and a key schedule that uses this function. Returns
/// `None` for an unknown algorithm.
fn functions(algorithm: HashAlgorithm) -> Option<(&'static dyn Hash, &'static dyn Hkdf)> {
    match algorithm {
        HashAlgorithm::SHA256 => Some((&HASH_SHA256, &HKDF_SHA256)),
        HashAlgorithm::SHA384 => Some((&HASH_SHA384, &HKDF_SHA384)),
        _ => None,
    }
}

/// The cipher suites of the provider, in the provider's order. TLS 1.3 suites are changed so that
/// they use this key schedule. Other suites are unchanged.
static CIPHER_SUITES: OnceLock<Vec<Suite>> = OnceLock::new();

enum Suite {
    Ours(Tls13CipherSuite),
    Given(SupportedCipherSuite),
}

impl Suite {
    fn of(given: SupportedCipherSuite) -> Self {
        let ours = given.tls13().and_then(|suite| {
            let (hash_provider, hkdf_provider) = functions(suite.common.hash_provider.algorithm())?;
            Some(Tls13CipherSuite {
                common: CipherSuiteCommon {
                    suite: suite.common.suite,
                    hash_provider,
                    confidentiality_limit: suite.common.confidentiality_limit,
                },
                hkdf_provider,
                aead_alg: suite.aead_alg,
                quic: None,
            })
        });
        ours.map_or(Self::Given(given), Self::Ours)
    }
}

/// Returns the provider `given`, changed so that its TLS 1.3 suites use this key schedule.
pub(super) fn provider(given: CryptoProvider) -> CryptoProvider {
    let suites =
        CIPHER_SUITES.get_or_init(|| given.cipher_suites.iter().copied().map(Suite::of).collect());
    let suites = suites.iter().map(|suite| match suite {
        Suite::Ours(suite) => SupportedCipherSuite::Tls13(suite),
        Suite::Given(suite) => *suite,
    });
    CryptoProvider {
        cipher_suites: suites.collect(),
        ..given
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Calls all functions of a key schedule with the given inputs, and returns all outputs.
    fn outputs(
        hkdf: &dyn Hkdf,
        salt: Option<&[u8]>,
        secret: &[u8],
        info: &[&[u8]],
    ) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        for expander in [
            hkdf.extract_from_secret(salt, secret),
            hkdf.extract_from_zero_ikm(salt),
        ] {
            let block = expander.expand_block(info);
            found.push(block.as_ref().to_vec());
            for length in [12, 16, 32, 100] {
                let mut output = vec![0; length];
                expander.expand_slice(info, &mut output).unwrap();
                found.push(output);
            }
            found.push(hkdf.hmac_sign(&block, secret).as_ref().to_vec());
            let next = hkdf.expander_for_okm(&block);
            found.push(next.expand_block(&[b"next"]).as_ref().to_vec());
        }
        found
    }

    #[test]
    fn every_tls_1_3_suite_is_replaced_and_nothing_else_is() {
        let given = super::super::given_provider();
        let ours = provider(super::super::given_provider());
        assert_eq!(ours.cipher_suites, given.cipher_suites);
        for (ours, given) in ours.cipher_suites.iter().zip(&given.cipher_suites) {
            match (ours.tls13(), given.tls13()) {
                (Some(ours), Some(given)) => assert!(!std::ptr::eq(ours, given), "{ours:?}"),
                (ours, given) => assert_eq!(ours, given),
            }
        }
    }

    /// Returns the hash of all `pieces` together, computed in one call and piece by piece. Also
    /// returns the hash of every prefix, and of each prefix followed by other bytes.
    fn hashes(hash: &dyn Hash, pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut context = hash.start();
        let mut found = vec![hash.hash(&pieces.concat()).as_ref().to_vec()];
        for piece in pieces {
            found.push(context.fork_finish().as_ref().to_vec());
            let mut fork = context.fork();
            fork.update(b"elsewhere");
            found.push(fork.finish().as_ref().to_vec());
            context.update(piece);
        }
        found.push(context.finish().as_ref().to_vec());
        found
    }

    proptest! {
        #[test]
        fn it_derives_what_the_provider_derives(
            salt in proptest::option::of(vec(any::<u8>(), 0..200)),
            secret in vec(any::<u8>(), 0..200),
            info in vec(vec(any::<u8>(), 0..80), 0..5),
        ) {
            let info: Vec<&[u8]> = info.iter().map(Vec::as_slice).collect();
            let given = super::super::given_provider();
            let ours = provider(super::super::given_provider());
            for (ours, given) in ours.cipher_suites.iter().zip(&given.cipher_suites) {
                if let (Some(ours), Some(given)) = (ours.tls13(), given.tls13()) {
                    let hash = |suite: &Tls13CipherSuite| hashes(suite.common.hash_provider, &info);
                    prop_assert_eq!(hash(ours), hash(given));
                    prop_assert_eq!(
                        outputs(ours.hkdf_provider, salt.as_deref(), &secret, &info),
                        outputs(given.hkdf_provider, salt.as_deref(), &secret, &info)
                    );
                }
            }
        }
    }
}
