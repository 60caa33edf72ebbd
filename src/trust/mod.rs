//! Whom to believe: trust bundles, path verification, revocation, and the
//! decision which name a verified certificate gives its holder.
//!
//! A [`PeerIdentity`](crate::identity::PeerIdentity) is built here and nowhere
//! else. Bundles of different trust domains are never merged.

pub mod bundle;
mod naming;
pub mod path;
mod verifier;

pub use bundle::{BundleError, RevocationDepth, RevocationPosture, TrustBundle, TrustBundleConfig};
pub use path::{PathPurpose, verify_path};
pub use verifier::{ClientTrust, ClientTrustError, Refusal};
