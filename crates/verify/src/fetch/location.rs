//! The URLs from which keys may be fetched.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::Uri;
use http::uri::Scheme;

use crate::jose::parse_object;
use crate::{BuildError, FetchProblem};

/// The well-known path of an issuer's metadata (RFC 8414 section 3).
const METADATA_PATH: &str = "/.well-known/oauth-authorization-server";

/// A URL that passed the checks of [`checked`].
#[derive(Clone, Debug)]
pub(crate) enum Location {
    KeySet(Uri),
    Metadata { issuer: String, url: Uri },
}

impl Location {
    pub(crate) fn key_set(url: &str) -> Result<Self, BuildError> {
        checked(url).map(Self::KeySet).ok_or(BuildError::Url)
    }

    /// Returns the URL of the metadata of `issuer`. The well-known path is inserted between
    /// the host and the path of `issuer`.
    pub(crate) fn metadata(issuer: &str) -> Result<Self, BuildError> {
        let checked_issuer = checked(issuer).ok_or(BuildError::Url)?;
        if checked_issuer.query().is_some() {
            return Err(BuildError::Url);
        }
        let origin = origin(&checked_issuer).ok_or(BuildError::Url)?;
        let path = checked_issuer.path().trim_end_matches('/');
        let url = format!("{}://{}{METADATA_PATH}{path}", origin.0, origin.1)
            .parse()
            .map_err(|_| BuildError::Url)?;
        Ok(Self::Metadata {
            issuer: issuer.to_owned(),
            url,
        })
    }

    pub(crate) const fn url(&self) -> &Uri {
        match self {
            Self::KeySet(url) | Self::Metadata { url, .. } => url,
        }
    }

    /// Returns the `jwks_uri` of a metadata document. The `issuer` of the document must be
    /// identical to the configured issuer (RFC 8414 section 3.3), and `jwks_uri` must have the same
    /// origin as the URL of the metadata.
    pub(crate) fn key_set_in_metadata(&self, document: &[u8]) -> Result<Uri, FetchProblem> {
        let Self::Metadata { issuer, url } = self else {
            return Err(FetchProblem::Metadata);
        };
        let members = parse_object(document, "metadata").map_err(|_| FetchProblem::Metadata)?;
        if members.get("issuer").and_then(|value| value.as_str()) != Some(issuer) {
            return Err(FetchProblem::Metadata);
        }
        members
            .get("jwks_uri")
            .and_then(|value| value.as_str())
            .and_then(checked)
            .filter(|keys| origin(keys).is_some() && origin(keys) == origin(url))
            .ok_or(FetchProblem::Metadata)
    }
}

/// Parses a URL. Accepts only an absolute URL without user and fragment, and only
/// `https`, or `http` to a loopback host.
fn checked(url: &str) -> Option<Uri> {
    if url.contains('#') {
        return None;
    }
    let url: Uri = url.parse().ok()?;
    let (scheme, authority) = (url.scheme()?, url.authority()?);
    if authority.as_str().contains('@') {
        return None;
    }
    let allowed =
        *scheme == Scheme::HTTPS || (*scheme == Scheme::HTTP && is_loopback(authority.host()));
    allowed.then_some(url)
}

fn is_loopback(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || literal.parse().is_ok_and(|ip: Ipv4Addr| ip.is_loopback())
        || literal.parse().is_ok_and(|ip: Ipv6Addr| ip.is_loopback())
}

fn origin(url: &Uri) -> Option<(&str, &str)> {
    Some((url.scheme_str()?, url.authority()?.as_str()))
}
