//! Parts that several commands share.
//!
//! - `gateway_args`: arguments that select a running gateway
//! - `admin_client`: sends a request to a running gateway
//! - `certificate_files`: reads certificates and private keys from files
//! - `passphrase`: reads passphrases
//! - `token_file`: reads access tokens from files
//! - `input`: reads a file, or standard input for `-`
//! - `config_loading`: loads a configuration
//! - `recording_verifier`: records the certificates that a TLS server presents
//! - `format`: formats times, and quotes arguments for a shell
//! - `output`: prints results, and defines the exit codes

pub(super) mod admin_client;
pub(super) mod certificate_files;
pub(super) mod config_loading;
pub(super) mod format;
pub(super) mod gateway_args;
pub(super) mod input;
pub mod output;
pub(super) mod passphrase;
pub(super) mod recording_verifier;
pub(super) mod token_file;
