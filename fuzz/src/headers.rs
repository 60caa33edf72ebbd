//! Filters header fields of requests and responses, and trailers. No forgeable field and no
//! hop-by-hop field may remain, and unrelated fields must not change.

use std::sync::Arc;

use countersign_core::upstream::header_rules::HeaderRules;
use countersign_proxy::wire::headers::{RequestTrailers, strip_request, strip_response};
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Fields that only the gateway may set. Names are compared after [`canonical`].
const FORGEABLE: [&str; 12] = [
    "countersign-assertion",
    "client-cert",
    "client-cert-chain",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-client-cert",
    "x-original-url",
    "x-http-method-override",
    "x-client-ip",
    "remote-user",
    "ssl-cert",
    "proxy",
];

/// Hop-by-hop fields, which a proxy must not forward (RFC 9110 section 7.6.1).
const ONE_HOP: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Fields that must not be in trailers (RFC 9110 section 6.5.1). Names are compared after
/// [`canonical`].
const OF_THE_HEAD: [&str; 12] = [
    "authorization",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "set-cookie",
    "transfer-encoding",
];

/// Returns the name in lower case, with `-` for all punctuation. Some servers treat all these
/// spellings as the same name.
fn canonical(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect::<String>()
        .to_ascii_lowercase()
}

fn is_forged(name: &str) -> bool {
    let name = canonical(name);
    name.starts_with("countersign-") || FORGEABLE.contains(&&*name) || name == "x-who"
}

fn fields(data: &[u8]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in data.split(|b| *b == b'\n').take(90) {
        let mut parts = line.splitn(2, |b| *b == b':');
        let name = parts
            .next()
            .and_then(|name| HeaderName::from_bytes(name).ok());
        let value = HeaderValue::from_bytes(parts.next().unwrap_or_default());
        if let (Some(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    fields
}

/// Returns the names that the `Connection` fields list.
fn listed(fields: &HeaderMap) -> Vec<String> {
    fields
        .get_all("connection")
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
        .collect()
}

/// Returns the fields that the filters must not change: those that begin with `y-` or `grpc-`,
/// except those in `listed`.
fn untouched(fields: &HeaderMap, listed: &[String]) -> Vec<(String, Vec<u8>)> {
    let mut untouched: Vec<_> = fields
        .iter()
        .filter(|(name, _)| {
            (name.as_str().starts_with("y-") || name.as_str().starts_with("grpc-"))
                && !listed.iter().any(|listed| listed == name.as_str())
        })
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect();
    // The fields are sorted by name, because the order of fields with different names has no
    // meaning.
    untouched.sort_by(|(a, _), (b, _)| a.cmp(b));
    untouched
}

/// Each line of the input is one field: `name:value`. The fields are filtered as those of a
/// request, of a response, and of trailers.
pub fn headers(data: &[u8]) {
    let before = fields(data);
    let listed = listed(&before);
    let assertion = HeaderName::from_static("x-who");
    let api_key = HeaderName::from_static("x-api-key");
    let mut request = before.clone();
    if strip_request(&mut request, &assertion, &api_key, false).is_ok() {
        for name in request.keys() {
            assert!(!is_forged(name.as_str()), "{name} remains");
            assert!(!ONE_HOP.contains(&name.as_str()), "{name} remains");
            assert_ne!(name, "authorization", "credentials remain");
            assert_ne!(canonical(name.as_str()), "x-api-key", "credentials remain");
        }
        for name in ["host", "content-length"] {
            assert_eq!(before.get(name), request.get(name), "{name} was changed");
        }
        assert!(request.get_all("cookie").iter().count() <= 1);
        assert_eq!(untouched(&before, &listed), untouched(&request, &[]));
    }
    let mut response = before.clone();
    strip_response(&mut response);
    for name in response.keys() {
        assert!(
            !canonical(name.as_str()).starts_with("countersign-"),
            "{name} remains"
        );
        assert!(!ONE_HOP.contains(&name.as_str()), "{name} remains");
    }
    assert_eq!(untouched(&before, &listed), untouched(&response, &[]));
    let mut trailers = before.clone();
    let rules = Arc::new(HeaderRules::default());
    RequestTrailers::new([assertion, api_key], rules).strip(&mut trailers);
    for name in trailers.keys() {
        assert!(!is_forged(name.as_str()), "{name} remains");
        assert!(!ONE_HOP.contains(&name.as_str()), "{name} remains");
        let canonical = canonical(name.as_str());
        assert!(!OF_THE_HEAD.contains(&&*canonical), "{name} remains");
        assert_ne!(canonical, "x-api-key", "credentials remain");
    }
    assert_eq!(untouched(&before, &listed), untouched(&trailers, &[]));
}
