//! JWT access tokens: checks a token with an issuer's keys and rules. Returns claims or a denial.
//!
//! The functions here use no clock, no network and no cache. [`super::jwks`] provides the keys,
//! [`super::claims`] checks the payload, and [`super::issuer`] combines them. The order of the
//! checks is fixed, so that the same token always gets the same reason: form, type, algorithm, key,
//! signature, claims. Logs and `Debug` output never contain a token, but may contain its hash.

use std::fmt;

use countersign_verify::jose::{
    Algorithm, CompactJws, JoseError, JwkSet, MAX_TOKEN_BYTES, base64url_encode, parse_object,
};
use serde_json::{Map, Value};

use super::claims::{ClaimRules, Demands, Origin};
use super::token_type::TokenType;
use crate::crypto;
use crate::identity::TokenClaims;
use crate::policy::Denial;
use crate::reason::ReasonCode;

/// All algorithms that can be accepted. All of them are asymmetric.
pub const ALL_ALGORITHMS: [Algorithm; 9] = [
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::EdDsa,
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
];

/// The rules for JWTs of one issuer.
#[derive(Debug, Clone)]
pub struct TokenRules {
    /// The rules for the claims.
    pub claims: ClaimRules,
    /// The accepted signature algorithms. A single key may allow fewer.
    pub algorithms: Vec<Algorithm>,
    /// The accepted token types.
    pub types: Vec<TokenType>,
}

/// A token whose form, type and algorithm were checked. Its signature and claims were not checked.
pub struct UnverifiedToken<'a> {
    jws: CompactJws<'a>,
    token_type: TokenType,
    hash: [u8; 32],
}

impl<'a> UnverifiedToken<'a> {
    /// Checks everything that needs no key: the form, and by `rules` the type and the algorithm.
    ///
    /// # Errors
    /// `token-malformed`, `token-type` or `token-algorithm`.
    pub fn parse(token: &'a str, rules: &TokenRules) -> Result<Self, Denial> {
        let jws = CompactJws::parse(token, MAX_TOKEN_BYTES).map_err(refusal)?;
        let header = jws.header();
        check_parameters(header.members())?;
        let token_type = TokenType::of_header(header.token_type())
            .filter(|token_type| rules.types.contains(token_type))
            .ok_or_else(|| {
                Denial::new(
                    ReasonCode::TokenType,
                    "its typ is not one that this issuer's access tokens have",
                )
            })?;
        if !rules.algorithms.contains(&header.algorithm()) {
            return Err(Denial::new(
                ReasonCode::TokenAlgorithm,
                format!("{} is not accepted from this issuer", header.algorithm()),
            ));
        }
        Ok(Self {
            jws,
            token_type,
            hash: crypto::sha256(token.as_bytes()),
        })
    }

    /// Returns the `kid`. It may only select one of the issuer's own keys.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.jws.header().key_id()
    }

    /// Verifies the signature with one of `keys`, and then checks the claims. `thumbprint` is the
    /// SHA-256 of the connection's client certificate.
    ///
    /// # Errors
    /// A [`Denial`] with one of the token reasons.
    pub fn verify(
        &self,
        keys: &JwkSet,
        rules: &TokenRules,
        demands: &Demands,
        thumbprint: Option<&[u8; 32]>,
        now: u64,
    ) -> Result<TokenClaims, Denial> {
        let payload = keys
            .key_for(self.jws.header())
            .and_then(|key| self.jws.verify(key))
            .map_err(refusal)?;
        let members = parse_object(payload, "payload").map_err(refusal)?;
        rules.claims.check(
            members,
            Origin::Jwt(self.token_type),
            base64url_encode(&self.hash),
            demands,
            thumbprint,
            now,
        )
    }
}

/// Checks the header parameters. Registered parameters must have their registered type (RFC 7515
/// section 4.1). Parameters for encryption or embedded keys are refused. Parameters with addresses
/// or thumbprints of keys are ignored, because keys come only from the configured issuer (RFC 8725
/// section 3.10).
fn check_parameters(members: &Map<String, Value>) -> Result<(), Denial> {
    for (name, value) in members {
        let good = match name.as_str() {
            "cty" | "jku" | "x5u" | "x5t" | "x5t#S256" | "url" | "nonce" => value.is_string(),
            "x5c" => value
                .as_array()
                .is_some_and(|items| items.iter().all(Value::is_string)),
            "jwk" | "enc" | "zip" => false,
            _ => true,
        };
        if !good {
            return Err(Denial::new(
                ReasonCode::TokenMalformed,
                "its header has a parameter that is malformed or out of place",
            ));
        }
    }
    Ok(())
}

/// Prints only the header. If a log contained the whole token, readers of the log could use it.
impl fmt::Debug for UnverifiedToken<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("UnverifiedToken")
            .field("header", self.jws.header())
            .finish_non_exhaustive()
    }
}

/// Checks a token in one step, with keys that were already fetched.
///
/// # Errors
/// A [`Denial`] with one of the token reasons.
pub fn validate(
    token: &str,
    keys: &JwkSet,
    rules: &TokenRules,
    demands: &Demands,
    thumbprint: Option<&[u8; 32]>,
    now: u64,
) -> Result<TokenClaims, Denial> {
    UnverifiedToken::parse(token, rules)?.verify(keys, rules, demands, thumbprint, now)
}

/// Converts an error of the JOSE module to a denial.
#[must_use]
pub fn refusal(error: JoseError) -> Denial {
    let reason = match error {
        JoseError::UnsupportedAlgorithm | JoseError::AlgorithmMismatch => {
            ReasonCode::TokenAlgorithm
        }
        JoseError::Signature
        | JoseError::UnknownKey
        | JoseError::AmbiguousKey
        | JoseError::UnsupportedKey
        | JoseError::WeakKey => ReasonCode::TokenSignature,
        _ => ReasonCode::TokenMalformed,
    };
    Denial::new(reason, error.to_string())
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
