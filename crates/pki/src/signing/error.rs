//! `AuthorityError`: why an authority cannot be used, or does not sign.

use super::lifetime::Lifetime;
use super::names::RequestError;
use super::revocation_list::UnencodableList;
use crate::clock;
use crate::crypto::NoRandomness;
use crate::lint;
use crate::store::key::KeyError;

/// Why an authority cannot be used, or does not sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The bytes are not a certificate.
    #[error("it is not a readable certificate: {0}")]
    Unreadable(String),
    /// The certificate is not one of an authority of this program.
    #[error("it is not the certificate of an authority: {0}")]
    NotAnAuthority(&'static str),
    /// The private key belongs to another certificate.
    #[error("its private key belongs to another certificate")]
    KeyMismatch,
    /// The authority's time is over.
    #[error("it expired at {}", clock::rfc3339(*.0))]
    Expired(i64),
    /// The authority's time has not come.
    #[error("it is not valid before {}; is the clock right?", clock::rfc3339(*.0))]
    NotYetValid(i64),
    /// The path length forbids an authority below this one.
    #[error("its path length allows no authority below it")]
    PathLength,
    /// A longer lifetime than the profile allows.
    #[error("a lifetime of {asked} is longer than profile {profile} allows: at most {limit}")]
    LifetimeTooLong {
        /// The requested lifetime.
        asked: Lifetime,
        /// The profile's name.
        profile: String,
        /// The longest lifetime of the profile.
        limit: Lifetime,
    },
    /// The issuer name in the signed certificate is not the subject of the authority.
    #[error(
        "its subject cannot be repeated exactly as an issuer name, so nothing would chain to it"
    )]
    IssuerName,
    /// A standard forbids the certificate, or gateways would refuse it.
    #[error("such a certificate is not issued: {0}")]
    Lint(lint::Finding),
    /// The encoder or the key refused.
    #[error("signing failed: {0}")]
    Sign(#[from] rcgen::Error),
    /// A private key could not be made.
    #[error(transparent)]
    Key(#[from] Box<KeyError>),
    /// The system supplied no random serial number.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// A revocation list could not be encoded.
    #[error(transparent)]
    List(#[from] UnencodableList),
    /// The operator's profile does not allow it.
    #[error(transparent)]
    Profile(#[from] RequestError),
    /// A date lies outside the years that certificates can express.
    #[error("a date lies outside the years that certificates can express")]
    Date,
}
