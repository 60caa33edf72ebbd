//! Ways of authenticating a request, each an [`Authenticator`].
//!
//! "Not mine" is never "refused": an authenticator that finds no credential of
//! its kind answers [`Outcome::NotApplicable`].

pub mod api_key;
pub mod bearer;
pub mod binding;
pub mod certificate;
pub mod challenge;
pub mod claims;
pub mod http_client;
pub mod introspection;
pub mod jwks;
pub mod key_location;
pub mod route_token;
pub mod token;
pub mod token_cache;

use crate::identity::Principal;
use crate::policy::Denial;

/// What an authenticator found.
#[derive(Debug)]
pub enum Outcome {
    /// The credential is good.
    Authenticated(Principal),
    /// There is no credential of this kind.
    NotApplicable,
    /// There is one and it is not good.
    Rejected(Denial),
}

/// What authenticators may look at.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// What the connection proved in its handshake, where it proved anything.
    pub proof: Option<&'a certificate::ConnectionProof>,
}

/// Inspects a request for one kind of credential.
pub trait Authenticator {
    /// Inspects what a request brought along.
    fn authenticate(&self, credentials: &Credentials<'_>) -> Outcome;
}
