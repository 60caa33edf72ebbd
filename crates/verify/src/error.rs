//! The errors of verification. Their messages are safe to show to a caller, because
//! they never contain the token or parts of it.

use crate::jose::JoseError;

/// Why an assertion was refused.
///
/// Programs should use [`VerifyError::code`], which is stable. The message is for
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
    /// The assertion is not a compact JWS, is longer than 8 KiB, or has a header or payload that
    /// [`jose`](crate::jose) refuses, for example because of a duplicate member.
    #[error("the assertion is malformed: {0}")]
    Malformed(JoseError),
    /// `typ` is not `countersign+jwt`.
    #[error("the token is not an assertion: its `typ` is missing or another")]
    Type,
    /// The JOSE header contains a key or the URL of a key: `jwk`, `jku`, `x5u` or `x5c`.
    #[error("the assertion carries a key or an address of keys in its header")]
    EmbeddedKey,
    /// The JOSE header has no `kid`, or an empty `kid`.
    #[error("the assertion names no key")]
    KeyIdMissing,
    /// The `alg` of the assertion is not the algorithm of the key, or is not allowed for
    /// assertions.
    #[error("the assertion's algorithm is not that of its key")]
    Algorithm,
    /// None of the gateway's keys has the `kid` of the assertion, or several keys have it.
    #[error("the assertion's key is not among the gateway's keys")]
    UnknownKey,
    /// The gateway's keys could not be fetched, and there are no cached keys that are
    /// still usable.
    #[error("the gateway's keys are not available: {0}")]
    KeysUnavailable(FetchProblem),
    /// The signature is not valid.
    #[error("the assertion's signature does not verify")]
    Signature,
    /// A claim is missing, or has the wrong type or form.
    #[error("a claim of the assertion is missing or malformed")]
    Claims,
    /// `iss` is not the issuer of the expected gateway.
    #[error("the assertion is from another issuer")]
    Issuer,
    /// `aud` is not the audience of this service.
    #[error("the assertion is for another audience")]
    Audience,
    /// `iat` is later than the current time plus the allowed skew.
    #[error("the assertion was issued in the future; compare the clocks")]
    NotYetValid,
    /// `exp` plus the allowed skew has passed (RFC 7519 section 4.1.4). A replay cache also
    /// returns this error after the clock was set back, because the assertion may have been used
    /// before.
    #[error("the assertion has expired")]
    Expired,
    /// `exp` is not later than `iat`, or `exp` is more than 300 s after `iat`.
    #[error("the assertion's lifetime is not between 1 and 300 seconds")]
    Lifetime,
    /// The assertion is bound to its caller only, but the verifier requires an assertion that is
    /// bound to one request (see `VerifierBuilder::allow_caller_binding`).
    #[error("the assertion is not bound to a request")]
    NotRequestBound,
    /// The assertion has some but not all of `htm`, `htu` and `jti`. Or it has `htq`, `htb`
    /// or `txn` without those three claims.
    #[error("the assertion is bound to a request in part only")]
    PartialBinding,
    /// The request target is not a path, or the authority of the request is unclear (see
    /// `RequestParts::from_http`).
    #[error("the request's target or host is unclear")]
    RequestUnclear,
    /// `htm` is not the method of the request.
    #[error("the assertion is for another method")]
    Method,
    /// The authority in `htu` is not the expected authority. This is `VerifierBuilder::authority`
    /// if it is set, and otherwise the authority of the request.
    #[error("the assertion is for another host")]
    Authority,
    /// The path in `htu` is not `VerifierBuilder::path_prefix` followed by the path of the
    /// request.
    #[error("the assertion is for another path")]
    Path,
    /// `htq` is not the hash of the query. Or there is an `htq` but no query, or a query but no
    /// `htq`.
    #[error("the assertion is for another query")]
    Query,
    /// `htb` is not the hash of the body.
    #[error("the assertion is for another body")]
    Body,
    /// The verifier requires a body binding, but `htb` or the body is missing.
    #[error("the assertion does not bind the request's body")]
    BodyNotBound,
    /// An assertion with the same `jti` (RFC 7519 section 4.1.7) was accepted before.
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
    /// No keys were fetched in the last 24 h, and no fetch has failed since the last success.
    #[error("nothing was fetched recently")]
    NotFetched,
    /// The connection to the key server failed, or its TLS handshake failed.
    #[error("the key server cannot be reached")]
    Unreachable,
    /// The key server did not send a complete response before the timeout.
    #[error("the key server did not answer in time")]
    TimedOut,
    /// The status of the response is neither 200 nor 304. Redirects are not followed.
    #[error("the key server answered with status {0}")]
    Status(u16),
    /// The response is larger than 1 MiB.
    #[error("the answer is longer than 1 MiB")]
    TooLarge,
    /// The response is not a JWK set.
    #[error("the answer is not a key set: {0}")]
    NotKeySet(JoseError),
    /// The response is not the metadata of the expected issuer, or the `jwks_uri` in it has
    /// another origin.
    #[error("the metadata is not that of the expected issuer")]
    Metadata,
    /// The call did not wait, because 1,024 calls already wait for the running fetch.
    #[error("too many calls wait for the key server already")]
    Busy,
}

impl VerifyError {
    /// Returns a stable code in kebab case, such as `assertion-missing`.
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

    /// Returns the HTTP status for a response with this error. The status is 401 if the
    /// assertion proves no caller, 403 if the assertion is for another service or request,
    /// and 503 if the verifier cannot decide.
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
