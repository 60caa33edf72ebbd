//! Trust in certificates: bundles, path verification, revocation, and the name that a
//! verified certificate gives its holder.
//!
//! A [`PeerIdentity`](crate::identity::PeerIdentity) is built here and nowhere
//! else. Bundles of different trust domains are never merged.
//!
//! On top; a file imports only from those after it:
//!
//! - `client_trust`: the bundles of a server name, and the decision about a chain
//! - `path_trust`: the path rules alone, without identity or policy
//! - `overlap`: which bundles must not be accepted together
//! - `revision`: the inputs of decisions about chains, as two hashes
//! - `caller_name`: which name a verified leaf gives its holder
//! - `bundle`: roots, revocation lists and permitted names of one trust domain
//! - `path_cache`: chains that were verified before
//! - `digest`: a hash over several fields
//!
//! Below, from top to bottom; a folder imports only from those after it:
//!
//! - `deny_list`: identities and certificates that are refused at once
//! - `path`: the verification of one path by webpki and by our own rules
//! - `revocation`: revocation lists, and what they say about a path
//! - `certificate`: what certificates say, and the rules for each of them

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
pub use certificate::error::PathError;
pub use certificate::purpose::PathPurpose;
pub use client_trust::{Admission, ChainError, ClientTrust, Recall};
pub use deny_list::{DenyEntry, DenyList, DenyListError, DenyTarget};
pub use overlap::{ClientTrustError, check_overlap};
pub use path_cache::{ChainCounts, ChainKey, PathCache, PendingPath};
pub use path_trust::{PathTrust, VerifiedChain};
pub use revision::TrustRevision;
pub use revocation::{
    CrlOutline, CrlStatus, Freshness, RevocationDepth, RevocationPosture, UnusableCrl,
};

#[cfg(any(test, feature = "testing"))]
pub mod fixture;
#[cfg(test)]
mod tests;
