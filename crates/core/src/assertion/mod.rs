//! Identity assertions: signing keys, their public keys, and signing.
//!
//! - `own_assertion`: verifies an assertion of this gateway
//! - `signer`: signs claims about one request
//! - `caller_claims`: the claims about the caller, and which of them a long assertion leaves out
//! - `published`: the documents that the gateway publishes about its keys
//! - `key_directory`: creates, revokes and rotates the keys of a directory
//! - `key_ring`: next, current and retiring keys, in memory
//! - `key_files`: the files of a directory of keys
//! - `signing_key`: one key, ready to sign
//! - `key_record`: the recorded facts about a key, without the key itself
//! - `key_error`: why keys cannot be used or changed

mod caller_claims;
pub mod key_directory;
mod key_error;
mod key_files;
#[cfg(test)]
mod key_kill_tests;
pub mod key_record;
pub mod key_ring;
mod own_assertion;
pub mod published;
pub mod signer;
pub mod signing_key;

pub use caller_claims::{AssertionDetail, WANTED_PATH};
pub use key_files::RING_FILE;
pub use key_ring::{KeyRingError, SigningAlgorithm, SigningKey, SigningKeyRing};
pub use signer::{
    AssertionSettings, AssertionSigner, DEFAULT_MAX_SIZE, Recipient, SignedAssertion,
};
