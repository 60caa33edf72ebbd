//! Tests of the public interface. Each file tests one subject.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stderr,
    reason = "a test that cannot go on should panic and say why"
)]

mod conformance;
#[cfg(feature = "fetch")]
mod fetch;
#[cfg(feature = "tower")]
mod layer;
mod properties;
#[cfg(feature = "fetch")]
mod shared_fetches;
mod support;
mod vectors;
mod verifier;
