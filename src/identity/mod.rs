//! Names of callers: parsing, printing and matching them, and what a
//! certificate says about its holder.
//!
//! Nothing here decides whether a certificate may be trusted: that is
//! [`crate::trust`]. Nothing here reads files or the network.

pub mod caller;
pub mod leaf;
pub mod pattern;
pub mod peer;
pub mod principal;
pub mod share_key;
pub mod spiffe_id;
pub mod text;
pub mod token;
pub mod trust_domain;

pub use caller::{CallerName, NameType};
pub use leaf::LeafFacts;
pub use pattern::IdentityPattern;
pub use peer::PeerIdentity;
pub use principal::{ApiKeyUse, Method, MethodSet, Principal};
pub use share_key::ShareKey;
pub use spiffe_id::SpiffeId;
pub use token::TokenClaims;
pub use trust_domain::TrustDomain;
