//! The parts of a received request that the verifier compares with the assertion.
//!
//! This module does not decode, normalize or lower-case anything, because the gateway signs bytes
//! and the service compares bytes. It never reads the header fields in which proxies describe the
//! original request (`X-Forwarded-…`, `Forwarded`). If another proxy between gateway and service
//! changes the authority or the path, configure the verifier with `VerifierBuilder::authority` and
//! `VerifierBuilder::path_prefix`.

/// Method, authority, path and query of one request.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestParts {
    pub(crate) method: String,
    pub(crate) authority: Authority,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) body_hash: Option<String>,
}

/// The authority of the request. If it is `Unclear`, verification fails, unless the verifier has
/// a configured authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Authority {
    Known(String),
    /// The service gave no authority, or the authority of the request is not clear. Examples:
    /// neither the target nor a `Host` field contains an authority, there are several `Host`
    /// fields, or `Host` contradicts the target.
    Unclear,
}

/// The request target is not a path. No assertion can be bound to such a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request target is not a path with an optional query")]
pub struct TargetError;

impl RequestParts {
    /// Makes the parts from raw values: the method, the `Host` field (or `:authority`), and
    /// the target in origin form (RFC 9112 section 3.2.1), `/path?query`.
    ///
    /// # Errors
    ///
    /// [`TargetError`] if the target does not begin with `/` or contains a `#`.
    pub fn new(method: &str, authority: &str, target: &str) -> Result<Self, TargetError> {
        Self::split(method, Authority::Known(authority.to_owned()), target)
    }

    /// Makes the parts from the method and the target, without the authority of the request. Use
    /// this function if the verifier has a configured authority.
    ///
    /// # Errors
    ///
    /// The errors of [`RequestParts::new`].
    pub fn without_authority(method: &str, target: &str) -> Result<Self, TargetError> {
        Self::split(method, Authority::Unclear, target)
    }

    /// Takes the parts from a parsed request head.
    ///
    /// The authority comes from the target (HTTP/2 `:authority`, HTTP/1.1 absolute form). If
    /// the target has no authority, it comes from the only `Host` field. If there are two
    /// `Host` fields, or if `Host` contradicts the target, the authority is unclear.
    /// Verification then fails, unless the verifier has a configured authority.
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

    /// Adds the hash of the request's body, so that the verifier also compares `htb`.
    #[must_use]
    pub fn with_body(mut self, body: &[u8]) -> Self {
        self.body_hash = Some(crate::claims::hash(body));
        self
    }

    /// Returns the path as received, without decoding.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the bytes after `?`. Returns `None` if the target has no `?`, and `Some("")`
    /// if the target ends with `?`.
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

/// Does not print the query, because a query may contain secrets.
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

/// Returns the authority and the path of an `htu` claim. The scheme is ignored. Returns `None` if
/// the claim has no authority or no path, or has a query or a fragment.
pub(crate) fn split_url(url: &str) -> Option<(&str, &str)> {
    let (_, rest) = url.split_once("://")?;
    if rest.contains(['?', '#']) {
        return None;
    }
    let path_start = rest.find('/')?;
    rest.split_at_checked(path_start)
        .filter(|(authority, _)| !authority.is_empty())
}
