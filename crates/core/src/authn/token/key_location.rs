//! The location of an issuer's keys, the rules for its metadata, and the freshness of responses.
//! The functions do no I/O; [`super::jwks`] fetches the documents.

use countersign_verify::jose::parse_object;
use http::header::{AGE, CACHE_CONTROL};
use http::{HeaderMap, Uri};

use crate::http_client::{FetchError, UrlError, checked_url, same_origin};

/// How long a response without `max-age` counts as fresh, in seconds.
const DEFAULT_FRESHNESS: u64 = 300;

/// Limits on the freshness that the issuer states, in seconds.
const FRESHNESS: std::ops::RangeInclusive<u64> = 60..=24 * 60 * 60;

/// The location of an issuer's keys.
#[derive(Debug, Clone)]
pub enum KeyLocation {
    /// The configured address of the key set.
    KeySet(Uri),
    /// The addresses of metadata that name the key set: the addresses of RFC 8414 section 3 and of
    /// OpenID Connect Discovery section 4.
    Metadata {
        /// The issuer identifier. The metadata must contain the same identifier.
        issuer: String,
        /// The addresses, in the order in which they are tried.
        urls: [Uri; 2],
    },
}

impl KeyLocation {
    /// Creates the location from the address of the key set.
    ///
    /// # Errors
    /// [`UrlError`] if fetching from the address is not allowed.
    pub fn key_set(url: &str) -> Result<Self, UrlError> {
        checked_url(url).map(Self::KeySet)
    }

    /// Creates the location from the identifier of the issuer, whose metadata names the key set.
    ///
    /// # Errors
    /// [`UrlError`] if the identifier is not a URL from which fetching is allowed.
    pub fn metadata(issuer: &str) -> Result<Self, UrlError> {
        let url = checked_url(issuer)?;
        let (Some(scheme), Some(authority), None) =
            (url.scheme_str(), url.authority(), url.query())
        else {
            return Err(UrlError);
        };
        let path = url.path().trim_end_matches('/');
        let inserted =
            format!("{scheme}://{authority}/.well-known/oauth-authorization-server{path}");
        let appended = format!("{scheme}://{authority}{path}/.well-known/openid-configuration");
        Ok(Self::Metadata {
            issuer: issuer.to_owned(),
            urls: [
                inserted.parse().map_err(|_| UrlError)?,
                appended.parse().map_err(|_| UrlError)?,
            ],
        })
    }
}

/// Reads `jwks_uri` from metadata. The member `issuer` of the metadata must be identical to the
/// argument `issuer` (RFC 8414 section 3.3). The keys must be on the same origin as the metadata.
pub(super) fn key_set_in_metadata(
    issuer: &str,
    url: &Uri,
    document: &[u8],
) -> Result<Uri, FetchError> {
    let members = parse_object(document, "metadata").map_err(|_| FetchError::NotJson)?;
    let text = |name: &str| members.get(name).and_then(|value| value.as_str());
    if text("issuer") != Some(issuer) {
        return Err(FetchError::Metadata);
    }
    text("jwks_uri")
        .and_then(|keys| checked_url(keys).ok())
        .filter(|keys| same_origin(keys, url))
        .ok_or(FetchError::Metadata)
}

/// Returns the freshness of a response in seconds, as a private cache computes it (RFC 9111 section
/// 4.2.1). Limited to [`FRESHNESS`].
pub(super) fn freshness(headers: &HeaderMap) -> u64 {
    let mut seconds = None;
    for value in headers.get_all(CACHE_CONTROL) {
        for directive in value.to_str().unwrap_or_default().split(',') {
            let directive = directive.trim().to_ascii_lowercase();
            if directive == "no-store" || directive.starts_with("no-cache") {
                return *FRESHNESS.start();
            }
            if let Some(age) = directive.strip_prefix("max-age=") {
                seconds = age.trim_matches('"').parse::<u64>().ok();
            }
        }
    }
    let age = headers
        .get(AGE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
        .unwrap_or(0);
    seconds
        .unwrap_or(DEFAULT_FRESHNESS)
        .saturating_sub(age)
        .clamp(*FRESHNESS.start(), *FRESHNESS.end())
}
