//! `Authenticator`: what inspects a request for one kind of credential.

use std::fmt;
use std::net::IpAddr;

use super::connection_proof::ConnectionProof;
use super::presented::Presented;
use crate::identity::{Method, Principal};
use crate::now_or_later::NowOrLater;
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
    Denied(Denial),
}

/// What authenticators may look at.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// What the connection proved in its handshake, if it proved anything.
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
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> NowOrLater<'a, Outcome>;

    /// Inspects it again while the request is in progress, without asking an
    /// issuer: the configuration may have changed. `earlier` is what was found
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

    /// The challenge to send with a refusal for this reason, if a credential of
    /// this kind would help.
    fn challenge(&self, reason: ReasonCode, resource: &Resource<'_>) -> Option<String>;
}
