//! Combines the authenticators of one route. The route requires that all of them succeed, or at
//! least one.
//!
//! Even if one credential is enough (`any`), every authenticator checks the request. If one
//! presented credential is invalid, the request is denied, even if another credential is valid. All
//! valid credentials must name the same caller.

use http::HeaderValue;

use super::authenticator::{Authenticator, Credentials, Outcome, Resource};
use crate::crypto;
use crate::identity::{Method, Principal};
use crate::policy::{self, Authentication, Denial};
use crate::reason::ReasonCode;

/// The authenticators of one route.
#[derive(Debug)]
pub struct Authenticators {
    authentication: Authentication,
    /// The authenticators in the order in which they run: the cheapest first.
    each: Vec<Box<dyn Authenticator>>,
    /// A hash of `authentication` and of the rules of all authenticators.
    rules: [u8; 32],
}

/// A denial, and the authentication method that caused it.
#[derive(Debug)]
pub struct AuthnDenial {
    /// The method whose credential is missing or invalid. `None` if the credentials contradict each
    /// other.
    pub by: Option<Method>,
    /// The denial itself.
    pub denial: Denial,
}

impl Authenticators {
    /// Creates the authenticators of a route that requires `authentication`.
    #[must_use]
    pub fn new(authentication: Authentication, mut each: Vec<Box<dyn Authenticator>>) -> Self {
        each.sort_by_key(|authenticator| authenticator.method());
        let mut all = format!("{authentication:?}").into_bytes();
        for authenticator in &each {
            all.extend_from_slice(&authenticator.rules());
        }
        Self {
            authentication,
            each,
            rules: crypto::sha256(&all),
        }
    }

    /// Creates an empty list, for routes that require only the certificate of the connection.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            authentication: Authentication::None,
            each: Vec::new(),
            rules: [0; 32],
        }
    }

    /// Whether there are no authenticators, so that authentication never waits for a token issuer.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.each.is_empty()
    }

    /// Authenticates the caller of a request.
    ///
    /// # Errors
    /// Returns the reason why the caller is not authenticated.
    pub async fn authenticate(
        &self,
        credentials: &Credentials<'_>,
    ) -> Result<Principal, AuthnDenial> {
        let mut gathered = Gathered::new(self.authentication);
        for authenticator in &self.each {
            let outcome = authenticator.authenticate(credentials).outcome().await;
            gathered.add(authenticator.method(), outcome)?;
        }
        gathered.finish()
    }

    /// Authenticates the caller of a request in progress again, without asking an issuer. `earlier`
    /// is the result of the earlier check, and `rules` is the hash of the rules of that check.
    ///
    /// # Errors
    /// Returns the reason why the caller is not authenticated any more.
    pub fn recheck(
        &self,
        credentials: &Credentials<'_>,
        earlier: &Principal,
        rules: &[u8; 32],
    ) -> Result<Principal, AuthnDenial> {
        let unchanged = self.rules == *rules;
        let mut gathered = Gathered::new(self.authentication);
        for authenticator in &self.each {
            let outcome = authenticator.recheck(credentials, earlier, unchanged);
            gathered.add(authenticator.method(), outcome)?;
        }
        gathered.finish()
    }

    /// Returns a hash of the rules that the route applies to credentials.
    #[must_use]
    pub const fn rules(&self) -> &[u8; 32] {
        &self.rules
    }

    /// Returns the `WWW-Authenticate` fields for a refusal, one for each method. Only the challenge
    /// for the invalid credential contains an error.
    #[must_use]
    pub fn challenges(&self, denied: &AuthnDenial, resource: &Resource<'_>) -> Vec<HeaderValue> {
        let reason = denied.denial.reason;
        if !matches!(reason.status(), 400 | 401) && reason != ReasonCode::TokenScope {
            return Vec::new();
        }
        let about = |authenticator: &dyn Authenticator| {
            if denied.by == Some(authenticator.method()) {
                reason
            } else {
                ReasonCode::TokenMissing
            }
        };
        self.each
            .iter()
            .filter(|authenticator| {
                reason.status() == 401 || denied.by == Some(authenticator.method())
            })
            .filter_map(|authenticator| authenticator.challenge(about(&**authenticator), resource))
            .filter_map(|challenge| HeaderValue::try_from(challenge).ok())
            .collect()
    }
}

/// Collects the results of the authenticators.
struct Gathered {
    authentication: Authentication,
    principal: Option<Principal>,
}

impl Gathered {
    const fn new(authentication: Authentication) -> Self {
        Self {
            authentication,
            principal: None,
        }
    }

    fn add(&mut self, method: Method, outcome: Outcome) -> Result<(), AuthnDenial> {
        match outcome {
            Outcome::Denied(denial) => Err(AuthnDenial {
                by: Some(method),
                denial,
            }),
            Outcome::NotApplicable if matches!(self.authentication, Authentication::Any(_)) => {
                Ok(())
            }
            Outcome::NotApplicable => Err(AuthnDenial {
                by: Some(method),
                denial: policy::missing(self.authentication, method),
            }),
            Outcome::Authenticated(found) => {
                let Some(earlier) = self.principal.take() else {
                    self.principal = Some(found);
                    return Ok(());
                };
                let names = format!("{} and {}", earlier.caller(), found.caller());
                self.principal = earlier.together_with(found);
                if self.principal.is_some() {
                    return Ok(());
                }
                Err(conflict(&names))
            }
        }
    }

    fn finish(self) -> Result<Principal, AuthnDenial> {
        self.principal.ok_or_else(|| {
            let method = self
                .authentication
                .missing(crate::identity::MethodSet::default());
            let method = method.unwrap_or(Method::Certificate);
            AuthnDenial {
                by: Some(method),
                denial: policy::missing(self.authentication, method),
            }
        })
    }
}

fn conflict(names: &str) -> AuthnDenial {
    AuthnDenial {
        by: None,
        denial: Denial::new(
            ReasonCode::CallerNotAllowed,
            format!("the credentials name different callers: {names}"),
        ),
    }
}

#[cfg(test)]
#[path = "composition_tests.rs"]
mod tests;
