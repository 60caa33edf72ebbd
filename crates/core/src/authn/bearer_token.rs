//! `TokenAuthenticator`: handles bearer tokens on one route.
//!
//! The authenticator finds the token, and a [`TokenIssuer`] checks the token. The authenticator
//! then compares the token with the certificate of the caller. If the token is absent or invalid,
//! the authenticator creates the challenge. [`crate::policy`] decides whether the caller may use
//! the route.

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

/// How a token's `client_id` must match the certificate that accompanies it.
#[derive(Debug, Clone)]
pub enum ClientRule {
    /// No match is required. Only `cnf` can bind the token to the certificate.
    Any,
    /// `client_id` must be the caller's name, in the form of the assertion's `sub`.
    IsCaller,
    /// A list of clients. Each entry contains the callers that may use the client's tokens. Other
    /// clients are refused.
    Listed(Vec<(String, Vec<IdentityPattern>)>),
}

/// Authenticates the requests of one route by bearer tokens.
#[derive(Debug)]
pub struct TokenAuthenticator {
    /// The issuer whose rules and keys check the token.
    pub issuer: Arc<TokenIssuer>,
    /// What the route demands of a token, in addition to the rules of the issuer.
    pub demands: RouteDemands,
    /// How `client_id` must match the caller's certificate.
    pub client: ClientRule,
    /// How the route treats the certificate of the connection.
    pub beside: Beside,
    /// The identifier of the protected resource. If `None`, the requested URL is used.
    pub resource: Option<String>,
}

impl TokenAuthenticator {
    fn conclude(&self, judgement: Judgement, credentials: &Credentials<'_>) -> Outcome {
        match judgement.and_then(|claims| self.principal(claims, credentials)) {
            Ok(principal) => Outcome::Authenticated(principal),
            Err(denial) => Outcome::Denied(denial),
        }
    }

    /// Returns the principal that a token and a certificate name. A cached judgement about a token
    /// does not depend on the caller, so this function also runs for cached judgements.
    fn principal(
        &self,
        claims: Arc<TokenClaims>,
        credentials: &Credentials<'_>,
    ) -> Result<Principal, Denial> {
        // The expiry is checked here too, because `recheck` may use claims of a token that has
        // expired since the earlier check. An assertion must not be valid for longer than its
        // token.
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
    // The certificate is needed even if it does not name the caller, because a bound token is
    // compared with it.
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
                None => {
                    let addresses = credentials.addresses;
                    ShareKey::of_address(addresses.caller.unwrap_or(addresses.connection))
                }
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
            // Only the issuer could check the token again, but a request to the issuer would take
            // too long. The rules have not changed since the token was accepted, so the token stays
            // accepted.
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
