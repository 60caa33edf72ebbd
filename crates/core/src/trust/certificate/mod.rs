//! The facts of the certificates in a path, and the rules for each of them.
//!
//! A file imports only from those after it:
//!
//! - `end_entity`: the rules for leaves
//! - `authority`: the rules for issuers and roots
//! - `constraints`: name constraints
//! - `member`: the facts that revocation and the deny list look up
//! - `candidate`: the few fields of a certificate that the path search needs
//! - `signed`: message, algorithm and signature
//! - `purpose`: the purpose of a verification
//! - `error`: why a certificate or path is not accepted

pub(crate) mod authority;
pub(crate) mod candidate;
pub(crate) mod constraints;
pub(crate) mod end_entity;
pub(crate) mod error;
pub(crate) mod member;
pub(crate) mod purpose;
pub(crate) mod signed;
