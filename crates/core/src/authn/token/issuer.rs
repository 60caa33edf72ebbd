//! `TokenIssuer`: checks the tokens of one configured issuer.
//!
//! The issuer combines rules ([`super::jwt`], [`super::claims`]), keys ([`super::jwks`]),
//! introspection and the cache. Each route names its issuer, so that the content of a token never
//! selects the issuer that checks it.

use std::fmt;
use std::sync::Arc;

use countersign_verify::jose::base64url_encode;

use super::cache::{CacheKey, CacheSettings, Judgement, TokenCache};
use super::claims::{ClaimRules, Demands, Origin};
use super::introspection::Introspector;
use super::jwks::IssuerKeys;
use super::jwt::{TokenRules, UnverifiedToken};
use crate::crypto;
use crate::http_client::FetchError;
use crate::identity::{ShareKey, TokenClaims};
use crate::policy::Denial;
use crate::reason::ReasonCode;

/// How often the gateway asks the issuer about one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Introspection {
    /// The issuer is asked only if the gateway cannot check the issuer's tokens itself, and no
    /// judgement about the token is cached.
    AsNeeded,
    /// The issuer is asked for each request.
    Always,
    /// The issuer is asked at most once in this number of seconds.
    OncePer(u64),
}

/// The demands of a route on tokens, with their hash for the cache.
#[derive(Debug, Clone)]
pub struct RouteDemands {
    demands: Demands,
    introspection: Introspection,
    hash: [u8; 32],
}

impl RouteDemands {
    /// Creates the demands of one route.
    #[must_use]
    pub fn new(demands: Demands, introspection: Introspection) -> Self {
        // Routes with the same demands may share judgements. The `Debug` text is unique for
        // different demands, because it quotes strings.
        let hash = crypto::sha256(format!("{demands:?}|{introspection:?}").as_bytes());
        Self {
            demands,
            introspection,
            hash,
        }
    }

    /// Returns a hash of the demands. Routes with the same demands have the same hash.
    #[must_use]
    pub const fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Returns the scopes that a challenge names.
    #[must_use]
    pub fn scopes(&self) -> &[String] {
        &self.demands.scopes
    }
}

/// The caller and the connection that present a token.
#[derive(Debug, Clone, Copy)]
pub struct Presenter<'a> {
    /// The caller for which requests to the issuer are counted.
    pub caller: ShareKey,
    /// The SHA-256 of the connection's client certificate.
    pub thumbprint: Option<&'a [u8; 32]>,
    /// The current time, in seconds since the Unix epoch.
    pub now: u64,
}

/// How the tokens of an issuer are checked.
#[derive(Debug)]
pub enum TokenCheck {
    /// The tokens are JWTs. A route may require introspection in addition.
    Jwt {
        /// The issuer's keys.
        keys: IssuerKeys,
        /// The rules for accepted tokens.
        rules: TokenRules,
        /// The introspection endpoint, if there is one.
        introspector: Option<Introspector>,
    },
    /// Only the issuer can check the tokens, by introspection.
    Introspection {
        /// The introspection endpoint.
        introspector: Introspector,
        /// The rules for the claims of accepted tokens.
        rules: ClaimRules,
    },
}

/// One configured issuer of tokens.
pub struct TokenIssuer {
    name: String,
    check: TokenCheck,
    cache: TokenCache,
    provenance: Provenance,
    required_at_start: bool,
}

/// Hashes of an issuer's configuration. A comparison after a reload shows whether the configuration
/// has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Provenance {
    /// A hash of all settings and files that judgements depend on. Fetched keys are not in the
    /// hash.
    pub rules: [u8; 32],
    /// A hash of the settings for fetching keys: address, roots, timeout and lifetime. Zero if no
    /// keys are fetched.
    pub keys: [u8; 32],
}

impl TokenIssuer {
    /// Creates an issuer. `name` is its name in the configuration.
    #[must_use]
    pub fn new(name: impl Into<String>, check: TokenCheck, cache: CacheSettings) -> Self {
        Self {
            name: name.into(),
            check,
            cache: TokenCache::new(cache),
            provenance: Provenance::default(),
            required_at_start: false,
        }
    }

