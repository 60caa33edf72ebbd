//! `TokenAuthenticator`: the handling of bearer tokens on one route.
//!
//! Finds the token, has its issuer check it, compares it with the caller, and writes the challenge
//! if the token is absent or invalid. [`crate::policy`] decides whether the caller may use the
//! route.

use std::sync::Arc;

use super::authenticator::{Authenticator, Credentials, Outcome, Resource};
use super::beside::Beside;
use super::challenge::{bearer_token, challenge, metadata_url};
use super::connection_proof::ConnectionProof;
use super::token::cache::Judgement;
use super::token::issuer::{Presenter, RouteDemands, TokenIssuer};
use crate::crypto;
use crate::identity::{CallerName, IdentityPattern, Method, Principal, ShareKey, TokenClaims};
use crate::now_or_later::NowOrLater;
use crate::policy::Denial;
use crate::reason::ReasonCode;

/// How a token's `client_id` must match the certificate that accompanies the token.
#[derive(Debug, Clone)]
pub enum ClientRule {
    /// The two need not match: only `cnf` binds them.
    Any,
    /// `client_id` is the caller's name, as in `sub` of the assertion.
    IsCaller,
    /// Each client with the callers that may use its tokens. Other clients are refused.
    Listed(Vec<(String, Vec<IdentityPattern>)>),
}

/// Authenticates one route's requests by tokens.
#[derive(Debug)]
pub struct TokenAuthenticator {
    /// The issuer that judges the token.
    pub issuer: Arc<TokenIssuer>,
    /// The demands of the route.
    pub demands: RouteDemands,
    /// How client and caller must match.
    pub client: ClientRule,
    /// How the route treats the certificate of the connection.
    pub beside: Beside,
    /// The identifier of the protected resource, if it is not the requested URL.
    pub resource: Option<String>,
}

impl TokenAuthenticator {
    fn conclude(&self, judgement: Judgement, credentials: &Credentials<'_>) -> Outcome {
        match judgement.and_then(|claims| self.principal(claims, credentials)) {
            Ok(principal) => Outcome::Authenticated(principal),
            Err(denial) => Outcome::Denied(denial),
        }
    }

    /// Called after the cache, because a cached judgement does not depend on the caller.
    fn principal(
        &self,
        claims: Arc<TokenClaims>,
        credentials: &Credentials<'_>,
    ) -> Result<Principal, Denial> {
        // Clocks may differ, but an assertion must not outlive the token.
        if credentials.now >= claims.expires {
            return Err(Denial::new(ReasonCode::TokenExpired, "it has just expired"));
        }
        if let Some(proof) = self.beside.certificate(credentials.proof) {
            self.check_client(&claims, proof)?;
            return Ok(proof.principal().with_token(claims));
        }
        let Some(client) = &claims.client_id else {
            return Err(Denial::new(
                ReasonCode::CallerNotAllowed,
                "the token names no client, and nothing else names the caller",
            ));
        };
        let name = CallerName::from_client(self.issuer.name(), client)
            .map_err(|error| Denial::new(ReasonCode::TokenMalformed, error.to_string()))?;
        Ok(Principal::named(name, credentials.now).with_token(claims))
    }

    fn check_client(&self, claims: &TokenClaims, proof: &ConnectionProof) -> Result<(), Denial> {
        let caller = proof.identity.caller();
        let client = claims.client_id.as_ref();
        let fits = match &self.client {
            ClientRule::Any => true,
            ClientRule::IsCaller => client.is_some_and(|client| *client == caller.to_string()),
            ClientRule::Listed(clients) => clients
                .iter()
                .filter(|(name, _)| client == Some(name))
                .any(|(_, callers)| callers.iter().any(|pattern| pattern.matches(caller))),
        };
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

fn thumbprint<'a>(credentials: &Credentials<'a>) -> Option<&'a [u8; 32]> {
    // Even if the certificate does not name the caller: a bound token needs it.
    credentials
        .proof
        .map(|proof| &proof.identity.leaf().thumbprint)
}

impl Authenticator for TokenAuthenticator {
    fn method(&self) -> Method {
        Method::Token
    }

    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> NowOrLater<'a, Outcome> {
        let presented = &credentials.presented.authorization;
        let token = match bearer_token(presented, credentials.query) {
            Ok(Some(token)) => token,
            Ok(None) => return NowOrLater::Now(Outcome::NotApplicable),
            Err(denial) => return NowOrLater::Now(Outcome::Denied(denial)),
        };
        let presenter = Presenter {
            caller: match credentials.proof {
                Some(proof) => ShareKey::of_caller(proof.identity.caller()),
                None => ShareKey::of_address(credentials.address),
            },
            thumbprint: thumbprint(credentials),
            now: credentials.now,
        };
        let judging = self.issuer.judge(token, &self.demands, presenter);
        NowOrLater::Later(Box::pin(async move {
            self.conclude(judging.await, credentials)
        }))
    }

    fn recheck(
        &self,
        credentials: &Credentials<'_>,
        earlier: &Principal,
        unchanged: bool,
    ) -> Outcome {
        let presented = &credentials.presented.authorization;
        let token = match bearer_token(presented, credentials.query) {
            Ok(Some(token)) => token,
            Ok(None) => return Outcome::NotApplicable,
            Err(denial) => return Outcome::Denied(denial),
        };
        let (thumbprint, now) = (thumbprint(credentials), credentials.now);
        let judgement = self
            .issuer
            .judge_at_hand(token, &self.demands, thumbprint, now);
        match (judgement, earlier.token()) {
            (Some(judgement), _) => self.conclude(judgement, credentials),
            // Asking again would take too long, and by these rules it was good.
            (None, Some(claims)) if unchanged => self.conclude(Ok(Arc::clone(claims)), credentials),
            (None, _) => Outcome::Denied(Denial::new(
                ReasonCode::KeysUnavailable,
                "the new configuration judges tokens by other rules",
            )),
        }
    }

    fn rules(&self) -> [u8; 32] {
        let mut all = format!("{:?}|{:?}", self.client, self.beside).into_bytes();
        all.extend_from_slice(self.issuer.rules());
        all.extend_from_slice(self.demands.hash());
        crypto::sha256(&all)
    }

    fn challenge(&self, reason: ReasonCode, resource: &Resource<'_>) -> Option<String> {
        let configured = self.resource.as_deref().and_then(metadata_url);
        let metadata = configured.unwrap_or_else(|| resource.metadata_url());
        Some(challenge(reason, &metadata, self.demands.scopes()))
    }
}
