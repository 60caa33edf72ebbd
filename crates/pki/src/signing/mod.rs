//! Signing of certificates and revocation lists in memory.
//!
//! Each file imports only from files below it in this list:
//!
//! - `authority`: an authority that can sign
//! - `authority_certificate`: the certificate of an authority
//! - `error`: why an authority does not sign
//! - `csr`: the key and the names of a PKCS#10 request
//! - `request`: a request for a leaf
//! - `name_rules`: which names one leaf may contain, and under which profile
//! - `profile`: usages, lifetimes and constraints of each kind of certificate
//! - `names`: typed and checked names
//! - `revocation_list`: entries, CRL number and dates of a revocation list
//! - `revoked`: a revoked certificate, and revocation reasons
//! - `signatory`: identifies an authority by name and generation
//! - `lifetime`: how long a certificate or a list is valid
//! - `date`: dates in the type of the encoder (rcgen)
//! - `authority_info_access`: an extension that the encoder cannot write

pub mod authority;
pub mod authority_certificate;
mod authority_info_access;
pub mod csr;
pub(crate) mod date;
pub mod error;
pub mod lifetime;
mod name_rules;
pub mod names;
pub mod profile;
pub mod request;
pub mod revocation_list;
pub mod revoked;
pub mod signatory;
