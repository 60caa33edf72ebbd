//! Names of callers: parsing, printing and matching them, and the facts that a certificate states
//! about its holder.
//!
//! Nothing here decides whether a certificate may be trusted: that is
//! [`crate::trust`]. Nothing here reads files or the network.
//!
//! A file imports only from those after it:
//!
//! - `principal`: the authenticated caller of one request
//! - `peer`: the identity of a peer that TLS has proved
//! - `leaf`: the facts that a certificate states about itself
//! - `token`: the claims of an accepted token
//! - `share_key`: the caller or address that a share is counted for
//! - `pattern`: patterns of paths, hosts and identities
//! - `caller`: the one name of a caller
//! - `spiffe_id`: SPIFFE IDs
//! - `trust_domain`: names of trust domains
//! - `text`: makes text chosen by a peer safe to print

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
pub use share_key::{ShareKey, ShareMap};
pub use spiffe_id::SpiffeId;
pub use token::TokenClaims;
pub use trust_domain::TrustDomain;
