//! Cases about assertions that break two rules. The expected error code is the code of the rule
//! that is checked first.
//!
//! The order is: field lines, form, type, header members, algorithm and key,
//! signature, strict JSON, types of claims, issuer, audience, lifetime, time,
//! binding, method, host, path, query, body.

use serde_json::json;

use super::case::{Case, Draft, ISSUED, case, text};
use super::key::{CURRENT, STRANGER, hash};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = headers();
    cases.extend(payloads());
    cases.extend(requests());
    cases
}

fn both(name: &str) -> Draft {
    case("order", name)
}

fn headers() -> Vec<Case> {
    vec![
        both("two field lines, neither an assertion")
            .assertions(["x", "y"])
            .refused("duplicate"),
        both("`crit`, and another type")
            .header_member("crit", json!(["exp"]))
            .header_member("typ", "JWT")
            .refused("malformed"),
        both("another type, and `jwk`")
            .header_member("typ", "JWT")
            .header_member("jwk", STRANGER.jwk())
            .refused("type"),
        both("another type, and an unknown key")
            .signer(STRANGER)
            .header_member("typ", "JWT")
            .refused("type"),
        both("`jwk`, and no `kid`")
            .header(|header| {
                header["jwk"] = STRANGER.jwk();
                header.as_object_mut().unwrap().remove("kid");
            })
            .refused("embedded-key"),
        both("padding, and another type")
            .header_member("typ", "JWT")
            .token(|token| format!("{token}=="))
            .refused("malformed"),
        both("an unknown key, and no `sub`")
            .signer(STRANGER)
            .without(&["sub"])
            .refused("unknown-key"),
    ]
}

/// Creates a draft whose assertion has the `kid` of one key, but is signed with another key.
fn forged(name: &str) -> Draft {
    both(name)
        .signer(STRANGER)
        .header_member("kid", CURRENT.key_id())
}

fn payloads() -> Vec<Case> {
    vec![
        forged("a wrong signature, and a payload that is not JSON")
            .payload("not JSON")
            .refused("signature"),
        forged("a wrong signature, and a duplicate member")
            .first_members(r#""sub":"x""#)
            .refused("signature"),
        forged("a wrong signature, and another issuer")
            .claim("iss", "https://evil.example")
            .refused("signature"),
        forged("a wrong signature, and expired")
            .now(ISSUED + 3600)
            .refused("signature"),
        both("a duplicate member, and no `aud`")
            .payload(
                text(&json!({"iss": "x", "sub": {"a": 1}})).replace(r#""a":1"#, r#""a":1,"a":2"#),
            )
            .refused("malformed"),
        both("no `authn`, and another issuer")
            .without(&["authn"])
            .claim("iss", "https://evil.example")
            .refused("claims"),
        both("another issuer, and another audience")
            .claim("iss", "https://evil.example")
            .claim("aud", "payments")
            .refused("issuer"),
        both("another audience, and expired")
            .claim("aud", "payments")
            .now(ISSUED + 3600)
            .refused("audience"),
        both("a lifetime of 301 s, and in the future")
            .claim("exp", ISSUED + 301)
            .now(ISSUED - 3600)
            .refused("lifetime"),
        both("a lifetime of 301 s, and expired")
            .claim("exp", ISSUED + 301)
            .now(ISSUED + 3600)
            .refused("lifetime"),
        both("expired, and caller-bound")
            .caller_bound()
            .now(ISSUED + 3600)
            .refused("expired"),
        both("in the future, and bound in part")
            .without(&["jti"])
            .now(ISSUED - 3600)
            .refused("not-yet-valid"),
    ]
}

fn requests() -> Vec<Case> {
    vec![
        both("bound in part, and for another method")
            .without(&["jti"])
            .method("POST")
            .refused("partial-binding"),
        both("expired, and for another path")
            .now(ISSUED + 3600)
            .target("/orders/8")
            .refused("expired"),
        both("`htu` without a path, and another method")
            .claim("htu", "https://orders.example.org")
            .method("POST")
            .refused("claims"),
        both("another method, and two hosts")
            .method("POST")
            .hosts(&["orders.example.org", "evil.example"])
            .refused("method"),
        both("another method, and another path")
            .method("POST")
            .target("/orders/8")
            .refused("method"),
        both("two hosts, and another path")
            .hosts(&["orders.example.org", "evil.example"])
            .target("/orders/8")
            .refused("request-unclear"),
        both("another host, and another path")
            .hosts(&["evil.example"])
            .target("/orders/8")
            .refused("authority"),
        both("another path, and another query")
            .target("/orders/8?x=1")
            .refused("path"),
        both("another query, and another body")
            .claim("htb", hash(b"x"))
            .body(b"y")
            .target("/orders/7?x=1")
            .refused("query"),
        both("another path, and no bound body")
            .require_body_binding()
            .target("/orders/8")
            .refused("path"),
    ]
}
