//! Lints: find errors and unwise choices in a certificate or a revocation list, in addition to the
//! errors that a verifier must refuse.
//!
//! An error means that a standard forbids it or that gateways refuse it; such a leaf is not issued.
//! A warning means that it works but is not advisable. Nothing here decides about trust: see
//! `crate::trust`.
//!
//! - `certificate`: lints of certificates
//! - `names`: lints of the names of a leaf
//! - `revocation_list`: lints of revocation lists
//! - `subject`: the certificate that lints check
//! - `rule`: one rule, and its findings

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
