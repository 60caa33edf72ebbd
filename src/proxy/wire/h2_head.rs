//! Checks of a request head in HTTP/2 that h2 does not make (RFC 9113 section 8).
//!
//! In HTTP/1.1 the framing guard makes them on the bytes of the head.

use http::{HeaderMap, HeaderValue, request};

use super::head::{FramingError, malformed};
use crate::reason::ReasonCode;

/// Bytes that h2 reads beyond the limit, so that the gateway can respond with a reason. h2
/// itself responds to longer heads, without one.
pub(crate) const SLACK: usize = 64 * 1024;
/// The size that each field counts in addition to its name and value (RFC 9113 section 6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// Returns what is wrong with a head, if anything.
pub(crate) fn check(parts: &request::Parts, max_bytes: usize) -> Option<FramingError> {
    if size(parts) > max_bytes {
        return Some(FramingError {
            reason: ReasonCode::TooLarge,
            detail: "the request head is larger than allowed",
        });
    }
    if has_blank_edges(&parts.headers) {
        return Some(malformed(BLANK_EDGES));
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    if !path.starts_with('/') && path != "*" {
        return Some(malformed("the path does not begin with a slash"));
    }
    let scheme = parts.uri.scheme_str();
    let is_http =
        |scheme: &str| scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http");
    if !scheme.is_none_or(is_http) {
        return Some(malformed("the scheme is neither https nor http"));
    }
    None
}

pub(crate) const BLANK_EDGES: &str = "a field's value begins or ends with a blank";

/// Whether a value begins or ends with a space or a tab (RFC 9113 section 8.2.1).
pub(crate) fn has_blank_edges(fields: &HeaderMap) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    fields
        .values()
        .map(HeaderValue::as_bytes)
        .any(|value| is_blank(value.first()) || is_blank(value.last()))
}

/// The size of the field section, pseudo-fields included.
fn size(parts: &request::Parts) -> usize {
    let fields: usize = parts
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD)
        .sum();
    let uri = &parts.uri;
    let authority = uri
        .authority()
        .map_or(0, |authority| authority.as_str().len());
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    let pseudo = parts.method.as_str().len() + authority + path + PSEUDO_FIELDS;
    fields + pseudo
}

/// The names of `:method`, `:scheme`, `:authority` and `:path`, and their overhead.
const PSEUDO_FIELDS: usize = 7 + 7 + 10 + 5 + 4 * FIELD_OVERHEAD;

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn detail(uri: &str, value: &'static str) -> Option<&'static str> {
        let request = Request::get(uri).header("x-a", value);
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check(&parts, 1000).map(|error| error.detail)
    }

    #[test]
    fn what_h2_lets_pass_is_refused() {
        assert_eq!(detail("https://a/b?c", "a b"), None);
        assert_eq!(detail("*", "a"), None);
        for value in [" a", "a ", "\ta", "a\t"] {
            assert_eq!(detail("https://a/b", value), Some(BLANK_EDGES), "{value:?}");
        }
        assert!(detail("https://a?b", "a").is_some());
        assert!(detail("ftp://a/b", "a").is_some());
        let long = format!("https://a/{}", "b".repeat(1000));
        assert_eq!(
            detail(&long, "a"),
            Some("the request head is larger than allowed")
        );
    }
}
