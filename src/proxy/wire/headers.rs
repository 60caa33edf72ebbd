//! Which header fields pass the gateway, in either direction.
//!
//! A caller's copy of any field that a service might take for the gateway's is removed,
//! in every spelling: many servers read `_` or `.` as `-`.

use http::header::{self, CONNECTION, HeaderMap, HeaderName, HeaderValue, TRAILER, UPGRADE};

use super::head::is_framing_name;
use crate::policy::Denial;
use crate::reason::ReasonCode;

/// Fields that only the gateway may set: exact names.
const FORGEABLE: [&str; 9] = [
    "forwarded",
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-real-ip",
    "x-request-id",
];
/// Fields that only the gateway may set: prefixes of names. The last ones are fields of
/// other gateways, which services believe.
const FORGEABLE_PREFIXES: [&str; 11] = [
    "countersign-",
    "client-cert",
    "x-forwarded-",
    "x-client-cert",
    "x-client-dn",
    "x-client-san",
    "x-client-verify",
    "x-spiffe",
    "x-ssl-client",
    "x-tls-client",
    "ssl-client",
];

/// Whether only the gateway may set a field. `name` is lower case, as all names of a
/// [`HeaderMap`] are; `assertion` is the assertion's field.
#[must_use]
pub fn is_forgeable(name: &str, assertion: &HeaderName) -> bool {
    // Decides nearly all ordinary names by their first byte.
    let first = name.as_bytes().first().copied().unwrap_or_default();
    let assertion_first = assertion.as_str().as_bytes().first().copied();
    if !matches!(first, b'c' | b'f' | b's' | b'x') && Some(first) != assertion_first {
        return false;
    }
    let mut canonical = [0_u8; 64];
    let length = name.len().min(canonical.len());
    for (to, from) in canonical.iter_mut().zip(name.bytes()) {
        *to = if from.is_ascii_alphanumeric() {
            from.to_ascii_lowercase()
        } else {
            b'-'
        };
    }
    let canonical = canonical.get(..length).unwrap_or_default();
    let starts = |prefix: &str| canonical.starts_with(prefix.as_bytes());
    let is = |whole: &str| name.len() == whole.len() && canonical == whole.as_bytes();
    FORGEABLE_PREFIXES.iter().any(|prefix| starts(prefix))
        || FORGEABLE.iter().any(|whole| is(whole))
        || is_spelling_of(name, assertion.as_str())
}

fn is_spelling_of(name: &str, wanted: &str) -> bool {
    name.len() == wanted.len()
        && name.bytes().zip(wanted.bytes()).all(|(a, b)| {
            a.eq_ignore_ascii_case(&b) || !(a.is_ascii_alphanumeric() || b.is_ascii_alphanumeric())
        })
}

/// What has to be done about a request's fields, found in one pass over their names: most
/// requests need nothing.
#[derive(Default)]
struct RequestFields {
    /// Fields of one hop.
    hop_by_hop: bool,
    upgrade: bool,
    length: bool,
    cookie: bool,
    /// A spelling of Content-Length or Transfer-Encoding that is neither.
    like_framing: bool,
    settings: bool,
    /// Fields to be removed in any case.
    remove: Vec<HeaderName>,
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
                    if is_forgeable(other, assertion)
                        || is_spelling_of(other, api_key.as_str()) =>
                {
                    found.remove.push(name.clone());
                }
                "cookie" => found.cookie = true,
                _ => {}
            }
        }
        found
    }
}

/// Removes from a request the fields that a caller could have forged, those of this hop,
/// and the credentials.
///
/// # Errors
/// A denial for ambiguous framing, and for an attempt to switch to HTTP/2 within the connection,
/// which would carry requests past every check.
pub fn strip_request(
    headers: &mut HeaderMap,
    assertion: &HeaderName,
    api_key: &HeaderName,
) -> Result<(), Denial> {
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
    if found.cookie {
        join_cookies(headers);
    }
    Ok(())
}

/// Joins the fields into which HTTP/2 may split Cookie; HTTP/1.1 has one (RFC 9113
/// section 8.2.3).
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

/// Removes from a response the fields of one hop, and those that only the gateway may set.
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

