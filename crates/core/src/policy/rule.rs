//! `Rule`: the requirements of a route on its callers. The default is to deny.

use std::fmt;

use crate::identity::{CallerName, IdentityPattern, Method, MethodSet};

/// The credentials that a route accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication {
    /// A client certificate and nothing else. Nearly all routes require this.
    Certificate,
    /// All of these methods are required.
    All(MethodSet),
    /// At least one of these methods is required. A credential that is presented but invalid
    /// refuses the request, even if another one is valid.
    Any(MethodSet),
    /// No authentication: must be configured explicitly. No assertion is sent.
    None,
}

impl Authentication {
    /// Returns the accepted methods.
    #[must_use]
    pub fn methods(self) -> MethodSet {
        match self {
            Self::None => MethodSet::default(),
            Self::Certificate => MethodSet::default().with(Method::Certificate),
            Self::All(methods) | Self::Any(methods) => methods,
        }
    }

    /// Returns a required method that is not among `used`. None if `used` is sufficient.
    #[must_use]
    pub fn missing(self, used: MethodSet) -> Option<Method> {
        let absent = |methods: MethodSet| methods.iter().find(|method| !used.contains(*method));
        match self {
            Self::None => None,
            Self::Certificate | Self::All(_) => absent(self.methods()),
            Self::Any(methods) if methods.iter().any(|method| used.contains(method)) => None,
            // Last comes the credential that a caller can get most easily.
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

/// The demands of one route.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The credentials that the route accepts.
    pub authentication: Authentication,
    /// Callers that are allowed.
    pub callers: Vec<IdentityPattern>,
    /// Callers that are not allowed, even if `callers` matches them.
    pub except: Vec<IdentityPattern>,
}

impl Rule {
    /// Whether the rule allows an authenticated caller.
    #[must_use]
    pub fn allows(&self, caller: &CallerName) -> bool {
        let any = |patterns: &[IdentityPattern]| patterns.iter().any(|p| p.matches(caller));
        any(&self.callers) && !any(&self.except)
    }
}
