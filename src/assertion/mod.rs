//! Identity assertions: signing keys, their published half, and signing.

pub mod key_directory;
mod key_error;
mod key_files;
#[cfg(test)]
mod key_kill_tests;
pub mod key_record;
pub mod key_ring;
mod own;
pub mod published;
pub mod signer;
pub mod signing_key;

pub use key_files::RING_FILE;
pub use key_ring::{KeyRingError, SigningAlgorithm, SigningKey, SigningKeyRing};
pub use signer::{AssertionSettings, AssertionSigner, SignedAssertion};
