//! Lints: what is wrong or unwise about a certificate or a revocation list,
//! beyond what a verifier has to refuse.
//!
//! An error means that a standard forbids it or that gateways refuse it; such a
//! leaf is not issued. A warning means that it works, and that one would rather
//! not. Nothing here decides about trust: see `crate::trust`.
//!
//! - `certificate`: lints of certificates
//! - `names`: lints of the names of a leaf
//! - `revocation_list`: lints of revocation lists
//! - `subject`: what lints of certificates look at
//! - `rule`: one rule, and what it finds

mod certificate;
mod names;
mod revocation_list;
mod rule;
mod subject;

pub use certificate::certificate;
pub use revocation_list::revocation_list;
pub use rule::{Finding, Severity};

#[cfg(test)]
mod tests;