    /// Sets whether the gateway must not start without the keys of this issuer.
    #[must_use]
    pub const fn required_at_start(mut self, required: bool) -> Self {
        self.required_at_start = required;
        self
    }

    /// Fetches the keys of the issuer, if the gateway must not start without them.
    ///
    /// # Errors
    /// Returns the reason why the keys cannot be fetched.
    pub async fn prepare(&self) -> Result<(), FetchError> {
        match self.keys() {
            Some(keys) if self.required_at_start => keys.fetch().await,
            _ => Ok(()),
        }
    }

    /// Stores the hashes of the configuration from which the issuer was built.
    #[must_use]
    pub const fn made_from(mut self, provenance: Provenance) -> Self {
        self.provenance = provenance;
        self
    }

    /// Returns the keys of this issuer for its successor after a reload, so that fetched keys stay
    /// in use. Returns `None` if the successor fetches its keys in another way.
    #[must_use]
    pub fn keys_for(&self, provenance: &Provenance) -> Option<IssuerKeys> {
        let same = self.provenance.keys == provenance.keys;
        self.keys().filter(|_| same).cloned()
    }

    /// Returns a hash of all settings and files that judgements depend on. Fetched keys are not in
    /// the hash.
    #[must_use]
    pub const fn rules(&self) -> &[u8; 32] {
        &self.provenance.rules
    }

    /// Sets the runtime on which keys are fetched and the issuer is asked. Also starts the task
    /// that refreshes the keys. Must be called when the issuer is put into service.
    pub fn start(&self, runtime: &tokio::runtime::Handle) {
        let introspector = match &self.check {
            TokenCheck::Jwt {
                keys, introspector, ..
            } => {
                keys.refresh_in_background(runtime);
                introspector.as_ref()
            }
            TokenCheck::Introspection { introspector, .. } => Some(introspector),
        };
        if let Some(introspector) = introspector {
            introspector.run_on(runtime);
        }
    }

