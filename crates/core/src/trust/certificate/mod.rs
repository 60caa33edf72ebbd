//! The facts of each certificate in a path, and the rules for each certificate.
//!
//! Each file imports only from files below it in this list:
//!
//! - `end_entity`: the rules for leaves
//! - `authority`: the rules for issuers and roots
//! - `constraints`: name constraints
//! - `member`: the facts that revocation checks and the deny list need
//! - `candidate`: the few fields of a certificate that the path search needs
//! - `signed`: the three parts of a signed certificate: message, algorithm and signature
//! - `algorithm`: which keys and signature algorithms are accepted
//! - `purpose`: the purpose of a verification
//! - `error`: why a certificate or path is not accepted

pub(crate) mod algorithm;
pub(crate) mod authority;
pub(crate) mod candidate;
pub(crate) mod constraints;
pub(crate) mod end_entity;
pub(crate) mod error;
pub(crate) mod member;
pub(crate) mod purpose;
pub(crate) mod signed;
