//! Whom to believe: trust bundles, path verification, revocation, and the
//! decision which name a verified certificate gives its holder.
//!
//! A [`PeerIdentity`](crate::identity::PeerIdentity) is built here and nowhere
//! else. Bundles of different trust domains are never merged.

mod authority;
pub mod bundle;
mod candidate;
mod constraints;
pub mod deny;
mod disjoint;
mod end_entity;
mod explain;
mod naming;
pub mod path;
pub mod path_cache;
mod revision;
pub mod revocation;
mod search;
mod signature_checks;
mod signed;
mod verifier;
mod verify;

pub use bundle::{
    BundleError, Predecessors, RevocationDepth, RevocationPosture, TrustBundle, TrustBundleConfig,
};
pub use deny::{DenyEntry, DenyList, DenyListError, DenyTarget};
pub use disjoint::ClientTrustError;
pub use path::{PathPurpose, PathRefusal};
pub use path_cache::{ChainCounts, ChainKey, PathCache, PendingPath};
pub use revision::TrustRevision;
pub use revocation::{Freshness, ListStatus, Outline, UnusableList, outline};
pub use verifier::{Admission, ClientTrust, Recall, Refusal};
pub use verify::{PathTrust, VerifiedChain};

#[cfg(test)]
pub(crate) mod tests;
