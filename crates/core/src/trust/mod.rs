//! Trust in certificates: trust bundles, path verification, revocation, and the name of a caller.
//!
//! Only this module creates a [`PeerIdentity`](crate::identity::PeerIdentity). Trust bundles of
//! different trust domains are never merged.
//!
//! Files. Each file imports only from files below it in this list:
//!
//! - `client_trust`: the trust bundles of a server name, and the decision about a chain
//! - `path_trust`: path verification alone, without caller names and policy
//! - `overlap`: which trust bundles must not be accepted together
//! - `revision`: hashes of trust bundles, which show whether a reload changed them
//! - `caller_name`: the name that a verified leaf gives a caller
//! - `bundle`: roots, revocation lists and permitted names of one trust domain
//! - `path_cache`: paths that were verified before
//! - `digest`: a hash of several fields
//!
//! Folders below these files. Each folder imports only from folders below it in this list:
//!
//! - `deny_list`: callers and certificates that the gateway refuses immediately
//! - `path`: the verification of one path, by webpki and by our own rules
//! - `revocation`: revocation lists, and the revocation status of a path
//! - `certificate`: the facts of a certificate, and the rules for each certificate

mod bundle;
mod caller_name;
mod certificate;
mod client_trust;
mod deny_list;
mod digest;
mod overlap;
pub mod path;
pub mod path_cache;
mod path_trust;
mod revision;
pub mod revocation;

pub use bundle::{BundleError, Predecessors, TrustBundle, TrustBundleConfig};
pub use certificate::algorithm::{
    AlgorithmError, check_key, check_signature, key_name, unusable_key,
};
pub use certificate::error::PathError;
pub use certificate::purpose::PathPurpose;
pub use certificate::signed::SignedParts;
pub use client_trust::{Admission, ChainError, ClientTrust, Recall};
pub use deny_list::{DenyEntry, DenyList, DenyListError, DenyTarget};
pub use overlap::{ClientTrustError, check_overlap};
pub use path_cache::{ChainCounts, ChainKey, PathCache, PendingPath};
pub use path_trust::{PathTrust, VerifiedChain};
pub use revision::TrustRevision;
pub use revocation::{
    CrlNumber, CrlOutline, CrlRules, CrlStatus, CrlTimes, Freshness, RevocationDepth,
    RevocationPosture, UnusableCrl,
};

#[cfg(any(test, feature = "testing"))]
pub mod fixture;
#[cfg(test)]
mod tests;
