//! `RouteToken`: what one route does about bearer tokens, for the request path.
//!
//! Finds the token, has its issuer judge it, holds it against the caller, and
//! words the challenge when there is none or it is not good. It must not decide
//! whether the caller may use the route: that is [`crate::policy`]'s.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};

use super::certificate::ConnectionProof;
use super::challenge::{bearer_token, challenge};
use super::claims::TokenClaims;
use super::token::{RouteDemands, TokenIssuer};
use crate::identity::IdentityPattern;
use crate::policy::Denial;
use crate::reason::ReasonCode;

/// How a token's `client_id` and the certificate that comes with it have to fit.
#[derive(Debug, Clone)]
pub enum ClientRule {
    /// They are unrelated: only `cnf` ties them.
    Any,
    /// `client_id` is the caller's name, as in `sub` of the assertion.
    IsCaller,
    /// Each client with the callers that may use its tokens; others are refused.
    Listed(Vec<(String, Vec<IdentityPattern>)>),
}

/// What a route demands of tokens, and of whom.
#[derive(Debug, Clone)]
pub struct RouteToken {
    /// Who judges.
    pub issuer: Arc<TokenIssuer>,
    /// What is demanded.
    pub demands: RouteDemands,
    /// How client and caller have to fit.
    pub client: ClientRule,
    /// The address of the route's metadata (RFC 9728).
    pub metadata: String,
    /// Whether `Authorization` goes to the service.
    pub forward: bool,
}

impl RouteToken {
    /// The claims of the request's token; none when it has no token. `now` is
    /// in seconds since the Unix epoch.
    ///
    /// # Errors
    /// A [`Denial`]: one of the token reasons, `malformed-request` for more than
    /// one credential, `caller-not-allowed` for another client's token.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        proof: Option<&ConnectionProof>,
        now: u64,
    ) -> Result<Option<Arc<TokenClaims>>, Denial> {
        let Some(token) = bearer_token(headers, query)? else {
            return Ok(None);
        };
        let thumbprint = proof.map(|proof| &proof.identity.leaf().thumbprint);
        let claims = self
            .issuer
            .judge(token, &self.demands, thumbprint, now)
            .await?;
        // After the cache: judgements do not depend on who the caller is.
        self.check_client(&claims, proof)?;
        Ok(Some(claims))
    }

    /// The `WWW-Authenticate` field for a refusal with this reason; none when a
    /// token would not help.
    #[must_use]
    pub fn challenge(&self, reason: ReasonCode) -> Option<HeaderValue> {
        let helps = matches!(reason.status(), 400 | 401) || reason == ReasonCode::TokenScope;
        helps.then(|| challenge(reason, &self.metadata, self.demands.scopes()))
    }

    fn check_client(
        &self,
        claims: &TokenClaims,
        proof: Option<&ConnectionProof>,
    ) -> Result<(), Denial> {
        let (ClientRule::IsCaller | ClientRule::Listed(_), Some(proof)) = (&self.client, proof)
        else {
            return Ok(());
        };
        let caller = proof.identity.caller();
        let fits = claims
            .client_id
            .as_ref()
            .is_some_and(|client| match &self.client {
                ClientRule::Any => true,
                ClientRule::IsCaller => *client == caller.to_string(),
                ClientRule::Listed(clients) => clients
                    .iter()
                    .filter(|(name, _)| name == client)
                    .any(|(_, callers)| callers.iter().any(|pattern| pattern.matches(caller))),
            });
        if fits {
            Ok(())
        } else {
            Err(Denial::new(
                ReasonCode::CallerNotAllowed,
                format!("the token belongs to another client than {caller} may act for"),
            ))
        }
    }
}
