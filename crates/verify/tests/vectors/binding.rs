//! Cases about request-bound and caller-bound assertions, and about the body.

use super::case::{Case, case};
use super::key::hash;

/// All claims about a request, with a valid value.
const CLAIMS: [(&str, &str); 6] = [
    ("htm", "GET"),
    ("htu", "https://orders.example.org/orders/7"),
    ("jti", "dQ3mGx9eS1mJ7lB2h0Qy3A"),
    ("htq", "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"),
    ("htb", "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"),
    ("txn", "8c6b0f6e2f0f4a1d"),
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = request_bound();
    cases.extend(caller_bound());
    cases.extend(partly_bound());
    cases.extend(bodies());
    cases.extend(required_bodies());
    cases
}

fn request_bound() -> Vec<Case> {
    let rule = "request-bound";
    vec![
        case(rule, "a transaction identifier")
            .claim("txn", "8c6b0f6e2f0f4a1d")
            .accepted(),
        case(rule, "where caller-bound ones are allowed")
            .allow_caller_binding()
            .accepted(),
        case(rule, "another method, where caller-bound ones are allowed")
            .allow_caller_binding()
            .method("POST")
            .refused("method"),
        case(rule, "another path, where caller-bound ones are allowed")
            .allow_caller_binding()
            .target("/orders/8")
            .refused("path"),
        case(rule, "another host, where caller-bound ones are allowed")
            .allow_caller_binding()
            .hosts(&["evil.example"])
            .refused("authority"),
        case(rule, "a query, where caller-bound ones are allowed")
            .allow_caller_binding()
            .target("/orders/7?x=1")
            .refused("query"),
    ]
}

fn caller_bound() -> Vec<Case> {
    let rule = "caller-bound";
    let allowed = |name: &str| case(rule, name).caller_bound().allow_caller_binding();
    vec![
        case(rule, "not allowed")
            .caller_bound()
            .refused("not-request-bound"),
        case(rule, "not allowed, for another request")
            .caller_bound()
            .method("POST")
            .target("/orders/8?x=1")
            .refused("not-request-bound"),
        allowed("allowed").accepted(),
        allowed("any method").method("DELETE").accepted(),
        allowed("any path").target("/a/b%2Fc").accepted(),
        allowed("any query").target("/orders/7?x=1").accepted(),
        allowed("any host").hosts(&["10.0.0.7:8080"]).accepted(),
        allowed("any body").method("POST").body(b"{}").accepted(),
        allowed("another audience")
            .claim("aud", "payments")
            .refused("audience"),
        allowed("expired").now(1_770_000_040).refused("expired"),
        allowed("with a required body binding")
            .require_body_binding()
            .method("POST")
            .body(b"{}")
            .refused("body-not-bound"),
    ]
}

/// Returns cases in which the assertion has claims about a request, but not all of `htm`, `htu` and
/// `jti`.
fn partly_bound() -> Vec<Case> {
    let rule = "partial-binding";
    let mut cases = Vec::new();
    for (claim, value) in CLAIMS {
        let alone = |name: String| case(rule, name).caller_bound().claim(claim, value);
        cases.extend([
            alone(format!("`{claim}` alone")).refused("partial-binding"),
            alone(format!(
                "`{claim}` alone, where caller-bound ones are allowed"
            ))
            .allow_caller_binding()
            .refused("partial-binding"),
        ]);
    }
    for (claim, _) in CLAIMS.into_iter().take(3) {
        let missing = |name: String| case(rule, name).without(&[claim]);
        cases.extend([
            missing(format!("`{claim}` is missing")).refused("partial-binding"),
            missing(format!(
                "`{claim}` is missing, where caller-bound ones are allowed"
            ))
            .allow_caller_binding()
            .refused("partial-binding"),
        ]);
    }
    cases.push(
        case(rule, "all of `htq`, `htb` and `txn`, but nothing else")
            .caller_bound()
            .allow_caller_binding()
            .claim("htq", hash(b""))
            .claim("htb", hash(b""))
            .claim("txn", "1f0c")
            .target("/orders/7?")
            .body(b"")
            .refused("partial-binding"),
    );
    cases
}

fn bodies() -> Vec<Case> {
    let rule = "body";
    let bound = |name: &str, body: &[u8]| {
        case(rule, name)
            .method("POST")
            .claim("htm", "POST")
            .claim("htb", hash(body))
    };
    let other = |name: &str, body: &[u8]| bound(name, br#"{"item":7}"#).body(body).refused("body");
    let text = br#"{"item":7}"#;
    vec![
        bound("a body", text).body(text).accepted(),
        bound("an empty body", b"").body(b"").accepted(),
        bound("a body of all bytes", &(0..=255).collect::<Vec<u8>>())
            .body(&(0..=255).collect::<Vec<u8>>())
            .accepted(),
        bound("a body that the verifier is not given", text).accepted(),
        case(rule, "a body without `htb`").body(text).accepted(),
        other("another body", br#"{"item":8}"#),
        other("an empty body instead of another", b""),
        other("a body with a line feed at the end", b"{\"item\":7}\n"),
        other("the same JSON with a space", br#"{"item": 7}"#),
        other("the beginning of the body", br#"{"item":7"#),
        bound("a body instead of none", b"")
            .body(b"x")
            .refused("body"),
        case(rule, "an empty `htb`")
            .claim("htb", "")
            .body(b"")
            .refused("body"),
        case(rule, "`htb` with padding")
            .claim("htb", format!("{}=", hash(text)))
            .body(text)
            .refused("body"),
        case(rule, "the hash of the query as `htb`")
            .claim("htq", hash(b"x=1"))
            .claim("htb", hash(b"x=1"))
            .target("/orders/7?x=1")
            .body(text)
            .refused("body"),
    ]
}

fn required_bodies() -> Vec<Case> {
    let rule = "body-binding-option";
    let text = br#"{"item":7}"#;
    let required = |name: &str| case(rule, name).require_body_binding();
    vec![
        required("a bound body")
            .claim("htb", hash(text))
            .body(text)
            .accepted(),
        required("a bound empty body")
            .claim("htb", hash(b""))
            .body(b"")
            .accepted(),
        required("another body")
            .claim("htb", hash(text))
            .body(b"x")
            .refused("body"),
        required("no `htb`").body(text).refused("body-not-bound"),
        required("no `htb` and an empty body")
            .body(b"")
            .refused("body-not-bound"),
        required("a body that the verifier is not given")
            .claim("htb", hash(text))
            .refused("body-not-bound"),
        required("neither `htb` nor a body").refused("body-not-bound"),
    ]
}
