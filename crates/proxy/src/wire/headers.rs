//! Decides which header fields the gateway forwards, in both directions.
//!
//! If a service could believe that the gateway has set a field, the gateway removes the caller's
//! copy of the field. It removes every spelling of the name, because many servers read `_` or `.`
//! as `-`.

use std::sync::Arc;

use http::header::{self, CONNECTION, Entry, HeaderMap, HeaderName, HeaderValue, TRAILER, UPGRADE};

use super::head::is_framing_name;
use crate::policy::Denial;
use crate::reason::ReasonCode;
use crate::upstream::forgeable::{is_forgeable, is_spelling_of};
use crate::upstream::header_rules::HeaderRules;

/// The changes that the gateway must make to a request's fields. One pass over the field names
/// finds all changes, because most requests need none.
#[derive(Default)]
struct RequestFields {
    /// Whether there are hop-by-hop fields.
    hop_by_hop: bool,
    upgrade: bool,
    length: bool,
    cookie: bool,
    /// Whether a field name resembles Content-Length or Transfer-Encoding, but is neither.
    like_framing: bool,
    /// Whether there is an HTTP2-Settings field, which only an upgrade to h2c needs.
    settings: bool,
    /// Fields that are always removed.
    remove: Vec<HeaderName>,
    /// Fields that are removed unless the upstream is configured to keep them.
    forgeable: Vec<HeaderName>,
}

impl RequestFields {
    fn among(headers: &HeaderMap, assertion: &HeaderName, api_key: &HeaderName) -> Self {
        let mut found = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "upgrade" => found.upgrade = true,
                hop if is_hop_by_hop(hop) => found.hop_by_hop = true,
                "http2-settings" => found.settings = true,
                "content-length" => found.length = true,
                "authorization" | "expect" => found.remove.push(name.clone()),
                other if is_framing_name(other.as_bytes()) => found.like_framing = true,
                other
                    if is_spelling_of(other, assertion.as_str())
                        || is_spelling_of(other, api_key.as_str()) =>
                {
                    found.remove.push(name.clone());
                }
                other if is_forgeable(other) => found.forgeable.push(name.clone()),
                "cookie" => found.cookie = true,
                _ => {}
            }
        }
        found
    }
}

/// Removes hop-by-hop fields, credentials, and the fields that a caller could have forged. If
/// `keep` is true, returns the removed forgeable fields, because [`HeaderRules::apply`] may put
/// some of them back. Otherwise returns an empty map.
///
/// # Errors
/// Returns a denial for ambiguous framing. Also returns a denial if the request asks to upgrade
/// this connection to HTTP/2 (h2c). The gateway could not check the requests after such an upgrade.
pub fn strip_request(
    headers: &mut HeaderMap,
    assertion: &HeaderName,
    api_key: &HeaderName,
    keep: bool,
) -> Result<HeaderMap, Denial> {
    let malformed = |detail: &str| Err(Denial::new(ReasonCode::MalformedRequest, detail));
    let found = RequestFields::among(headers, assertion, api_key);
    if found.settings || (found.upgrade && lists(headers, &UPGRADE, "h2c")) {
        return malformed(
            "an upgrade to HTTP/2 within a connection is not allowed; negotiate h2 by ALPN",
        );
    }
    if found.length && headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return malformed("the request has more than one Content-Length field");
    }
    if found.like_framing {
        return malformed("a field name passes for Content-Length or Transfer-Encoding");
    }
    if found.hop_by_hop || found.upgrade {
        remove_hop_by_hop(headers);
    }
    for name in found.remove {
        headers.remove(name);
    }
    let mut set_aside = HeaderMap::new();
    for name in found.forgeable {
        match headers.entry(name) {
            Entry::Occupied(entry) if keep => {
                let (name, values) = entry.remove_entry_mult();
                for value in values {
                    set_aside.append(name.clone(), value);
                }
            }
            Entry::Occupied(entry) => {
                entry.remove_entry_mult();
            }
            Entry::Vacant(_) => {}
        }
    }
    if found.cookie {
        join_cookies(headers);
    }
    Ok(set_aside)
}

