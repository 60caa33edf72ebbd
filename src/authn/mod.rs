//! Ways of authenticating a request, each an [`Authenticator`].
//!
//! "Not mine" is never "refused": an authenticator that finds no credential of
//! its kind answers [`Outcome::NotApplicable`]. [`composition`] puts several
//! together. ARCHITECTURE.md lists the files that a further method needs.

pub mod api_key;
pub mod bearer;
pub mod binding;
pub mod certificate;
pub mod challenge;
pub mod claims;
pub mod composition;
mod flights;
pub mod http_client;
pub mod introspection;
pub mod jwks;
pub mod key_location;
pub mod presented;
pub mod remote_lists;
pub mod route_token;
pub mod token;
pub mod token_cache;

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;

pub use composition::{Authenticators, Rejection};
pub use presented::{Field, Presented};

use crate::identity::{Method, Principal};
use crate::policy::Denial;
use crate::reason::ReasonCode;

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

/// An outcome, now or once somebody has been asked.
pub enum Step<'a> {
    /// Nobody had to be asked.
    Now(Outcome),
    /// Keys or an issuer's word have to be waited for.
    Later(Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>),
}

impl fmt::Debug for Step<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(outcome) => formatter.debug_tuple("Now").field(outcome).finish(),
            Self::Later(_) => formatter.write_str("Later"),
        }
    }
}

/// What authenticators may look at.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// What the connection proved in its handshake, where it proved anything.
    pub proof: Option<&'a certificate::ConnectionProof>,
    /// The credentials in the request's fields.
    pub presented: &'a Presented,
    /// The request's query.
    pub query: Option<&'a str>,
    /// The caller's address.
    pub address: IpAddr,
    /// Seconds since the Unix epoch.
    pub now: u64,
}

/// What was requested, for challenges.
#[derive(Debug, Clone, Copy)]
pub struct Resource<'a> {
    /// The authority, as the caller wrote it.
    pub authority: &'a str,
    /// The path, as the caller wrote it.
    pub path: &'a str,
}

/// Inspects a request for one kind of credential.
pub trait Authenticator: fmt::Debug + Send + Sync {
    /// The method it stands for.
    fn method(&self) -> Method;

    /// Inspects what a request brought along.
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> Step<'a>;

    /// Inspects it again while the request is in progress, without asking
    /// anybody: the configuration may have changed. `earlier` is what was found
    /// before, `unchanged` whether that was by the very same rules.
    fn recheck(
        &self,
        credentials: &Credentials<'_>,
        earlier: &Principal,
        unchanged: bool,
    ) -> Outcome;

    /// A hash of all that its outcomes depend on beside the credentials; the
    /// same for authenticators that judge alike.
    fn rules(&self) -> [u8; 32];

    /// The challenge to send with a refusal for this reason, where a credential
    /// of this kind would help.
    fn challenge(&self, reason: ReasonCode, resource: &Resource<'_>) -> Option<String>;
}
