//! `TokenIssuer`: everything about the tokens of one configured issuer.
//!
//! Brings together rules ([`super::bearer`], [`super::claims`]), keys
//! ([`super::jwks`]), introspection and the cache. A route names its issuer, so
//! nothing in a token ever chooses who judges it.

use std::fmt;
use std::sync::Arc;

use countersign_verify::jose::base64url_encode;

use super::bearer::{TokenRules, UnverifiedToken};
use super::claims::{ClaimRules, Demands, Origin, TokenClaims};
use super::introspection::Introspector;
use super::jwks::IssuerKeys;
use super::token_cache::{CacheKey, CacheSettings, Judgement, TokenCache};
use crate::crypto;
use crate::policy::Denial;
use crate::reason::ReasonCode;

/// How often a route has the issuer asked about one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Introspection {
    /// Never, unless there is no other way to check the issuer's tokens; then
    /// as often as the cache forgets.
    AsNeeded,
    /// At every request.
    Always,
    /// Once in this many seconds.
    OncePer(u64),
}

/// What a route demands of tokens, ready for look-ups.
#[derive(Debug, Clone)]
pub struct RouteDemands {
    demands: Demands,
    introspection: Introspection,
    hash: [u8; 32],
}

impl RouteDemands {
    /// Demands of one route.
    #[must_use]
    pub fn new(demands: Demands, introspection: Introspection) -> Self {
        // Two routes with the same demands may share judgements; `Debug` of
        // these types tells different demands apart, because texts are quoted.
        let hash = crypto::sha256(format!("{demands:?}|{introspection:?}").as_bytes());
        Self {
            demands,
            introspection,
            hash,
        }
    }

    /// The scopes to name in a challenge.
    #[must_use]
    pub fn scopes(&self) -> &[String] {
        &self.demands.scopes
    }
}

/// How an issuer's tokens are checked.
#[derive(Debug)]
pub enum TokenCheck {
    /// They are JWTs; routes may have them introspected as well.
    Jwt {
        /// The issuer's keys.
        keys: IssuerKeys,
        /// What is accepted.
        rules: TokenRules,
        /// Where there is an introspection endpoint.
        introspector: Option<Introspector>,
    },
    /// Only the issuer can tell.
    Introspection {
        /// The endpoint.
        introspector: Introspector,
        /// What is accepted.
        rules: ClaimRules,
    },
}

/// One configured issuer of tokens.
pub struct TokenIssuer {
    name: String,
    check: TokenCheck,
    cache: TokenCache,
}

impl TokenIssuer {
    /// An issuer by its name in the configuration.
    #[must_use]
    pub fn new(name: impl Into<String>, check: TokenCheck, cache: CacheSettings) -> Self {
        Self {
            name: name.into(),
            check,
            cache: TokenCache::new(cache),
        }
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its `iss`, for challenges and metadata.
    #[must_use]
    pub fn issuer(&self) -> &str {
        match &self.check {
            TokenCheck::Jwt { rules, .. } => &rules.claims.issuer,
            TokenCheck::Introspection { rules, .. } => &rules.issuer,
        }
    }

    /// Its keys, where it has some.
    #[must_use]
    pub const fn keys(&self) -> Option<&IssuerKeys> {
        match &self.check {
            TokenCheck::Jwt { keys, .. } => Some(keys),
            TokenCheck::Introspection { .. } => None,
        }
    }

    /// Judgements about its tokens.
    #[must_use]
    pub const fn cache(&self) -> &TokenCache {
        &self.cache
    }

    /// Judges a token for a route and a connection. `thumbprint` is the SHA-256
    /// of the connection's client certificate, `now` in seconds since the Unix
    /// epoch.
    ///
    /// # Errors
    /// A [`Denial`] with one of the token reasons; `keys-unavailable` when the
    /// token could not be checked.
    pub async fn judge(
        &self,
        token: &str,
        demands: &RouteDemands,
        thumbprint: Option<&[u8; 32]>,
        now: u64,
    ) -> Judgement {
        let positive = match demands.introspection {
            Introspection::Always => return self.check(token, demands, thumbprint, now).await,
            Introspection::OncePer(seconds) => Some(seconds),
            Introspection::AsNeeded => None,
        };
        let generation = self.keys().map_or(0, IssuerKeys::generation);
        let key = CacheKey::new(token, &self.name, generation, &demands.hash, thumbprint);
        let check = self.check(token, demands, thumbprint, now);
        self.cache.get_or_check(key, positive, now, check).await
    }

    async fn check(
        &self,
        token: &str,
        demands: &RouteDemands,
        thumbprint: Option<&[u8; 32]>,
        now: u64,
    ) -> Judgement {
        match &self.check {
            TokenCheck::Introspection {
                introspector,
                rules,
            } => introspect(introspector, rules, token, demands, thumbprint, now).await,
            TokenCheck::Jwt {
                keys,
                rules,
                introspector,
            } => {
                let unverified = UnverifiedToken::parse(token, rules)?;
                let keys = keys.for_key(unverified.key_id()).await.map_err(|error| {
                    tracing::warn!(issuer = %self.name, %error, "no keys to check a token with");
                    Denial::new(
                        ReasonCode::KeysUnavailable,
                        "the issuer's keys cannot be had at the moment",
                    )
                })?;
                let claims =
                    unverified.verify(&keys.set, rules, &demands.demands, thumbprint, now)?;
                match (demands.introspection, introspector) {
                    (Introspection::AsNeeded, _) => Ok(Arc::new(claims)),
                    (_, Some(introspector)) => {
                        // Only tokens that are good so far reach the issuer.
                        let rules = &rules.claims;
                        introspect(introspector, rules, token, demands, thumbprint, now).await?;
                        Ok(Arc::new(claims))
                    }
                    // The configuration refuses this; a token must not pass for it.
                    (_, None) => Err(Denial::new(
                        ReasonCode::KeysUnavailable,
                        "the issuer has no introspection endpoint",
                    )),
                }
            }
        }
    }
}

impl fmt::Debug for TokenIssuer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TokenIssuer")
            .field("name", &self.name)
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

async fn introspect(
    introspector: &Introspector,
    rules: &ClaimRules,
    token: &str,
    demands: &RouteDemands,
    thumbprint: Option<&[u8; 32]>,
    now: u64,
) -> Result<Arc<TokenClaims>, Denial> {
    let Some(members) = introspector.ask(token).await? else {
        return Err(Denial::new(
            ReasonCode::TokenInactive,
            "the issuer says that it is not active",
        ));
    };
    let hash = base64url_encode(&crypto::sha256(token.as_bytes()));
    rules
        .check(
            members,
            Origin::Introspection,
            hash,
            &demands.demands,
            thumbprint,
            now,
        )
        .map(Arc::new)
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
