//! The decision: a `Permit`, or a `Denial` with its reason.

use std::borrow::Cow;

use super::rule::{Authentication, Rule};
use super::share::CallerLimit;
use crate::identity::{CallerName, Method, MethodSet, Principal};
use crate::reason::ReasonCode;

/// Proof that policy allowed a request. Signing an assertion needs one.
#[derive(Debug)]
pub struct Permit {
    principal: Option<Principal>,
}

impl Permit {
    /// Returns the caller. None on a route that authenticates no caller.
    #[must_use]
    pub const fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }
}

/// A request was refused, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The reason code.
    pub reason: ReasonCode,
    /// The details, safe for the caller.
    pub detail: String,
    /// The note of the operator. It is logged, but never sent to the caller.
    pub note: Option<Box<str>>,
    /// The limit that was reached, for `caller-limit`.
    pub limit: Option<CallerLimit>,
}

impl Denial {
    /// Creates a denial with its explanation.
    pub fn new(reason: ReasonCode, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            note: None,
            limit: None,
        }
    }

    /// Creates the denial for a caller that has reached one of the limits for each caller.
    pub fn caller_limit(limit: CallerLimit, detail: impl Into<String>) -> Self {
        Self {
            limit: Some(limit),
            ..Self::new(ReasonCode::CallerLimit, detail)
        }
    }

    /// Returns the text for the audit log: the detail, and the operator's note.
    #[must_use]
    pub fn recorded(&self) -> Cow<'_, str> {
        match &self.note {
            None => Cow::Borrowed(&self.detail),
            Some(note) => Cow::Owned(format!("{}: {note}", self.detail)),
        }
    }
}

/// Decides whether `principal` may use a route with this rule.
///
/// # Errors
/// The [`Denial`] if the request is not permitted.
pub fn decide(rule: &Rule, principal: Option<Principal>) -> Result<Permit, Denial> {
    if rule.authentication == Authentication::None {
        return Ok(Permit { principal: None });
    }
    let used = principal.as_ref().map(Principal::methods);
    // The authenticators have seen to it already; without them nothing is allowed.
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

/// Returns the denial for a caller that is not allowed on a route.
#[must_use]
pub fn not_allowed(caller: &CallerName) -> Denial {
    Denial::new(
        ReasonCode::CallerNotAllowed,
        format!("{caller} is not among the callers of this route"),
    )
}

/// Returns the denial for a request that lacks this method's credential.
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
