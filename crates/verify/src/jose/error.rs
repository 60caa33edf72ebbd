//! Why a JOSE object was refused. Messages never contain the object.

/// Why a token or a key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoseError {
    /// Longer than the given limit, in bytes.
    #[error("longer than {limit} octets")]
    TooLarge {
        /// The limit that was exceeded.
        limit: usize,
    },
    /// Not three parts with two dots (RFC 7515 section 7.1).
    #[error("not a compact JWS: three base64url parts separated by dots are expected")]
    NotCompact,
    /// Padding, white space, a foreign character or non-zero trailing bits (RFC 7515 section 2).
    #[error("{part} is not canonical base64url without padding")]
    Base64Url {
        /// The text, or the part of a token, that contains the error.
        part: &'static str,
    },
    /// Not JSON (RFC 8259), or not UTF-8.
    #[error("{part} is not valid JSON")]
    NotJson {
        /// The text, or the part of a token, that contains the error.
        part: &'static str,
    },
    /// JSON, but not an object.
    #[error("{part} is not a JSON object")]
    NotObject {
        /// The text, or the part of a token, that contains the error.
        part: &'static str,
    },
    /// A member name occurs twice in one object (RFC 7515 section 4, RFC 8725 section 2.4).
    #[error("{part} has a duplicate member")]
    DuplicateMember {
        /// The text, or the part of a token, that contains the error.
        part: &'static str,
    },
    /// A member is missing, or has another JSON type than specified.
    #[error("member `{member}` is missing or malformed")]
    Member {
        /// The member's name.
        member: &'static str,
    },
    /// The header has `crit` or `b64`; no extension is understood here (RFC 7515 section 4.1.11).
    #[error("the token demands an extension by `crit` or `b64`; none is supported")]
    CriticalHeader,
    /// `alg` is `none`, symmetric, unknown, or not compiled in.
    #[error("the signature algorithm is not accepted")]
    UnsupportedAlgorithm,
    /// The key is for another algorithm, use or operation than the token asks for.
    #[error("the key is not for the token's algorithm")]
    AlgorithmMismatch,
    /// The signature does not verify.
    #[error("the signature does not verify")]
    Signature,
    /// The value of `kty`, `crv`, `alg`, `use` or `key_ops` is not supported for verifying
    /// signatures.
    #[error("the key's type, curve, algorithm or use is not supported")]
    UnsupportedKey,
    /// The key has private members; a published key must not (RFC 7517 section 9.2).
    #[error("the key contains private members")]
    PrivateKey,
    /// A symmetric key (`kty` is `oct`).
    #[error("symmetric keys are never accepted")]
    SymmetricKey,
    /// An RSA key with fewer than 2048 or more than 8192 bits, a bad public exponent, or a
    /// modulus that is known to be weak.
    #[error("the RSA key is too weak or malformed")]
    WeakKey,
    /// The set has too many keys.
    #[error("the key set has more than {limit} keys")]
    TooManyKeys {
        /// The limit that was exceeded.
        limit: usize,
    },
    /// No key of the set has the token's `kid`.
    #[error("no key has the token's key identifier")]
    UnknownKey,
    /// Several keys of the set fit the token.
    #[error("several keys have the token's key identifier")]
    AmbiguousKey,
    /// A date is not a number between 0 and the end of the year 9999 (RFC 7519 section 2).
    #[error("not a numeric date")]
    NumericDate,
}
