//! Checks of an HTTP/2 request head that h2 does not make (RFC 9113 section 8).
//!
//! In HTTP/1.1 the framing guard makes the same checks on the raw bytes of the head.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue, Request};

use super::head::{FramingError, TOO_MANY_FIELDS, malformed, too_large};

/// h2's limit for a head is this number of bytes larger than the gateway's limit. If a head is only
/// slightly too large, the gateway can then respond with a reason code. h2 itself rejects larger
/// heads, without a reason code.
pub(crate) const SLACK: usize = 64 * 1024;
/// The overhead that each field adds to the size of its name and value (RFC 9113 section 6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// Returns the reason why a head is rejected. Returns `None` if the head is accepted. `max_bytes`
/// and `max_fields` are the maximum size and the maximum number of header fields.
pub(crate) fn check<B>(
    request: &Request<B>,
    max_bytes: usize,
    max_fields: usize,
) -> Option<FramingError> {
    let uri = request.uri();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut size = request.method().as_str().len() + authority.len() + path.len() + PSEUDO_FIELDS;
    let mut has_blank_edge = false;
    for (name, value) in request.headers() {
        size += name.as_str().len() + value.len() + FIELD_OVERHEAD;
        has_blank_edge |= is_blank_at_edge(value);
    }
    if size > max_bytes {
        return Some(too_large("the request head is larger than allowed"));
    }
    if count_fields(request.headers()) > max_fields {
        return Some(too_large(TOO_MANY_FIELDS));
    }
    if has_blank_edge {
        return Some(malformed(BLANK_EDGES));
    }
    if !path.starts_with('/') && path != "*" {
        return Some(malformed("the path does not begin with a slash"));
    }
    let is_http =
        |scheme: &str| scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http");
    if !uri.scheme_str().is_none_or(is_http) {
        return Some(malformed("the scheme is neither https nor http"));
    }
    None
}

/// Counts the header fields. All `Cookie` fields count as one, because HTTP/2 callers may split the
/// field (RFC 9113 section 8.2.3).
fn count_fields(headers: &HeaderMap) -> usize {
    let cookies = headers.get_all(COOKIE).iter().count();
    headers.len() - cookies.saturating_sub(1)
}

/// The detail of the refusal if [`has_blank_edges`] returns true.
pub(crate) const BLANK_EDGES: &str = "a field's value begins or ends with a blank";

/// Returns whether the value of any field begins or ends with a space or a tab.
pub(crate) fn has_blank_edges(fields: &HeaderMap) -> bool {
    fields.values().any(is_blank_at_edge)
}

/// Returns whether a value begins or ends with a space or a tab (RFC 9113 section 8.2.1).
fn is_blank_at_edge(value: &HeaderValue) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_blank(value.as_bytes().first()) || is_blank(value.as_bytes().last())
}

/// Size of the names `:method`, `:scheme`, `:authority` and `:path`, with their overhead.
const PSEUDO_FIELDS: usize = 7 + 7 + 10 + 5 + 4 * FIELD_OVERHEAD;

#[cfg(test)]
mod tests {
    use super::*;

    fn detail(uri: &str, value: &'static str) -> Option<&'static str> {
        let request = Request::get(uri).header("x-a", value);
        check(&request.body(()).unwrap(), 1000, 3).map(|error| error.detail)
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
        let mut request = Request::get("https://a/b").body(()).unwrap();
        for value in ["a", "b", "c", "d"] {
            let value = HeaderValue::from_static(value);
            request.headers_mut().append(COOKIE, value);
        }
        for (number, wanted) in [None, None, Some(TOO_MANY_FIELDS)].into_iter().enumerate() {
            let value = HeaderValue::from(number);
            request.headers_mut().append("x-a", value);
            let error = check(&request, 1000, 3);
            assert_eq!(error.map(|error| error.detail), wanted, "{number}");
        }
        let long = format!("https://a/{}", "b".repeat(1000));
        assert_eq!(
            detail(&long, "a"),
            Some("the request head is larger than allowed")
        );
    }
}
