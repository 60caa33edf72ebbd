//! Signing certificates and revocation lists, in memory.
//!
//! A file imports only from those after it:
//!
//! - `authority`: an authority that can sign
//! - `authority_certificate`: the public half of an authority
//! - `error`: why an authority does not sign
//! - `csr`: the usable parts of a PKCS#10 request
//! - `request`: a request for a leaf
//! - `name_rules`: which names one leaf may contain, and under which profile
//! - `profile`: usages, lifetimes and constraints of each kind of certificate
//! - `names`: typed and checked names
//! - `revocation_list`: entries, number and dates of a list
//! - `revoked`: revoked certificates, and reasons
//! - `signatory`: which of an authority's certificates signs
//! - `lifetime`: how long something is good for, as people write it
//! - `date`: dates in the form that the encoder takes
//! - `der`: DER that the encoder does not write itself

pub mod authority;
pub mod authority_certificate;
pub mod csr;
pub(crate) mod date;
mod der;
pub mod error;
pub mod lifetime;
mod name_rules;
pub mod names;
pub mod profile;
pub mod request;
pub mod revocation_list;
pub mod revoked;
pub mod signatory;
