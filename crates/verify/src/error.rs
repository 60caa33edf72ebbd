//! Why an assertion was refused. Messages are safe to show to a caller: they
//! never contain the token or parts of it.

use crate::jose::JoseError;

/// Why an assertion was refused.
///
/// [`VerifyError::code`] is stable and is meant for programs. The message is for
/// people and may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The request has no assertion.
    #[error("the request has no Countersign-Assertion field")]
    Missing,
    /// The request has more than one assertion.
    #[error("the request has more than one Countersign-Assertion field")]
    Duplicate,
    /// Not a compact JWS, or longer than 4 KiB, or its JSON is not strict.
    #[error("the assertion is malformed: {0}")]
    Malformed(JoseError),
    /// `typ` is not `countersign+jwt`.
    #[error("the token is not an assertion: its `typ` is missing or another")]
    Type,
    /// The header contains a key or the address of one.
    #[error("the assertion carries a key or an address of keys in its header")]
    EmbeddedKey,
    /// The header has no `kid`.
    #[error("the assertion names no key")]
    KeyIdMissing,
    /// The algorithm is not that of the key, or it is not allowed for assertions.
    #[error("the assertion's algorithm is not that of its key")]
    Algorithm,
    /// No published key has this `kid`.
    #[error("the assertion's key is not among the gateway's keys")]
    UnknownKey,
    /// The gateway's keys could not be fetched, and no cached keys may still be
    /// used.
    #[error("the gateway's keys are not available: {0}")]
    KeysUnavailable(FetchProblem),
    /// The signature does not verify.
    #[error("the assertion's signature does not verify")]
    Signature,
    /// A claim is missing or of the wrong type.
    #[error("a claim of the assertion is missing or malformed")]
    Claims,
    /// `iss` is not the expected gateway.
    #[error("the assertion is from another issuer")]
    Issuer,
    /// `aud` is not this service.
    #[error("the assertion is for another audience")]
    Audience,
    /// `iat` lies in the future, beyond the allowed skew.
    #[error("the assertion was issued in the future; compare the clocks")]
    NotYetValid,
    /// `exp` has passed (RFC 7519 section 4.1.4), by the clock now, or, with a
    /// replay cache, by the clock before it was set back.
    #[error("the assertion has expired")]
    Expired,
    /// `exp` is not after `iat`, or more than 300 s after it.
    #[error("the assertion's lifetime is not between 1 and 300 seconds")]
    Lifetime,
    /// The assertion is for any request, but the verifier requires one for this
    /// request.
    #[error("the assertion is not bound to a request")]
    NotRequestBound,
    /// Only some of `htm`, `htu` and `jti`, or `htq`, `htb` or `txn` without them.
    #[error("the assertion is bound to a request in part only")]
    PartialBinding,
    /// The target or host of the request cannot be compared with an assertion.
    #[error("the request's target or host is unclear")]
    RequestUnclear,
    /// `htm` is another method.
    #[error("the assertion is for another method")]
    Method,
    /// `htu` has another authority.
    #[error("the assertion is for another host")]
    Authority,
    /// `htu` has another path.
    #[error("the assertion is for another path")]
    Path,
    /// `htq` does not match, is missing, or is present although there is no query.
    #[error("the assertion is for another query")]
    Query,
    /// `htb` does not match the body.
    #[error("the assertion is for another body")]
    Body,
    /// The verifier requires a bound body, but `htb` or the body is missing.
    #[error("the assertion does not bind the request's body")]
    BodyNotBound,
    /// The same `jti` (RFC 7519 section 4.1.7) was accepted before.
    #[error("the assertion was used before")]
    Replayed,
    /// The replay cache is full of assertions that have not expired.
    #[error("too many assertions are remembered; try again later")]
    ReplayCacheFull,
}

/// Why the gateway's keys could not be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchProblem {
    /// Nothing was fetched yet, or nothing in the last 24 h.
    #[error("nothing was fetched recently")]
    NotFetched,
    /// The connection could not be made, or failed. Includes TLS failures.
    #[error("the key server cannot be reached")]
    Unreachable,
    /// There was no complete response in time.
    #[error("the key server did not answer in time")]
    TimedOut,
    /// The response is neither 200 nor 304. Redirects are not followed.
    #[error("the key server answered with status {0}")]
    Status(u16),
    /// The response is larger than 1 MiB.
    #[error("the answer is longer than 1 MiB")]
    TooLarge,
    /// The response is not a JWK set.
    #[error("the answer is not a key set: {0}")]
    NotKeySet(JoseError),
    /// The response is not the metadata of the expected issuer, or its `jwks_uri`
    /// has another origin.
    #[error("the metadata is not that of the expected issuer")]
    Metadata,
    /// A fetch runs, and 1,024 calls wait for it already. The call did not wait.
    #[error("too many calls wait for the key server already")]
    Busy,
}

impl VerifyError {
    /// Returns a stable code in kebab case.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing => "assertion-missing",
            Self::Duplicate => "assertion-duplicate",
            Self::Malformed(_) => "assertion-malformed",
            Self::Type => "assertion-type",
            Self::EmbeddedKey => "assertion-embedded-key",
            Self::KeyIdMissing => "assertion-key-id-missing",
            Self::Algorithm => "assertion-algorithm",
            Self::UnknownKey => "assertion-unknown-key",
            Self::KeysUnavailable(_) => "assertion-keys-unavailable",
            Self::Signature => "assertion-signature",
            Self::Claims => "assertion-claims",
            Self::Issuer => "assertion-issuer",
            Self::Audience => "assertion-audience",
            Self::NotYetValid => "assertion-not-yet-valid",
            Self::Expired => "assertion-expired",
            Self::Lifetime => "assertion-lifetime",
            Self::NotRequestBound => "assertion-not-request-bound",
            Self::PartialBinding => "assertion-partial-binding",
            Self::RequestUnclear => "assertion-request-unclear",
            Self::Method => "assertion-method",
            Self::Authority => "assertion-authority",
            Self::Path => "assertion-path",
            Self::Query => "assertion-query",
            Self::Body => "assertion-body",
            Self::BodyNotBound => "assertion-body-not-bound",
            Self::Replayed => "assertion-replayed",
            Self::ReplayCacheFull => "assertion-replay-cache-full",
        }
    }

    /// Returns the HTTP status for a response with this error: 401 if the
    /// assertion proves no caller, 403 if it is for something else, and 503 if the
    /// verifier cannot decide.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Missing
            | Self::Duplicate
            | Self::Malformed(_)
            | Self::Type
            | Self::EmbeddedKey
            | Self::KeyIdMissing
            | Self::Algorithm
            | Self::UnknownKey
            | Self::Signature
            | Self::Claims
            | Self::Issuer
            | Self::NotYetValid
            | Self::Expired
            | Self::Lifetime => 401,
            Self::Audience
            | Self::NotRequestBound
            | Self::PartialBinding
            | Self::RequestUnclear
            | Self::Method
            | Self::Authority
            | Self::Path
            | Self::Query
            | Self::Body
            | Self::BodyNotBound
            | Self::Replayed => 403,
            Self::KeysUnavailable(_) | Self::ReplayCacheFull => 503,
        }
    }
}
