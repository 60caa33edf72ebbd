//! Countersign: a mutual-TLS identity gateway with embedded PKI tooling.

pub mod assertion;
pub mod cli;
pub mod clock;
pub mod crypto;
pub mod identity;
pub mod pki;
pub mod policy;
pub mod reason;
pub mod route;
pub mod secret;
pub mod snapshot;
pub mod tls;
pub mod trust;
pub mod upstream;
