//! The errors of the JOSE module. Their messages never contain the token or the key.

/// Why a token or a key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoseError {
    /// The token or the key set is longer than the limit.
    #[error("longer than {limit} octets")]
    TooLarge {
        /// The limit that was exceeded, in bytes.
        limit: usize,
    },
    /// The token does not have exactly three parts, separated by dots (RFC 7515 section 7.1).
    #[error("not a compact JWS: three base64url parts separated by dots are expected")]
    NotCompact,
    /// The text has padding, white space, a character that is not base64url, or non-zero
    /// trailing bits (RFC 7515 section 2).
    #[error("{part} is not canonical base64url without padding")]
    Base64Url {
        /// The name of the erroneous text, for example `header` or `key set`.
        part: &'static str,
    },
    /// The text is not JSON (RFC 8259), or not UTF-8.
    #[error("{part} is not valid JSON")]
    NotJson {
        /// The name of the erroneous text, for example `header` or `key set`.
        part: &'static str,
    },
    /// The text is JSON, but not an object.
    #[error("{part} is not a JSON object")]
    NotObject {
        /// The name of the erroneous text, for example `header` or `key set`.
        part: &'static str,
    },
    /// A member name occurs twice in one object (RFC 7515 section 4, RFC 8725 section 2.4).
    #[error("{part} has a duplicate member")]
    DuplicateMember {
        /// The name of the erroneous text, for example `header` or `key set`.
        part: &'static str,
    },
    /// A member is missing, or has the wrong JSON type or form.
    #[error("member `{member}` is missing or malformed")]
    Member {
        /// The name of the member.
        member: &'static str,
    },
    /// The JOSE header has `crit` or `b64`, but this module supports no extensions (RFC 7515
    /// section 4.1.11).
    #[error("the token demands an extension by `crit` or `b64`; none is supported")]
    CriticalHeader,
    /// The `alg` of the token is `none`, symmetric, unknown, or not compiled in.
    #[error("the signature algorithm is not accepted")]
    UnsupportedAlgorithm,
    /// The algorithm, use or operations of the key do not permit the token's algorithm.
    #[error("the key is not for the token's algorithm")]
    AlgorithmMismatch,
    /// The signature of the token is not valid.
    #[error("the signature does not verify")]
    Signature,
    /// The value of `kty`, `crv`, `alg`, `use` or `key_ops` is not supported for verifying
    /// signatures.
    #[error("the key's type, curve, algorithm or use is not supported")]
    UnsupportedKey,
    /// The key has private members, but a published key must not have any (RFC 7517 section
    /// 9.2).
    #[error("the key contains private members")]
    PrivateKey,
    /// The key is symmetric: `kty` is `oct`, or the key has the member `k`.
    #[error("symmetric keys are never accepted")]
    SymmetricKey,
    /// The RSA key has fewer than 2048 or more than 8192 bits. Or its public exponent is not
    /// allowed, or its modulus is known to be weak.
    #[error("the RSA key is too weak or malformed")]
    WeakKey,
    /// The key set has more keys than the limit.
    #[error("the key set has more than {limit} keys")]
    TooManyKeys {
        /// The maximum number of keys.
        limit: usize,
    },
    /// No key of the set has the `kid` of the token, or the set is empty.
    #[error("no key has the token's key identifier")]
    UnknownKey,
    /// More than one key of the set fits the token.
    #[error("several keys have the token's key identifier")]
    AmbiguousKey,
    /// A date is not a number between 0 and the end of the year 9999 (RFC 7519 section 2).
    #[error("not a numeric date")]
    NumericDate,
}
