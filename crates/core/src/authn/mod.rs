//! Methods to authenticate a request. Each method is an [`Authenticator`].
//!
//! An authenticator that finds no credential of its kind returns [`Outcome::NotApplicable`], never
//! a denial. [`composition`] combines several authenticators. ARCHITECTURE.md lists the files to
//! change for a new method.
//!
//! Files. Each file imports only from files below it in this list:
//!
//! - `composition`: combines the authenticators of one route
//! - `certificate`: authenticates by the client certificate
//! - `api_key`: authenticates by API keys
//! - `bearer_token`: authenticates by bearer tokens
//! - `challenge`: finds bearer tokens in requests, and creates challenges
//! - `authenticator`: the trait of all authenticators
//! - `presented`: the credentials in a request's header fields
//! - `beside`: how a route treats a certificate that accompanies another credential
//! - `connection_proof`: the identity that a TLS handshake has proven
//!
//! The folder below these files:
//!
//! - `token`: tokens of configured issuers, their rules, keys and cache

pub mod api_key;
mod authenticator;
pub mod bearer_token;
mod beside;
pub mod certificate;
pub mod challenge;
pub mod composition;
mod connection_proof;
pub mod presented;
pub mod token;

pub use authenticator::{Authenticator, Credentials, Outcome, RequestAddresses, Resource};
pub use beside::Beside;
pub use composition::{Authenticators, AuthnDenial};
pub use connection_proof::ConnectionProof;
pub use presented::{Field, Presented};
