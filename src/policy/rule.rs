//! `Rule`: what a route demands of its callers. Default deny.

use crate::identity::{CallerName, IdentityPattern};

/// How callers of a route authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication {
    /// By a client certificate.
    Certificate,
    /// Not at all: said explicitly, and no assertion is sent.
    None,
}

/// The demands of one route.
#[derive(Debug, Clone)]
pub struct Rule {
    /// How callers authenticate.
    pub authentication: Authentication,
    /// Callers that are allowed.
    pub callers: Vec<IdentityPattern>,
    /// Callers that are not, whatever `callers` says.
    pub except: Vec<IdentityPattern>,
}

impl Rule {
    /// Whether an authenticated caller is allowed.
    #[must_use]
    pub fn allows(&self, caller: &CallerName) -> bool {
        let any = |patterns: &[IdentityPattern]| patterns.iter().any(|p| p.matches(caller));
        any(&self.callers) && !any(&self.except)
    }
}
