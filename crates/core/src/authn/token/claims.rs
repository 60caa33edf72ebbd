//! Checks the claims of a token: issuer, audience, times, binding, scopes and others.
//!
//! The same rules apply to the payload of a JWT and to an introspection response (RFC 7662 section
//! 2.2). The two differ only in the members that must be present. [`super::jwt`] verifies
//! signatures, and [`super::introspection`] asks the issuer.

use std::sync::OnceLock;

use countersign_verify::jose::NumericDate;
use serde_json::{Map, Value};

use super::binding::CertificateBinding;
use super::token_type::TokenType;
use crate::identity::TokenClaims;
use crate::policy::Denial;
use crate::reason::ReasonCode;

/// Default tolerance in seconds for differences between the issuer's clock and the gateway's.
pub const DEFAULT_SKEW: u64 = 30;

/// The rules for the claims in all tokens of one issuer.
#[derive(Debug, Clone)]
pub struct ClaimRules {
    /// The required `iss`, compared byte by byte.
    pub issuer: String,
    /// The accepted audiences. A token must name at least one of them.
    pub audiences: Vec<String>,
    /// Whether tokens must be bound to the caller's certificate.
    pub binding: CertificateBinding,
    /// Tolerance in seconds for differences between the issuer's clock and the gateway's.
    pub skew: u64,
    /// The names of claims that are copied into the assertion.
    pub keep: Vec<String>,
}

/// What one route demands of a token, in addition to the rules of its issuer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Demands {
    /// An audience that the token must name, if set.
    pub audience: Option<String>,
    /// The scopes that the token must have. All are required.
    pub scopes: Vec<String>,
    /// Claims and their permitted values. If the claim is an array, it must contain one of the
    /// values.
    pub claims: Vec<(String, Vec<Value>)>,
}

/// Where the claims come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The payload of a verified JWT of this type.
    Jwt(TokenType),
    /// The response of the issuer's introspection endpoint.
    Introspection,
}

impl ClaimRules {
    /// Checks `members`, the claims of a token. `hash` is the token's hash, `thumbprint` the
    /// SHA-256 of the client certificate, and `now` the time in seconds since the Unix epoch.
    ///
    /// # Errors
    /// A [`Denial`] with one of the token reasons.
    pub fn check(
        &self,
        members: Map<String, Value>,
        origin: Origin,
        hash: String,
        demands: &Demands,
        thumbprint: Option<&[u8; 32]>,
        now: u64,
    ) -> Result<TokenClaims, Denial> {
        refuse_identity_token(&members, origin)?;
        self.check_issuer(&members, origin)?;
        self.check_audience(&members, demands)?;
        let expires = self.check_times(&members, origin, now)?;
        let bound = self.binding.check(&members, thumbprint)?;
        let subject = text(&members, "sub")?;
        let token_id = text(&members, "jti")?;
        let client_id = client_id(&members)?;
        if origin == Origin::Jwt(TokenType::AccessToken) {
            // Whether each claim that RFC 9068 section 2.2 requires is present. The required claims
            // `iss`, `exp` and `aud` were already checked.
            let present = [
                ("sub", subject.is_some()),
                ("client_id", members.contains_key("client_id")),
                ("iat", members.contains_key("iat")),
                ("jti", token_id.is_some()),
            ];
            if let Some((name, _)) = present.iter().find(|(_, present)| !present) {
                return Err(malformed(format!("an at+jwt token must have {name}")));
            }
        }
        let scopes = scopes(&members)?;
        check_demands(&members, &scopes, demands)?;
        Ok(TokenClaims {
            issuer: self.issuer.clone(),
            subject,
            client_id,
            scope: (!scopes.is_empty()).then(|| scopes.join(" ")),
            token_id,
            hash,
            expires,
            bound,
            kept: members
                .into_iter()
                .filter(|(name, _)| self.keep.contains(name))
                .collect(),
            text: OnceLock::new(),
        })
    }

    /// Checks `iss` (RFC 8725 section 3.8). An introspection response may omit it, because it comes
    /// from the configured endpoint.
    fn check_issuer(&self, members: &Map<String, Value>, origin: Origin) -> Result<(), Denial> {
        match (members.get("iss"), origin) {
            (Some(Value::String(issuer)), _) if *issuer == self.issuer => Ok(()),
            (None, Origin::Introspection) => Ok(()),
            _ => Err(Denial::new(
                ReasonCode::TokenIssuer,
                format!("its iss is not {}", self.issuer),
            )),
        }
    }

