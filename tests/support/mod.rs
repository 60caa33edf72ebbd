//! Helpers that several folders of tests use: runs of the program, gateways with callers and
//! services, and small functions.
//!
//! Helpers that only one folder uses are in that folder's `mod.rs`. Helpers that do not depend
//! on the tested program are in `crates/testkit`.

mod curl;
mod files;
mod http;
mod jws;
mod program;
mod reload;
mod revocation;
pub(crate) mod script;
mod trust;
mod world;

use std::path::PathBuf;

pub(crate) use curl::Curl;
pub(crate) use files::{Files, mode, named_pipe, obstruct, replace};
pub(crate) use http::{get_with, request, streaming, streaming_with};
pub(crate) use jws::{altered, assertion, assertion_claims, base64url, decode, thumbprint};
pub(crate) use program::{Run, copy_program, countersign};
pub(crate) use reload::{change, generation, readyz, reloaded};
pub(crate) use revocation::{RevocationLists, revocable};
pub(crate) use trust::bundle_config;
pub(crate) use world::{Front, World, resident_kib};

/// The path of the binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_countersign");
/// The host in requests, unless a test uses another host.
pub(crate) const HOST: &str = "orders.example.org";
/// The issuer of the gateway's assertions in every test.
pub(crate) const ISSUER: &str = "https://gateway.example.org:9080";
/// The issuer of tokens that the gateway verifies with keys in a file.
pub(crate) const TOKEN_ISSUER: &str = "https://idp.example.org";
/// The SPIFFE path of the allowed caller, unless a test uses another caller.
pub(crate) const CALLER: &str = "/ns/shop/sa/checkout";

/// Returns the root directory of the repository.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the current time in seconds since 1970.
pub(crate) fn now() -> u64 {
    countersign_core::clock::unix_now()
}
