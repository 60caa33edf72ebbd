//! The only module that names the cryptography provider.
//!
//! `ring` by default; AWS-LC where the feature `aws-lc-rs` is on (it wins when
//! both are). Everything else takes algorithms, digests and the rustls provider
//! from here.

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

#[cfg(feature = "aws-lc-rs")]
pub(crate) use aws_lc_rs::{digest, rand, signature};
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
pub(crate) use ring::{digest, rand, signature};

#[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
compile_error!("choose a cryptography provider: feature \"ring\" (default) or \"aws-lc-rs\"");

/// Name of the provider, for `--version` and benchmark records.
pub const PROVIDER: &str = if cfg!(feature = "aws-lc-rs") {
    "aws-lc-rs"
} else {
    "ring"
};

static RUSTLS_PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    #[cfg(feature = "aws-lc-rs")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(provider)
});

/// The provider for every rustls configuration of this process.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&RUSTLS_PROVIDER)
}

/// The system's random generator could not be read.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the system's random generator does not answer")]
pub struct NoRandomness;

/// Fills an array with random bytes from the operating system.
///
/// # Errors
/// [`NoRandomness`] when the system's generator fails.
pub fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    use rand::SecureRandom as _;
    let mut bytes = [0_u8; N];
    rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// SHA-256 of `data`.
#[must_use]
pub fn sha256(data: &[u8]) -> [u8; 32] {
    let mut output = [0_u8; 32];
    let hash = digest::digest(&digest::SHA256, data);
    for (to, from) in output.iter_mut().zip(hash.as_ref()) {
        *to = *from;
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_of_nothing() {
        assert_eq!(
            sha256(b"").first_chunk::<4>(),
            Some(&[0xe3, 0xb0, 0xc4, 0x42])
        );
    }
}
