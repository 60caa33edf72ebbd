//! `AuthorityError`: why an authority cannot be used or does not sign.

use super::lifetime::Lifetime;
use super::names::RequestError;
use super::revocation_list::UnencodableList;
use crate::clock;
use crate::crypto::NoRandomness;
use crate::lint;
use crate::reason::ReasonCode;
use crate::store::key::KeyError;

/// The reason why an authority cannot be used or does not sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The bytes cannot be parsed as a certificate.
    #[error("it is not a readable certificate: {0}")]
    Unreadable(String),
    /// The certificate does not belong to an authority, or this program cannot use the authority.
    #[error("it is not the certificate of an authority: {0}")]
    NotAnAuthority(&'static str),
    /// The private key belongs to another certificate.
    #[error("its private key belongs to another certificate")]
    KeyMismatch,
    /// The authority's certificate has expired at this time, in seconds since the Unix epoch.
    #[error("it expired at {}", clock::rfc3339(*.0))]
    Expired(i64),
    /// The authority's certificate is valid only from this time, in seconds since the Unix epoch.
    #[error("it is not valid before {}; is the clock right?", clock::rfc3339(*.0))]
    NotYetValid(i64),
    /// The path length constraint of this authority allows no intermediate below it.
    #[error("its path length allows no authority below it")]
    PathLength,
    /// The requested lifetime is longer than the profile allows.
    #[error("a lifetime of {asked} is longer than profile {profile} allows: at most {limit}")]
    LifetimeTooLong {
        /// The requested lifetime.
        asked: Lifetime,
        /// The name of the profile under which the certificate was requested.
        profile: String,
        /// The maximum lifetime that the profile allows.
        limit: Lifetime,
    },
    /// The gateway's verifier refuses certificates of the authority.
    #[error("gateways would refuse its certificates: {reason}: {detail}")]
    Refused {
        /// The verifier's reason.
        reason: ReasonCode,
        /// The details.
        detail: String,
    },
    /// rcgen cannot copy the subject of the authority unchanged as issuer name of a certificate.
    #[error(
        "its subject cannot be repeated exactly as an issuer name, so nothing would chain to it"
    )]
    IssuerName,
    /// The lints have found an error in the signed certificate: a standard forbids it, or gateways
    /// refuse it.
    #[error("such a certificate is not issued: {0}")]
    Lint(lint::Finding),
    /// rcgen returned an error.
    #[error("signing failed: {0}")]
    Sign(#[from] rcgen::Error),
    /// A private key could not be generated.
    #[error(transparent)]
    Key(#[from] Box<KeyError>),
    /// The system returned no random bytes.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// A revocation list could not be encoded.
    #[error(transparent)]
    List(#[from] UnencodableList),
    /// The profile does not allow a name or the key of the certificate.
    #[error(transparent)]
    Profile(#[from] RequestError),
    /// A date is outside the years that certificates can express.
    #[error("a date lies outside the years that certificates can express")]
    Date,
}