/// Joins several Cookie fields into one field. HTTP/2 may split Cookie, but HTTP/1.1 allows only
/// one field (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let joined = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect::<Vec<_>>()
        .join(&b"; "[..]);
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, value);
    }
}

/// Removes from a response the hop-by-hop fields and the fields that only the gateway may set.
pub fn strip_response(headers: &mut HeaderMap) {
    let mut hop_by_hop = false;
    let mut reserved = Vec::new();
    for name in headers.keys() {
        if is_hop_by_hop(name.as_str()) {
            hop_by_hop = true;
        } else if is_reserved(name.as_str()) {
            reserved.push(name.clone());
        }
    }
    if hop_by_hop {
        remove_hop_by_hop(headers);
    }
    for name in reserved {
        headers.remove(name);
    }
}

/// Returns whether `name` is a response field that only the gateway may set.
fn is_reserved(name: &str) -> bool {
    name.starts_with('c')
        && name
            .get(..12)
            .is_some_and(|start| is_spelling_of(start, "countersign-"))
}

/// If `Vary` names a certificate field, replaces the value of `Vary` by `*`, so that the response
/// is not cached. The gateway adds the certificate fields, and callers do not send them. A cache
/// could therefore not distinguish the responses for different callers (RFC 9440 section 2.4).
pub(crate) fn widen_vary(headers: &mut HeaderMap) {
    let depends = [
        "client-cert",
        "client-cert-chain",
        "x-forwarded-client-cert",
    ]
    .iter()
    .any(|name| lists(headers, &header::VARY, name));
    if depends {
        headers.insert(header::VARY, HeaderValue::from_static("*"));
    }
}

/// Filters the trailers of a request before they are forwarded.
#[derive(Debug, Clone)]
pub struct RequestTrailers {
    private: [HeaderName; 2],
    rules: Arc<HeaderRules>,
}

impl RequestTrailers {
    /// Creates the filter. `private` contains the names of the two fields that carry the assertion
    /// and the API key. `rules` are the header rules of the upstream.
    #[must_use]
    pub const fn new(private: [HeaderName; 2], rules: Arc<HeaderRules>) -> Self {
        Self { private, rules }
    }

    /// Removes the trailers that must not be forwarded.
    pub fn strip(&self, trailers: &mut HeaderMap) {
        strip_trailers(trailers, &self.private);
        remove_matching(trailers, |name| {
            if is_forgeable(name) {
                !self.rules.keeps(name)
            } else {
                !self.rules.passes(name)
            }
        });
    }
}

/// Returns a map whose keys are the names in the Trailer field. Returns `None` if there is no
/// Trailer field.
pub(crate) fn declared_trailers(headers: &HeaderMap) -> Option<HeaderMap> {
    if !headers.contains_key(TRAILER) {
        return None;
    }
    let mut named = HeaderMap::new();
    for name in items(headers, &TRAILER).filter_map(|name| HeaderName::from_bytes(name).ok()) {
        named.insert(name, HeaderValue::from_static(""));
    }
    Some(named)
}

/// Makes the Trailer field that declares the trailers with the names in `declared` (RFC 9110
/// section 6.6.2). In HTTP/1.1 hyper sends only declared trailers. Returns `None` if `declared` is
/// empty.
pub(crate) fn trailer_field(declared: &HeaderMap) -> Option<HeaderValue> {
    let names: Vec<&str> = declared.keys().map(HeaderName::as_str).collect();
    (!names.is_empty())
        .then(|| HeaderValue::from_str(&names.join(", ")).ok())
        .flatten()
}

/// Fields that must not be trailers (RFC 9110 section 6.5.1): routing, request modifiers,
/// authentication, content format and hop-by-hop fields. Some receivers merge trailers into the
/// header, and would then use these fields.
const NOT_IN_TRAILERS: [&str; 22] = [
    "authorization",
    "cache-control",
    "content-encoding",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "set-cookie",
    "www-authenticate",
];

