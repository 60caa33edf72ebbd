//! Caller names: parsing, printing and matching. Also the facts that a certificate states about its
//! holder.
//!
//! This module does not decide whether a certificate is trusted. [`crate::trust`] decides that.
//! This module reads no files and does not use the network.
//!
//! Each file imports only from files below it in this list:
//!
//! - `principal`: the authenticated caller of one request
//! - `peer`: the identity of a peer, verified in the TLS handshake
//! - `leaf`: the facts that a certificate states about itself
//! - `token`: the claims of an accepted token
//! - `share_key`: identifies a caller or an address in counts of limited resources
//! - `pattern`: patterns of identities
//! - `path_and_host`: patterns of paths and hosts
//! - `caller`: the name of a caller
//! - `spiffe_id`: SPIFFE IDs
//! - `trust_domain`: names of trust domains
//! - `text`: makes text that a peer has chosen safe to print

pub mod caller;
pub mod leaf;
pub mod path_and_host;
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
