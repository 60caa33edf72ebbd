//! Decides about a request: returns a `Permit`, or a `Denial` with its reason.

use std::borrow::Cow;

use super::rule::{Authentication, Rule};
use super::share::CallerLimit;
use crate::identity::{CallerName, Method, MethodSet, Principal};
use crate::reason::ReasonCode;

/// Proof that the policy allowed a request. Without a permit no assertion can be signed.
#[derive(Debug)]
pub struct Permit {
    principal: Option<Principal>,
}

impl Permit {
    /// Returns the caller. Returns `None` on a route that authenticates no caller.
    #[must_use]
    pub const fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }
}

/// The reason why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The reason code.
    pub reason: ReasonCode,
    /// The details of the reason. The caller may see this text.
    pub detail: String,
    /// A note that the operator wrote, for example in the deny list. It appears in the audit log,
    /// but is never sent to the caller.
    pub note: Option<Box<str>>,
    /// The limit that the caller has reached. `Some` only if the reason is `caller-limit`.
    pub limit: Option<CallerLimit>,
}

impl Denial {
    /// Creates a denial from its reason code and details.
    pub fn new(reason: ReasonCode, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            note: None,
            limit: None,
        }
    }

    /// Creates the denial for a caller that has reached one of its limits.
    pub fn caller_limit(limit: CallerLimit, detail: impl Into<String>) -> Self {
        Self {
            limit: Some(limit),
            ..Self::new(ReasonCode::CallerLimit, detail)
        }
    }

    /// Returns the text for the audit log: the detail and, if there is one, the operator's note.
    #[must_use]
    pub fn recorded(&self) -> Cow<'_, str> {
        match &self.note {
            None => Cow::Borrowed(&self.detail),
            Some(note) => Cow::Owned(format!("{}: {note}", self.detail)),
        }
    }
}

/// Decides whether `principal` may use a route that has the rule `rule`.
///
/// # Errors
/// Returns the [`Denial`] if the request is not permitted.
pub fn decide(rule: &Rule, principal: Option<Principal>) -> Result<Permit, Denial> {
    if rule.authentication == Authentication::None {
        return Ok(Permit { principal: None });
    }
    let used = principal.as_ref().map(Principal::methods);
    // The authenticators have already checked that all required methods were used. The check is
    // repeated, so that a mistake in an authenticator cannot allow a request.
    if let Some(method) = rule.authentication.missing(used.unwrap_or_default()) {
        return Err(missing(rule.authentication, method));
    }
    match principal {
        Some(principal) if rule.allows(principal.caller()) => Ok(Permit {
            principal: Some(principal),
        }),
        Some(principal) => Err(not_allowed(principal.caller())),
        None => Err(missing(rule.authentication, Method::Certificate)),
    }
}

/// Returns the denial for a caller that the rule of a route does not allow.
#[must_use]
pub fn not_allowed(caller: &CallerName) -> Denial {
    Denial::new(
        ReasonCode::CallerNotAllowed,
        format!("{caller} is not among the callers of this route"),
    )
}

/// Returns the denial for a request that has no credential of the type `method`.
#[must_use]
pub fn missing(authentication: Authentication, method: Method) -> Denial {
    if let Authentication::Any(methods) = authentication
        && methods != MethodSet::default().with(method)
    {
        return Denial::new(
            missing_reason(method),
            format!("this route demands one of {methods}, and the request has none"),
        );
    }
    let detail = match method {
        Method::Certificate => {
            "this route demands a client certificate and the connection has none"
        }
        Method::Token => "this route demands a token and the request has none",
        Method::ApiKey => "this route demands an API key and the request has none",
    };
    Denial::new(missing_reason(method), detail)
}

const fn missing_reason(method: Method) -> ReasonCode {
    match method {
        Method::Certificate => ReasonCode::NoCertificate,
        Method::Token | Method::ApiKey => ReasonCode::TokenMissing,
    }
}