    /// Checks `aud`: one string or an array of strings (RFC 7519 section 4.1.3).
    fn check_audience(
        &self,
        members: &Map<String, Value>,
        demands: &Demands,
    ) -> Result<(), Denial> {
        let named: Vec<&str> = match members.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several
                .iter()
                .map(Value::as_str)
                .collect::<Option<_>>()
                .ok_or_else(|| malformed("its aud has an item that is not a text"))?,
            None => Vec::new(),
            Some(_) => return Err(malformed("its aud is neither a text nor an array")),
        };
        let within = named
            .iter()
            .any(|name| self.audiences.iter().any(|audience| audience == name));
        let demanded = demands
            .audience
            .as_ref()
            .is_none_or(|audience| named.contains(&audience.as_str()));
        if within && demanded {
            return Ok(());
        }
        let wanted = demands
            .audience
            .clone()
            .unwrap_or_else(|| self.audiences.join(" or "));
        Err(Denial::new(
            ReasonCode::TokenAudience,
            format!("its aud does not name {wanted}"),
        ))
    }

    /// Checks the times (RFC 7519 sections 4.1.4 to 4.1.6) and returns `exp`. A token is invalid
    /// from `exp` on. The tolerance for clock differences does not extend `exp`, because no
    /// assertion may be valid for longer than its token.
    fn check_times(
        &self,
        members: &Map<String, Value>,
        origin: Origin,
        now: u64,
    ) -> Result<u64, Denial> {
        let expires = match (date(members, "exp")?, origin) {
            (Some(expires), _) => expires.floor(),
            // An introspection response may omit `exp` (RFC 7662 section 2.2). The token is valid
            // now, because the issuer has called it active, and its expiry is unknown.
            (None, Origin::Introspection) => u64::MAX,
            (None, Origin::Jwt(_)) => return Err(malformed("it has no exp")),
        };
        if now >= expires {
            return Err(Denial::new(
                ReasonCode::TokenExpired,
                format!("it expired {} s ago", now.saturating_sub(expires)),
            ));
        }
        let latest = now.saturating_add(self.skew);
        for name in ["nbf", "iat"] {
            if date(members, name)?.is_some_and(|moment| moment.ceil() > latest) {
                return Err(Denial::new(
                    ReasonCode::TokenNotYetValid,
                    format!("its {name} lies in the future"),
                ));
            }
        }
        Ok(expires)
    }
}

/// Refuses identity tokens and logout tokens (RFC 8725 section 3.12). If the header does not show
/// that the token is an access token, refuses claims that only identity tokens and logout tokens
/// have.
fn refuse_identity_token(members: &Map<String, Value>, origin: Origin) -> Result<(), Denial> {
    let ambiguous = matches!(origin, Origin::Jwt(TokenType::Jwt | TokenType::Untyped));
    let telltale = ["at_hash", "c_hash", "s_hash", "events"]
        .into_iter()
        .find(|name| members.contains_key(*name));
    match telltale {
        Some(name) if ambiguous => Err(Denial::new(
            ReasonCode::TokenType,
            format!("it has {name}, which access tokens do not have"),
        )),
        _ => Ok(()),
    }
}

fn check_demands(
    members: &Map<String, Value>,
    scopes: &[&str],
    demands: &Demands,
) -> Result<(), Denial> {
    if let Some(scope) = demands
        .scopes
        .iter()
        .find(|scope| !scopes.contains(&scope.as_str()))
    {
        return Err(Denial::new(
            ReasonCode::TokenScope,
            format!("it lacks the scope {scope}"),
        ));
    }
    for (name, accepted) in &demands.claims {
        let has = match members.get(name) {
            None => false,
            Some(Value::Array(values)) => values.iter().any(|value| accepted.contains(value)),
            Some(value) => accepted.contains(value),
        };
        if !has {
            return Err(Denial::new(
                ReasonCode::TokenScope,
                format!("its claim {name} has no value that this route accepts"),
            ));
        }
    }
    Ok(())
}

/// Reads `scope` (RFC 8693 section 4.2). If it is absent, reads `scp`, which some issuers use
/// instead.
fn scopes(members: &Map<String, Value>) -> Result<Vec<&str>, Denial> {
    match members.get("scope").or_else(|| members.get("scp")) {
        None => Ok(Vec::new()),
        Some(Value::String(scopes)) => Ok(scopes.split(' ').filter(|s| !s.is_empty()).collect()),
        Some(Value::Array(scopes)) => scopes
            .iter()
            // If a scope contained a space, the assertion would show it as two scopes.
            .map(|scope| scope.as_str().filter(|s| !s.is_empty() && !s.contains(' ')))
            .collect::<Option<_>>()
            .ok_or_else(|| malformed("its scopes are not texts")),
        Some(_) => Err(malformed("its scope is neither a text nor an array")),
    }
}

/// Reads `client_id` (RFC 8693 section 4.3), or `azp` if `client_id` is absent. If both are
/// present, they must be equal.
fn client_id(members: &Map<String, Value>) -> Result<Option<String>, Denial> {
    match (text(members, "client_id")?, text(members, "azp")?) {
        (Some(client), Some(party)) if client != party => {
            Err(malformed("its client_id and azp name different clients"))
        }
        (Some(client), _) => Ok(Some(client)),
        (None, party) => Ok(party),
    }
}

fn text(members: &Map<String, Value>, name: &str) -> Result<Option<String>, Denial> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(malformed(format!("its {name} is not a text"))),
    }
}

fn date(members: &Map<String, Value>, name: &str) -> Result<Option<NumericDate>, Denial> {
    members
        .get(name)
        .map(NumericDate::from_json)
        .transpose()
        .map_err(|_| malformed(format!("its {name} is not a numeric date")))
}

fn malformed(detail: impl Into<String>) -> Denial {
    Denial::new(ReasonCode::TokenMalformed, detail)
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
