//! What tests share: runs of the program, gateways with what belongs around them, and
//! small tools.
//!
//! Helpers of one folder are in that folder's `mod.rs`. What two folders need is here,
//! or in `crates/testkit` if it does not depend on which program is tested.

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

pub(crate) use files::{Files, mode, named_pipe, obstruct, replace};
pub(crate) use http::{get_with, request, streaming, streaming_with};
pub(crate) use jws::{altered, assertion, assertion_claims, base64url, decode, thumbprint};
pub(crate) use program::{Run, countersign};
pub(crate) use reload::{change, generation, readyz, reloaded};
pub(crate) use revocation::{RevocationLists, revocable};
pub(crate) use trust::bundle_config;
pub(crate) use world::{Front, World, resident_kib};

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_countersign");
/// The host that requests are for unless a test says otherwise.
pub(crate) const HOST: &str = "orders.example.org";
/// The gateway's issuer in every test.
pub(crate) const ISSUER: &str = "https://gateway.example.org:9080";
/// The issuer of tokens that are checked with keys in a file.
pub(crate) const TOKEN_ISSUER: &str = "https://idp.example.org";
/// SPIFFE path of the caller that is allowed unless a test says otherwise.
pub(crate) const CALLER: &str = "/ns/shop/sa/checkout";

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The time, in seconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    countersign_core::clock::unix_now()
}
