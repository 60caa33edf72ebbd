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
    /// The request has a credential of this kind, but it is invalid.
    Denied(Denial),
}

/// The addresses from which a request comes. They differ if a load balancer sends a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestAddresses {
    /// The caller's address: the one in the PROXY header, if there is a header. The gateway cannot
    /// check it; every peer that may send a header can name any address. `None` if the header names
    /// no address.
    pub caller: Option<IpAddr>,
    /// The address from which the TCP connection was opened. No header can change it.
    pub connection: IpAddr,
}

/// The parts of a request and its connection that authenticators may inspect.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// The identity that the TLS handshake has proven, if there is one.
    pub proof: Option<&'a ConnectionProof>,
    /// The credentials in the request's header fields.
    pub presented: &'a Presented,
    /// The request's query.
    pub query: Option<&'a str>,
    /// Where the request comes from.
    pub addresses: RequestAddresses,
    /// The current time, in seconds since the Unix epoch.
    pub now: u64,
}

/// The requested resource. Challenges contain the URL of its metadata.
#[derive(Debug, Clone, Copy)]
pub struct Resource<'a> {
    /// The authority of the request, as the caller wrote it.
    pub authority: &'a str,
    /// The path of the request, as the caller wrote it.
    pub path: &'a str,
}

/// Checks whether a request has a valid credential of one kind.
pub trait Authenticator: fmt::Debug + Send + Sync {
    /// Returns the method that this authenticator implements.
    fn method(&self) -> Method;

    /// Checks the credential of a request.
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> NowOrLater<'a, Outcome>;

    /// Checks the credential again while the request is in progress, because the configuration may
    /// have changed. Does not ask an issuer. `earlier` is the result of the earlier check.
    /// `unchanged` is true if the rules of the route are the same as in that check.
    fn recheck(
        &self,
        credentials: &Credentials<'_>,
        earlier: &Principal,
        unchanged: bool,
    ) -> Outcome;

    /// Returns a hash of the rules that this authenticator applies to credentials. Authenticators
    /// with the same rules return the same hash.
    fn rules(&self) -> [u8; 32];

    /// Returns the challenge for a refusal with this reason. Returns `None` if a credential of this
    /// kind would not help.
    fn challenge(&self, reason: ReasonCode, resource: &Resource<'_>) -> Option<String>;
}
