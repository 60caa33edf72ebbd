//! Checks the host and path that a request asks for.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderValue, header, request};

use crate::authn::Resource;
use crate::reason::ReasonCode;
use crate::route::PathEncodings;
use crate::tls::ServerNames;
use crate::wire::path::{self, checked_path};
use crate::wire::refusal::Refusal;
use crate::wire::target;

/// The checked target of a request.
#[derive(Debug)]
pub struct Target {
    /// The authority as the caller wrote it.
    pub authority: String,
    /// The host of the target in normalized form.
    pub host: String,
    /// Path and query, exactly as the caller wrote them.
    pub path_and_query: PathAndQuery,
    /// The percent-decoded path. It is used only to match routes and is never forwarded.
    pub decoded_path: String,
    /// The unusual forms of the path, which its route must allow.
    pub path_forms: PathEncodings,
}

impl Target {
    /// Checks and normalizes the authority and the path of a request.
    pub fn check(
        authority: String,
        path_and_query: Option<&PathAndQuery>,
    ) -> Result<Self, Refusal> {
        let host = target::normalized_host(&authority)?.into_owned();
        let path_and_query = normalized(path_and_query)?;
        if path_and_query.as_str() == "*" {
            return Err(Refusal::new(
                ReasonCode::MalformedRequest,
                "the target '*' is not about any route",
            ));
        }
        // In HTTP/1.1 the framing guard (`wire::framing`) has checked the raw bytes already. In
        // HTTP/2 nothing else checks these bytes.
        if !path_and_query
            .as_str()
            .bytes()
            .all(|b| (0x21..=0x7e).contains(&b) && b != b'#')
        {
            return Err(Refusal::new(
                ReasonCode::MalformedRequest,
                "the request target has characters that must be percent-encoded",
            ));
        }
        let checked = checked_path(path_and_query.path())?;
        let (decoded_path, path_forms) = (checked.text.into_owned(), checked.forms);
        Ok(Self {
            authority,
            host,
            path_and_query,
            decoded_path,
            path_forms,
        })
    }

    /// Checks that the path has only forms that are allowed. No route can be used before this.
    pub fn require(&self, allowed: PathEncodings) -> Result<(), Refusal> {
        Ok(path::require(self.path_forms, allowed)?)
    }

    /// Returns the authority and path from which `WWW-Authenticate` challenges are made.
    pub fn resource(&self) -> Resource<'_> {
        Resource {
            authority: &self.authority,
            path: self.path_and_query.path(),
        }
    }
}

/// Returns the path and query of the request target. An empty path is replaced by `/`. The absolute
/// form may have a query and no path (RFC 9112 section 3.2.1). The gateway checks, signs and sends
/// the returned text.
fn normalized(path_and_query: Option<&PathAndQuery>) -> Result<PathAndQuery, Refusal> {
    match path_and_query {
        // For an empty path, `as_str` returns `/`, but the `PathAndQuery` itself is empty. It is
        // replaced by one that contains `/`.
        None => Ok(PathAndQuery::from_static("/")),
        Some(found) if found.as_str() == "/" => Ok(PathAndQuery::from_static("/")),
        Some(found) if found.as_str().starts_with('?') => {
            let text = format!("/{found}", found = found.as_str());
            PathAndQuery::from_maybe_shared(text).map_err(|_| {
                Refusal::new(
                    ReasonCode::MalformedRequest,
                    "the request target is malformed",
                )
            })
        }
        Some(found) => Ok(found.clone()),
    }
}

/// Returns the authority that the caller asked for: the authority of the request target (HTTP/2,
/// absolute form), or the Host field if the target has no authority.
pub fn authority(parts: &request::Parts) -> Result<String, Refusal> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::new(
            ReasonCode::MalformedRequest,
            "the request has more than one Host field",
        ));
    }
    let host = match host.map(HeaderValue::to_str) {
        None => None,
        Some(Ok(host)) => Some(host),
        Some(Err(_)) => {
            return Err(Refusal::new(
                ReasonCode::MalformedRequest,
                "the Host field is not a host",
            ));
        }
    };
    match (parts.uri.authority(), host) {
        (Some(authority), Some(host)) if !authority.as_str().eq_ignore_ascii_case(host) => {
            Err(Refusal::new(
                ReasonCode::MalformedRequest,
                "Host and request target name different hosts",
            ))
        }
        (Some(authority), _) => Ok(authority.as_str().to_owned()),
        (None, Some(host)) => Ok(host.to_owned()),
        (None, None) => Err(Refusal::new(
            ReasonCode::MalformedRequest,
            "the request names no host",
        )),
    }
}

/// Checks that the host selects the `[[server_name]]` entry of the connection's handshake. Another
/// entry may trust other certificates, and the identity from the handshake would not be valid under
/// that entry.
pub fn check_host(
    names: &ServerNames,
    server_name: Option<&str>,
    host: &str,
) -> Result<(), Refusal> {
    match (names.select(server_name), names.select_host(host)) {
        (Some(a), Some(b)) if Arc::ptr_eq(a, b) => Ok(()),
        _ => Err(Refusal::new(
            ReasonCode::HostMismatch,
            match server_name {
                Some(name) => format!("this connection was opened for {name}, not for {host}"),
                None => format!("this connection was opened without a server name, not for {host}"),
            },
        )),
    }
}
