//! `Authenticator`: inspects a request for one kind of credential.

use std::fmt;
use std::net::IpAddr;

use super::connection_proof::ConnectionProof;
use super::presented::Presented;
use crate::identity::{Method, Principal};
use crate::now_or_later::NowOrLater;
use crate::policy::Denial;
use crate::reason::ReasonCode;

/// The result of an authenticator.
#[derive(Debug)]
pub enum Outcome {
    /// The credential is valid.
    Authenticated(Principal),
    /// The request has no credential of this kind.
    NotApplicable,
    /// The request has a credential of this kind, which is invalid.
    Denied(Denial),
}

/// The parts of a request and its connection that authenticators may inspect.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// The proof of the connection's handshake, if there is one.
    pub proof: Option<&'a ConnectionProof>,
    /// The credentials in the request's fields.
    pub presented: &'a Presented,
    /// The request's query.
    pub query: Option<&'a str>,
    /// The caller's address.
    pub address: IpAddr,
    /// Seconds since the Unix epoch.
    pub now: u64,
}

/// The requested resource, for challenges.
#[derive(Debug, Clone, Copy)]
pub struct Resource<'a> {
    /// The authority, as the caller wrote it.
    pub authority: &'a str,
    /// The path, as the caller wrote it.
    pub path: &'a str,
}

/// Inspects a request for one kind of credential.
pub trait Authenticator: fmt::Debug + Send + Sync {
    /// Returns the method that this authenticator implements.
    fn method(&self) -> Method;

    /// Inspects the credentials of a request.
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> NowOrLater<'a, Outcome>;

    /// Inspects the credentials again while the request is in progress, without asking an issuer,
    /// because the configuration may have changed. `earlier` is the earlier result, `unchanged`
    /// says whether it was found with exactly these rules.
    fn recheck(
        &self,
        credentials: &Credentials<'_>,
        earlier: &Principal,
        unchanged: bool,
    ) -> Outcome;

    /// Returns a hash of everything that the outcomes depend on, except the credentials. It is the
    /// same for authenticators with the same rules.
    fn rules(&self) -> [u8; 32];

    /// Returns the challenge to send with a refusal for this reason, if a credential of this kind
    /// would help.
    fn challenge(&self, reason: ReasonCode, resource: &Resource<'_>) -> Option<String>;
}
