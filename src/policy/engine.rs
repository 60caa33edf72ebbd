//! The decision: a `Permit`, or a `Denial` with its reason.

use super::rule::{Authentication, Rule};
use crate::identity::Principal;
use crate::reason::ReasonCode;

/// Proof that policy allowed a request. Signing an assertion needs one.
#[derive(Debug)]
pub struct Permit {
    principal: Option<Principal>,
}

impl Permit {
    /// The caller; none on a route that authenticates nobody.
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
    /// What exactly, safe for the caller.
    pub detail: String,
}

impl Denial {
    /// A denial with its explanation.
    pub fn new(reason: ReasonCode, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

/// Decides whether `principal` may use a route with this rule.
///
/// # Errors
/// The [`Denial`] to answer with.
pub fn decide(rule: &Rule, principal: Option<Principal>) -> Result<Permit, Denial> {
    match (rule.authentication, principal) {
        (Authentication::None, _) => Ok(Permit { principal: None }),
        (Authentication::Certificate, None) => Err(Denial::new(
            ReasonCode::NoCertificate,
            "this route demands a client certificate and the connection has none",
        )),
        (Authentication::Certificate, Some(principal)) => {
            if rule.allows(principal.caller()) {
                Ok(Permit {
                    principal: Some(principal),
                })
            } else {
                Err(Denial::new(
                    ReasonCode::CallerNotAllowed,
                    format!(
                        "{} is not among the callers of this route",
                        principal.caller()
                    ),
                ))
            }
        }
    }
}
