//! Decides which header fields pass the gateway, in both directions.
//!
//! If a service could believe that the gateway has set a field, the caller's copy of that
//! field is removed. This includes every spelling, because many servers read `_` or `.` as
//! `-`.

use std::sync::Arc;

use http::header::{self, CONNECTION, Entry, HeaderMap, HeaderName, HeaderValue, TRAILER, UPGRADE};

use super::head::is_framing_name;
use crate::policy::Denial;
use crate::reason::ReasonCode;
use crate::upstream::forgeable::{is_forgeable, is_spelling_of};
use crate::upstream::header_rules::HeaderRules;

/// The changes that a request needs in its fields. One pass over the names finds them,
/// because most requests need no change.
#[derive(Default)]
struct RequestFields {
    /// Whether there are fields that belong to one hop.
    hop_by_hop: bool,
    upgrade: bool,
    length: bool,
    cookie: bool,
    /// Whether a field is similar to Content-Length or Transfer-Encoding, but is neither
    /// of them.
    like_framing: bool,
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

/// Removes from a request the fields that a caller could have forged, the fields of this
/// hop, and the credentials. With `keep`, returns the forgeable fields, for
/// [`HeaderRules::apply`]. Otherwise the result is empty.
///
/// # Errors
/// A denial for ambiguous framing, or for an attempt to switch to HTTP/2 within the
/// connection, because requests after such a switch would not be checked.
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

/// Joins Cookie fields into one. HTTP/2 may split them, but HTTP/1.1 allows only one (RFC
/// 9113 section 8.2.3).
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

/// Removes from a response the fields of one hop, and the fields that only the gateway may
/// set.
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

/// Whether only the gateway may set a field of a response.
fn is_reserved(name: &str) -> bool {
    name.starts_with('c')
        && name
            .get(..12)
            .is_some_and(|start| is_spelling_of(start, "countersign-"))
}

/// Replaces `Vary` by `*` if it names a certificate field, so that the response is not
/// cached. Callers do not send these fields, so that a cache could not tell such responses
/// apart (RFC 9440 section 2.4).
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

/// Decides which trailers of a request pass.
#[derive(Debug, Clone)]
pub struct RequestTrailers {
    private: [HeaderName; 2],
    rules: Arc<HeaderRules>,
}

impl RequestTrailers {
    /// `private` are the fields of the assertion and of API keys. `rules` are those of the
    /// upstream.
    #[must_use]
    pub const fn new(private: [HeaderName; 2], rules: Arc<HeaderRules>) -> Self {
        Self { private, rules }
    }

    /// Removes the trailers that must not pass.
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

/// Returns the names of the declared trailers.
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

/// Makes the Trailer field that declares trailers (RFC 9110 section 6.6.2). hyper sends
/// only declared trailers.
pub(crate) fn trailer_field(declared: &HeaderMap) -> Option<HeaderValue> {
    let names: Vec<&str> = declared.keys().map(HeaderName::as_str).collect();
    (!names.is_empty())
        .then(|| HeaderValue::from_str(&names.join(", ")).ok())
        .flatten()
}

/// Fields that must not be trailers (RFC 9110 section 6.5.1): routing, request modifiers,
/// authentication, content format, and fields of one hop. Some receivers merge trailers
/// into the header, and would then use these fields.
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

/// Removes fields that must not be trailers in either direction, in every spelling.
/// `private` are the fields that only the gateway may set or see. All other trailers pass,
/// for example gRPC metadata.
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

/// Same as [`strip_trailers`], for a response. Also removes the fields that only a gateway
/// sets, because the caller may be a gateway that would trust them.
pub fn strip_response_trailers(trailers: &mut HeaderMap, private: &[HeaderName]) {
    strip_trailers(trailers, private);
    remove_matching(trailers, is_forgeable);
}

/// Whether a field belongs to one hop, even if Connection does not name it.
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

/// Removes the Connection field, the fields that it names, and all other fields of one hop
/// (RFC 9110 section 7.6.1).
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = items(headers, &CONNECTION)
            // A shortcut for the most frequent option: `is_hop_by_hop` removes Keep-Alive anyway.
            .filter(|name| !name.eq_ignore_ascii_case(b"keep-alive"))
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            // Without these fields the message would have another meaning.
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

/// Whether a request comes from a gRPC client.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Whether a comma-separated field has an item.
pub(crate) fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    items(headers, name).any(|item| item.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// Returns the items of a comma-separated field. They are bytes, because an item that is
/// not text must not prevent the check of the other items: a service may still read those.
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