/// Removes the fields that must not be trailers of a request or a response, in every spelling.
/// `private` contains the names of the fields that only the gateway may set or see. All other
/// trailers remain, for example gRPC metadata.
pub fn strip_trailers(trailers: &mut HeaderMap, private: &[HeaderName]) {
    strip_response(trailers);
    remove_matching(trailers, |name| {
        is_framing_name(name.as_bytes())
            || NOT_IN_TRAILERS
                .iter()
                .any(|field| is_spelling_of(name, field))
            || private
                .iter()
                .any(|field| is_spelling_of(name, field.as_str()))
    });
}

/// Removes from the trailers of a response all fields that [`strip_trailers`] removes. Also removes
/// the fields that gateways set for services, because the caller may itself be a gateway that
/// trusts such fields.
pub fn strip_response_trailers(trailers: &mut HeaderMap, private: &[HeaderName]) {
    strip_trailers(trailers, private);
    remove_matching(trailers, is_forgeable);
}

/// Returns whether a field is always hop-by-hop, even if the Connection field does not name it.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authorization"
    )
}

/// Removes the Connection field, the fields that it names, and all other hop-by-hop fields (RFC
/// 9110 section 7.6.1).
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = items(headers, &CONNECTION)
            // Keep-Alive is the most frequent option. It is skipped here to save time, because the
            // code below removes it in any case (`is_hop_by_hop`).
            .filter(|name| !name.eq_ignore_ascii_case(b"keep-alive"))
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            // Host and Content-Length stay, because the message would have another meaning without
            // them.
            .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    remove_matching(headers, is_hop_by_hop);
}

fn remove_matching(headers: &mut HeaderMap, matches: impl Fn(&str) -> bool) {
    let named: Vec<HeaderName> = headers
        .keys()
        .filter(|name| matches(name.as_str()))
        .cloned()
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// Returns whether the Content-Type is that of a gRPC request.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Returns whether the comma-separated list in a field contains `wanted`.
pub(crate) fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    items(headers, name).any(|item| item.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// Returns the members of the comma-separated list in a field, as bytes. The field is not converted
/// to text, because a field with one invalid byte would then have no members for the gateway. A
/// service could still read the valid members of such a field.
fn items<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assertion() -> HeaderName {
        HeaderName::from_static("x-caller-identity")
    }

    #[test]
    fn an_item_that_is_not_text_hides_no_other() {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_bytes(b"\xff, x-hop").unwrap();
        headers.insert(CONNECTION, value);
        headers.insert("x-hop", HeaderValue::from_static("1"));
        headers.insert("x-kept", HeaderValue::from_static("1"));
        let api_key = HeaderName::from_static("x-api-key");
        let mut request = headers.clone();
        strip_request(&mut request, &assertion(), &api_key, false).unwrap();
        strip_response(&mut headers);
        for headers in [request, headers] {
            let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
            assert_eq!(names, ["x-kept"]);
        }
        let mut upgrade = HeaderMap::new();
        let value = HeaderValue::from_bytes(b"\xff, h2c").unwrap();
        upgrade.insert(UPGRADE, value);
        assert!(strip_request(&mut upgrade, &assertion(), &api_key, false).is_err());
    }

    #[test]
    fn connection_cannot_remove_host_or_length() {
        let mut headers = HeaderMap::new();
        headers.insert(
            CONNECTION,
            HeaderValue::from_static("host, content-length, x-a, close"),
        );
        headers.insert("host", HeaderValue::from_static("a"));
        headers.insert("content-length", HeaderValue::from_static("1"));
        headers.insert("x-a", HeaderValue::from_static("1"));
        strip_request(
            &mut headers,
            &assertion(),
            &HeaderName::from_static("x-api-key"),
            false,
        )
        .unwrap();
        assert_eq!(headers.len(), 2);
    }
}
