//! Ways of authenticating a request, each an [`Authenticator`].
//!
//! "Not mine" is never "denied": an authenticator that finds no credential of
//! its kind returns [`Outcome::NotApplicable`]. [`composition`] puts several
//! together. ARCHITECTURE.md lists the files that a further method needs.
//!
//! On top; a file imports only from those after it:
//!
//! - `composition`: the authenticators of one route, all of them or any
//! - `certificate`: authenticates by the client certificate
//! - `api_key`: authenticates by API keys
//! - `bearer_token`: authenticates by bearer tokens
//! - `challenge`: bearer tokens in HTTP: finding one, and asking for one
//! - `authenticator`: what all authenticators have in common
//! - `presented`: the credentials in a request's fields
//! - `beside`: what a route makes of a certificate beside another credential
//! - `connection_proof`: what a connection proved in its handshake
//!
//! Below:
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

pub use authenticator::{Authenticator, Credentials, Outcome, Resource};
pub use beside::Beside;
pub use composition::{Authenticators, AuthnDenial};
pub use connection_proof::ConnectionProof;
pub use presented::{Field, Presented};
