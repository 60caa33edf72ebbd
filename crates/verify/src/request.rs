//! The request as the service received it, in the parts that assertions bind.
//!
//! Nothing is decoded, normalised or lower-cased: the gateway signs octets, and
//! the service compares octets. What the request's own headers claim about
//! other hops (`X-Forwarded-…`, `Forwarded`) is never read here; a service
//! behind another proxy configures its authority and prefix on the verifier.

/// Method, authority, path and query of one request.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestParts {
    pub(crate) method: String,
    pub(crate) authority: Authority,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) body_hash: Option<String>,
}

/// Where the request says it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Authority {
    Known(String),
    /// No `Host`, or several, or one that contradicts the target.
    Unclear,
}

/// A request target that no assertion can bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request target is not a path with an optional query")]
pub struct TargetError;

impl RequestParts {
    /// From the raw texts: the method, the `Host` field (or `:authority`) and
    /// the target in origin form (RFC 9112 section 3.2.1), `/path?query`.
    ///
    /// # Errors
    ///
    /// [`TargetError`] when the target does not begin with `/` or has a `#`.
    pub fn new(method: &str, authority: &str, target: &str) -> Result<Self, TargetError> {
        Self::split(method, Authority::Known(authority.to_owned()), target)
    }

    /// As [`RequestParts::new`] for a service whose verifier has a configured
    /// authority, so that the request's own does not matter.
    ///
    /// # Errors
    ///
    /// As [`RequestParts::new`].
    pub fn without_authority(method: &str, target: &str) -> Result<Self, TargetError> {
        Self::split(method, Authority::Unclear, target)
    }

    /// From a parsed request head.
    ///
    /// The authority is that of the target (HTTP/2 `:authority`, HTTP/1.1
    /// absolute form), else the one `Host` field. Two `Host` fields, or one
    /// that contradicts the target, leave it unclear, and verification then
    /// fails unless the verifier has a configured authority.
    ///
    /// # Errors
    ///
    /// [`TargetError`] for `OPTIONS *` and `CONNECT`.
    #[cfg(feature = "tower")]
    pub fn from_http(head: &http::request::Parts) -> Result<Self, TargetError> {
        let target = head.uri.path_and_query().ok_or(TargetError)?;
        Self::split(
            head.method.as_str(),
            Authority::from_http(head),
            target.as_str(),
        )
    }

    /// Adds the request's body, so that `htb` is compared too.
    #[must_use]
    pub fn with_body(mut self, body: &[u8]) -> Self {
        self.body_hash = Some(crate::claims::hash(body));
        self
    }

    /// The path as received, undecoded.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The octets after `?`; `None` without `?`, `Some("")` when nothing follows it.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    fn split(method: &str, authority: Authority, target: &str) -> Result<Self, TargetError> {
        if !target.starts_with('/') || target.contains('#') {
            return Err(TargetError);
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        Ok(Self {
            method: method.to_owned(),
            authority,
            path: path.to_owned(),
            query: query.map(str::to_owned),
            body_hash: None,
        })
    }
}

/// Without the query, which may hold secrets and does not belong in logs.
impl std::fmt::Debug for RequestParts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("RequestParts")
            .field("method", &self.method)
            .field("authority", &self.authority)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "tower")]
impl Authority {
    fn from_http(head: &http::request::Parts) -> Self {
        let mut hosts = head.headers.get_all(http::header::HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (None, _) => None,
            (Some(host), None) => match host.to_str() {
                Ok(host) => Some(host),
                Err(_) => return Self::Unclear,
            },
            (Some(_), Some(_)) => return Self::Unclear,
        };
        let target = head.uri.authority().map(http::uri::Authority::as_str);
        match (target, host) {
            (Some(target), Some(host)) if target != host => Self::Unclear,
            (Some(authority), _) | (None, Some(authority)) => Self::Known(authority.to_owned()),
            (None, None) => Self::Unclear,
        }
    }
}

/// The authority and path of an `htu` claim; the scheme is not looked at.
pub(crate) fn split_url(url: &str) -> Option<(&str, &str)> {
    let (_, rest) = url.split_once("://")?;
    if rest.contains(['?', '#']) {
        return None;
    }
    let path_start = rest.find('/')?;
    rest.split_at_checked(path_start)
        .filter(|(authority, _)| !authority.is_empty())
}
