//! Lints: rules that find errors and bad choices in a certificate or a revocation list. Some
//! findings are no reason for a gateway to refuse a certificate.
//!
//! An error means that a standard forbids the certificate or that gateways refuse it. The authority
//! does not issue such a certificate. A warning means that the certificate works but is not
//! advisable. Lints do not decide about trust. `crate::trust` does that.
//!
//! - `certificate`: lints of certificates
//! - `names`: lints of the names of a leaf
//! - `revocation_list`: lints of revocation lists
//! - `subject`: the input of the lints of certificates
//! - `rule`: the type of a lint, and the findings

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