    /// Returns a problem of the issuer that an operator should know about, if any.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let why = self.keys()?.problem()?;
        Some(format!(
            "token issuer {}: {why}; its tokens are refused with keys-unavailable",
            self.name
        ))
    }

    /// Returns the name of the issuer in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the `iss` of the issuer, for challenges and metadata.
    #[must_use]
    pub fn issuer(&self) -> &str {
        match &self.check {
            TokenCheck::Jwt { rules, .. } => &rules.claims.issuer,
            TokenCheck::Introspection { rules, .. } => &rules.issuer,
        }
    }

    /// Returns the keys of the issuer, if it has keys.
    #[must_use]
    pub const fn keys(&self) -> Option<&IssuerKeys> {
        match &self.check {
            TokenCheck::Jwt { keys, .. } => Some(keys),
            TokenCheck::Introspection { .. } => None,
        }
    }

    /// Returns the cached judgements about the issuer's tokens.
    #[must_use]
    pub const fn cache(&self) -> &TokenCache {
        &self.cache
    }

    /// Checks a token for a route and a connection. If necessary, asks the issuer on behalf of
    /// `presenter`.
    ///
    /// # Errors
    /// A [`Denial`] with one of the token reasons, or `keys-unavailable` if the token could not be
    /// checked.
    pub async fn judge(
        &self,
        token: &str,
        demands: &RouteDemands,
        presenter: Presenter<'_>,
    ) -> Judgement {
        let positive = match demands.introspection {
            Introspection::Always => return self.check(token, demands, presenter).await,
            Introspection::OncePer(seconds) => Some(seconds),
            Introspection::AsNeeded => None,
        };
        let generation = self.generation(token).await?;
        let thumbprint = presenter.thumbprint;
        let key = CacheKey::new(token, &self.name, generation, &demands.hash, thumbprint);
        let check = self.check(token, demands, presenter);
        let now = presenter.now;
        self.cache.get_or_check(key, positive, now, check).await
    }

    /// Checks a token without asking the issuer. Returns `None` if the issuer would have to be
    /// asked.
    pub fn judge_at_hand(
        &self,
        token: &str,
        demands: &RouteDemands,
        thumbprint: Option<&[u8; 32]>,
        now: u64,
    ) -> Option<Judgement> {
        let TokenCheck::Jwt { keys, rules, .. } = &self.check else {
            return None;
        };
        let keys = keys.at_hand()?;
        let judged = UnverifiedToken::parse(token, rules).and_then(|unverified| {
            unverified.verify(&keys.set, rules, &demands.demands, thumbprint, now)
        });
        match (judged, demands.introspection) {
            (Err(denial), _) => Some(Err(denial)),
            (Ok(claims), Introspection::AsNeeded) => Some(Ok(Arc::new(claims))),
            // Only the issuer knows whether the token is still active.
            (Ok(_), _) => None,
        }
    }

    /// Returns the number of the key set that checks a token. If there are no usable keys, fetches
    /// keys first, because no cached judgement is valid without them.
    async fn generation(&self, token: &str) -> Result<u64, Denial> {
        let TokenCheck::Jwt { keys, rules, .. } = &self.check else {
            return Ok(0);
        };
        if let Some(generation) = keys.generation() {
            return Ok(generation);
        }
        // A token whose form, type or algorithm is refused never causes a request to the issuer.
        let unverified = UnverifiedToken::parse(token, rules)?;
        let fetched = keys.for_key(unverified.key_id()).await;
        fetched.map_err(|error| self.without_keys(&error))?;
        keys.generation()
            .ok_or_else(|| self.without_keys(&FetchError::Unreachable))
    }

    fn without_keys(&self, error: &FetchError) -> Denial {
        tracing::warn!(issuer = %self.name, %error, "no keys to check a token with");
        Denial::new(
            ReasonCode::KeysUnavailable,
            "the issuer's keys cannot be had at the moment",
        )
    }

    async fn check(
        &self,
        token: &str,
        demands: &RouteDemands,
        presenter: Presenter<'_>,
    ) -> Judgement {
        match &self.check {
            TokenCheck::Introspection {
                introspector,
                rules,
            } => introspect(introspector, rules, token, demands, presenter).await,
            TokenCheck::Jwt {
                keys,
                rules,
                introspector,
            } => {
                let unverified = UnverifiedToken::parse(token, rules)?;
                let keys = keys.for_key(unverified.key_id()).await;
                let keys = keys.map_err(|error| self.without_keys(&error))?;
                let Presenter {
                    thumbprint, now, ..
                } = presenter;
                let claims =
                    unverified.verify(&keys.set, rules, &demands.demands, thumbprint, now)?;
                match (demands.introspection, introspector) {
                    (Introspection::AsNeeded, _) => Ok(Arc::new(claims)),
                    (_, Some(introspector)) => {
                        // The issuer is asked only about tokens that have passed all checks of the
                        // gateway.
                        let rules = &rules.claims;
                        introspect(introspector, rules, token, demands, presenter).await?;
                        Ok(Arc::new(claims))
                    }
                    // A valid configuration excludes this case. If it occurs nevertheless, the
                    // denial makes sure that no token is accepted.
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
    presenter: Presenter<'_>,
) -> Result<Arc<TokenClaims>, Denial> {
    let Some(members) = introspector.ask(token, presenter.caller).await? else {
        return Err(Denial::new(
            ReasonCode::TokenInactive,
            "the issuer says that it is not active",
        ));
    };
    let hash = base64url_encode(&crypto::sha256(token.as_bytes()));
    rules
        .check(
            Arc::unwrap_or_clone(members),
            Origin::Introspection,
            hash,
            &demands.demands,
            presenter.thumbprint,
            presenter.now,
        )
        .map(Arc::new)
}

#[cfg(test)]
#[path = "issuer_tests.rs"]
mod tests;