/// Makes a response uncacheable if it depends on the certificate fields: callers do not
/// send them, so that caches could not tell such responses apart (RFC 9440 section 2.4).
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

/// The declared trailers that may pass (RFC 9110 section 6.6.2). hyper sends only
/// trailers that are declared.
pub(crate) fn declared_trailers(
    headers: &HeaderMap,
    private: &[HeaderName],
) -> Option<HeaderValue> {
    if !headers.contains_key(TRAILER) {
        return None;
    }
    let mut named = HeaderMap::new();
    for name in items(headers, &TRAILER).filter_map(|name| HeaderName::from_bytes(name).ok()) {
        named.insert(name, HeaderValue::from_static(""));
    }
    strip_trailers(&mut named, private);
    let names: Vec<&str> = named.keys().map(HeaderName::as_str).collect();
    (!names.is_empty())
        .then(|| HeaderValue::from_str(&names.join(", ")).ok())
        .flatten()
}

/// Fields that must not be trailers, because a receiver that merges trailers into the
/// header would act on them: routing, request modifiers, authentication, content format
/// and fields of one hop (RFC 9110 section 6.5.1).
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

/// Removes fields that must not be trailers, in every spelling. `private` are the fields
/// that only the gateway may set or see. Other names pass, gRPC's metadata among them.
pub fn strip_trailers(trailers: &mut HeaderMap, private: &[HeaderName]) {
    strip_response(trailers);
    remove_matching(trailers, |name| {
        is_framing_name(name.as_bytes())
            || NOT_IN_TRAILERS
                .iter()
                .any(|field| is_spelling_of(name, field))
            || private.iter().any(|field| is_forgeable(name, field))
    });
}

/// Whether a field belongs to one hop even if Connection does not name it.
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

/// Removes the Connection field, the fields that it names, and those that belong to one
/// hop anyway (RFC 9110 section 7.6.1).
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = items(headers, &CONNECTION)
            // The usual option, whose field is removed anyway.
            .filter(|name| !name.eq_ignore_ascii_case(b"keep-alive"))
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            // Without these the message would mean something else.
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

/// The items of a comma-separated field. They are bytes, because an item that is not text
/// must not hide the others from the checks: a service may well read them.
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
        strip_request(&mut request, &assertion(), &api_key).unwrap();
        strip_response(&mut headers);
        for headers in [request, headers] {
            let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
            assert_eq!(names, ["x-kept"]);
        }
        let mut upgrade = HeaderMap::new();
        let value = HeaderValue::from_bytes(b"\xff, h2c").unwrap();
        upgrade.insert(UPGRADE, value);
        assert!(strip_request(&mut upgrade, &assertion(), &api_key).is_err());
    }

    #[test]
    fn every_spelling_is_recognised() {
        for name in [
            "countersign-assertion",
            "countersign_assertion",
            "countersign.reason",
            "countersign-anything",
            "client-cert",
            "client_cert_chain",
            "client-certificate",
            "x-forwarded-for",
            "x_forwarded_for",
            "x-forwarded_client-cert",
            "forwarded",
            "x-original-url",
            "x_rewrite.url",
            "x!http~method|override",
            "x_http_method",
            "x-method.override",
            "x-real-ip",
            "x_original_uri",
            "x-caller-identity",
            "x_caller_identity",
            "x-ssl-client-s-dn",
            "ssl_client_cert",
            "x-client-san",
        ] {
            assert!(is_forgeable(name, &assertion()), "{name}");
        }
        for name in [
            "cookie",
            "content-type",
            "x-custom",
            "from",
            "accept",
            "client",
            "x-forwarde",
        ] {
            assert!(!is_forgeable(name, &assertion()), "{name}");
        }
    }

    #[test]
    fn long_names_do_not_slip_through() {
        let long = format!("countersign-{}", "a".repeat(200));
        assert!(is_forgeable(&long, &assertion()));
        let long = format!("forwarded{}", "-".repeat(200));
        assert!(!is_forgeable(&long, &assertion()));
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
        )
        .unwrap();
        assert_eq!(headers.len(), 2);
    }
}
