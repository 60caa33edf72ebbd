//! `Rule`: the requirements of a route for its callers. By default, a rule allows no caller.

use std::fmt;

use crate::identity::{CallerName, IdentityPattern, Method, MethodSet};

/// The types of credentials that a route accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication {
    /// Only a client certificate. This is the usual case.
    Certificate,
    /// A request must use all of these methods.
    All(MethodSet),
    /// A request must use at least one of these methods. If it presents an invalid credential, it
    /// is refused, even if another credential is valid.
    Any(MethodSet),
    /// No authentication. This must be configured explicitly. The gateway sends no assertion.
    None,
}

impl Authentication {
    /// Returns all methods that the route accepts.
    #[must_use]
    pub fn methods(self) -> MethodSet {
        match self {
            Self::None => MethodSet::default(),
            Self::Certificate => MethodSet::default().with(Method::Certificate),
            Self::All(methods) | Self::Any(methods) => methods,
        }
    }

    /// Returns a required method that is not in `used`. Returns `None` if `used` is sufficient.
    #[must_use]
    pub fn missing(self, used: MethodSet) -> Option<Method> {
        let absent = |methods: MethodSet| methods.iter().find(|method| !used.contains(*method));
        match self {
            Self::None => None,
            Self::Certificate | Self::All(_) => absent(self.methods()),
            Self::Any(methods) if methods.iter().any(|method| used.contains(method)) => None,
            // Any of the methods would suffice. The last one is named, because its credential is
            // the easiest to get for callers.
            Self::Any(methods) => methods.iter().last(),
        }
    }
}

impl fmt::Display for Authentication {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => formatter.write_str("none"),
            Self::Certificate => formatter.write_str("certificate"),
            Self::All(methods) => write!(formatter, "all of {methods}"),
            Self::Any(methods) => write!(formatter, "any of {methods}"),
        }
    }
}

/// The requirements of one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The credentials that the route accepts.
    pub authentication: Authentication,
    /// Patterns of callers that are allowed.
    pub callers: Vec<IdentityPattern>,
    /// Patterns of callers that are not allowed, even if `callers` matches them.
    pub except: Vec<IdentityPattern>,
}

impl Rule {
    /// Whether the rule allows the authenticated caller `caller`.
    #[must_use]
    pub fn allows(&self, caller: &CallerName) -> bool {
        let any = |patterns: &[IdentityPattern]| patterns.iter().any(|p| p.matches(caller));
        any(&self.callers) && !any(&self.except)
    }
}
