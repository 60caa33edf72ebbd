//! Black-box tests of the real binary, and tests of the source tree.
//!
//! All tests are one crate. `gateway` starts `countersign serve`, most other folders run other
//! commands, and `architecture` and `repository` read the sources.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stderr,
    clippy::too_many_lines,
    clippy::large_futures,
    reason = "a test stops when its own preparations fail, and tells its story in one piece"
)]

mod architecture;
mod config;
mod control;
mod credentials;
mod explain;
mod fuzz;
mod gateway;
mod inputs;
mod keys;
mod limbo;
mod paths;
mod pki;
mod repository;
mod support;
mod tokens;
mod upstream;
