//! Tests each rule of verification, and the error if an assertion breaks the rule.

use std::time::Duration;

use countersign_verify::jose::{CompactJws, JwkSet, base64url_decode, base64url_encode};
use countersign_verify::{
    Assertion, BuildError, RequestParts, Verifier, VerifyError, claims, only_assertion,
};
use serde_json::{Value, json};

use crate::support::{
    AUDIENCE, ISSUER, NOW, SigningKey, TestClock, builder, builder_with_clock, caller_claims,
    key_set, request, request_claims, verifier, with, without,
};

/// Returns the error when a verifier with default settings verifies an assertion with
/// `claims` for [`request`].
fn refusal(claims: &Value) -> VerifyError {
    let key = SigningKey::ed_dsa();
    verifier(&key)
        .verify(&key.assertion(claims), &request())
        .unwrap_err()
}

/// Returns the error of a default verifier for valid claims with a changed header.
fn header_refusal(change: impl FnOnce(&mut Value)) -> VerifyError {
    let key = SigningKey::es256();
    let mut header = key.header();
    change(&mut header);
    verifier(&key)
        .verify(
            &key.sign(&header, &request_claims().to_string()),
            &request(),
        )
        .unwrap_err()
}

fn is_malformed(error: VerifyError) -> bool {
    matches!(error, VerifyError::Malformed(_)) && error.code() == "assertion-malformed"
}

#[test]
fn a_good_assertion_is_accepted() {
    for key in [SigningKey::es256(), SigningKey::ed_dsa()] {
        let assertion = verifier(&key)
            .verify(&key.assertion(&request_claims()), &request())
            .unwrap();
        assert_eq!(assertion.sub, "spiffe://example.org/ns/shop/sa/checkout");
        assert!(assertion.is_request_bound());
        // The parsed claims are equal to the signed claims, member by member.
        assert_eq!(serde_json::to_value(&assertion).unwrap(), request_claims());
    }
}

#[test]
fn claims_keep_their_wire_form() {
    let mut all = request_claims();
    all["htq"] = json!("q");
    all["htb"] = json!("b");
    all["client_cert"]["sans_truncated"] = json!(true);
    all["token"] = json!({"iss": "https://idp.example.org", "sub": "alice", "client_id": "web",
        "scope": "orders:read", "jti": "7", "ath": "h", "groups": ["buyers"]});
    let read: Assertion = serde_json::from_value(all.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), all);
    let text = serde_json::to_string(&read).unwrap();
    assert!(text.starts_with(r#"{"iss":"#), "{text}");
    assert!(text.contains(r#""client_cert":{"x5t#S256":"#), "{text}");
    // The claims of a caller without certificate.
    let key_only = json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "api-key:nightly", "iat": 1, "exp": 2,
        "authn": {"methods": ["api-key"], "at": 1, "resumed": false}});
    let read: Assertion = serde_json::from_value(key_only.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), key_only);
}

#[test]
fn exactly_one_field_line_is_taken() {
    let line: &[u8] = b"a.b.c";
    assert_eq!(only_assertion([line]), Ok("a.b.c"));
    let none: [&[u8]; 0] = [];
    assert_eq!(only_assertion(none), Err(VerifyError::Missing));
    assert_eq!(only_assertion([line, line]), Err(VerifyError::Duplicate));
    assert!(is_malformed(only_assertion([&b"\xff"[..]]).unwrap_err()));
    let key = SigningKey::es256();
    let token = key.assertion(&request_claims());
    for list in [
        format!("{token},{token}"),
        format!("{token}, {token}"),
        format!(" {token}"),
    ] {
        assert!(is_malformed(
            verifier(&key).verify(&list, &request()).unwrap_err()
        ));
    }
}

#[test]
fn the_form_is_strict() {
    let key = SigningKey::es256();
    let verifier = verifier(&key);
    let malformed = |token: &str| is_malformed(verifier.verify(token, &request()).unwrap_err());
    assert!(malformed(""));
    assert!(malformed("a.b.c"));
    let token = key.assertion(&request_claims());
    assert!(malformed(&format!("{token}=")));
    assert!(malformed(&format!("{token}.")));
    assert!(malformed(&token.replacen('.', " .", 1)));
    let long = key.assertion(&with(request_claims(), "padding", "x".repeat(8192)));
    assert!(malformed(&long));
    let twice = request_claims()
        .to_string()
        .replacen('{', r#"{"sub":"spiffe://evil/x","#, 1);
    assert!(malformed(&key.sign(&key.header(), &twice)));
    let array = json!([request_claims()]).to_string();
    assert!(malformed(&key.sign(&key.header(), &array)));
    assert!(malformed(&key.sign(&key.header(), "not json")));
    assert!(is_malformed(header_refusal(
        |header| header["crit"] = json!(["exp"])
    )));
    assert!(is_malformed(header_refusal(
        |header| header["b64"] = json!(false)
    )));
}

#[test]
fn the_type_is_demanded() {
    for other in [
        json!("JWT"),
        json!("at+jwt"),
        json!("Countersign+JWT"),
        json!("application/countersign+jwt"),
        json!(""),
    ] {
        assert_eq!(
            header_refusal(|header| header["typ"] = other),
            VerifyError::Type
        );
    }
    assert_eq!(
        header_refusal(|header| {
            header.as_object_mut().unwrap().remove("typ");
        }),
        VerifyError::Type
    );
}

#[test]
fn keys_come_from_the_issuer_only() {
    let key = SigningKey::es256();
    for (name, value) in [
        ("jwk", key.public().to_json()),
        ("jku", json!("https://evil.example/keys")),
        ("x5u", json!("https://evil.example/chain")),
        ("x5c", json!([])),
    ] {
        assert_eq!(
            header_refusal(|header| header[name] = value),
            VerifyError::EmbeddedKey,
            "{name}"
        );
    }
    assert_eq!(
        header_refusal(|header| {
            header.as_object_mut().unwrap().remove("kid");
        }),
        VerifyError::KeyIdMissing
    );
    assert_eq!(
        header_refusal(|header| header["kid"] = json!("")),
        VerifyError::KeyIdMissing
    );
    assert_eq!(
        header_refusal(|header| header["kid"] = json!("x")),
        VerifyError::UnknownKey
    );
    let stranger = SigningKey::es256();
    assert_eq!(
        verifier(&key).verify(&stranger.assertion(&request_claims()), &request()),
        Err(VerifyError::UnknownKey)
    );
    // The `kid` names the right key, but another key made the signature.
    let mut header = stranger.header();
    header["kid"] = json!(key.key_id());
    assert_eq!(
        verifier(&key).verify(
            &stranger.sign(&header, &request_claims().to_string()),
            &request()
        ),
        Err(VerifyError::Signature)
    );
}

#[test]
fn the_algorithm_is_that_of_the_key() {
    for name in [
        "none", "HS256", "EdDSA", "Ed25519", "ES384", "RS256", "PS256", "es256",
    ] {
        assert_eq!(
            header_refusal(|header| header["alg"] = json!(name)),
            VerifyError::Algorithm,
            "{name}"
        );
    }
    // `Ed25519` is the new name of `EdDSA` with Ed25519 keys (RFC 9864).
    let key = SigningKey::ed_dsa();
    let mut header = key.header();
    header["alg"] = json!("Ed25519");
    let token = key.sign(&header, &request_claims().to_string());
    assert!(verifier(&key).verify(&token, &request()).is_ok());
}

#[test]
fn alterations_are_noticed() {
    let key = SigningKey::es256();
    let verifier = verifier(&key);
    let token = key.assertion(&request_claims());
    let parts: Vec<&str> = token.split('.').collect();
    let other = base64url_encode(
        with(request_claims(), "sub", "spiffe://evil/x")
            .to_string()
            .as_bytes(),
    );
    let altered = format!("{}.{other}.{}", parts[0], parts[2]);
    assert_eq!(
        verifier.verify(&altered, &request()),
        Err(VerifyError::Signature)
    );
    let signature = base64url_decode(parts[2], "signature").unwrap();
    let short = base64url_encode(&signature[..63]);
    assert_eq!(
        verifier.verify(&format!("{}.{}.{short}", parts[0], parts[1]), &request()),
        Err(VerifyError::Signature)
    );
}

#[test]
fn claims_are_complete_and_typed() {
    for name in ["iss", "aud", "sub", "iat", "exp", "authn"] {
        assert_eq!(
            refusal(&without(request_claims(), &[name])),
            VerifyError::Claims,
            "{name}"
        );
    }
    for (name, value) in [
        ("aud", json!([AUDIENCE])),
        ("iss", json!([ISSUER])),
        ("exp", json!("1770000030")),
        ("iat", json!(-1)),
        ("iat", json!(1.5)),
        ("htm", json!(7)),
        ("htu", json!("orders.example.org/orders/7")),
        ("htu", json!("https://orders.example.org")),
        ("htu", json!("https:///orders/7")),
        ("htu", json!("https://orders.example.org/orders/7?a")),
        ("htu", json!("https://orders.example.org/orders/7#a")),
    ] {
        assert_eq!(
            refusal(&with(request_claims(), name, value.clone())),
            VerifyError::Claims,
            "{name} {value}"
        );
    }
}

#[test]
fn issuer_and_audience_are_exact() {
    for other in [
        "https://gateway.example.org:9080/",
        "https://GATEWAY.example.org:9080",
        "",
    ] {
        assert_eq!(
            refusal(&with(request_claims(), "iss", other)),
            VerifyError::Issuer,
            "{other}"
        );
    }
    for other in ["Orders", "orders ", "payments", ""] {
        assert_eq!(
            refusal(&with(request_claims(), "aud", other)),
            VerifyError::Audience,
            "{other}"
        );
    }
}

#[test]
fn time_is_checked_with_a_bounded_skew() {
    let key = SigningKey::ed_dsa();
    let clock = TestClock::new();
    let verifier = builder_with_clock(&clock)
        .skew(Duration::from_secs(5))
        .jwks(key_set(&[&key]))
        .build()
        .unwrap();
    let token = key.assertion(&request_claims());
    let verify = |token: &str| verifier.verify(token, &request());
    assert!(verify(&token).is_ok());
    clock.advance(30 + 5 - 1);
    assert!(verify(&token).is_ok());
    // At `exp` plus skew the assertion has expired.
    clock.advance(1);
    assert_eq!(verify(&token), Err(VerifyError::Expired));
    let now = clock.now();
    let at = |issued: u64, expires: u64| {
        key.assertion(&with(with(request_claims(), "iat", issued), "exp", expires))
    };
    assert!(verify(&at(now + 5, now + 30)).is_ok());
    assert_eq!(
        verify(&at(now + 6, now + 30)),
        Err(VerifyError::NotYetValid)
    );
    assert!(verify(&at(now, now + 300)).is_ok());
    assert_eq!(verify(&at(now, now + 301)), Err(VerifyError::Lifetime));
    assert_eq!(verify(&at(now, now)), Err(VerifyError::Lifetime));
    assert_eq!(verify(&at(now, now - 1)), Err(VerifyError::Lifetime));
    assert_eq!(verify(&at(0, u64::MAX)), Err(VerifyError::Lifetime));
}

#[test]
fn the_request_is_bound() {
    let key = SigningKey::ed_dsa();
    let verifier = verifier(&key);
    let token = key.assertion(&request_claims());
    let verify = |method: &str, authority: &str, target: &str| {
        verifier.verify(
            &token,
            &RequestParts::new(method, authority, target).unwrap(),
        )
    };
    let host = "orders.example.org";
    assert!(verify("GET", host, "/orders/7").is_ok());
    for method in ["POST", "get", "HEAD", ""] {
        assert_eq!(
            verify(method, host, "/orders/7"),
            Err(VerifyError::Method),
            "{method}"
        );
    }
    for authority in [
        "Orders.example.org",
        "orders.example.org:443",
        "orders.example.org.",
        "payments.example.org",
        "",
    ] {
        assert_eq!(
            verify("GET", authority, "/orders/7"),
            Err(VerifyError::Authority),
            "{authority}"
        );
    }
    for path in [
        "/orders/8",
        "/orders/7/",
        "/orders/%37",
        "//orders/7",
        "/orders/./7",
        "/Orders/7",
        "/",
    ] {
        assert_eq!(verify("GET", host, path), Err(VerifyError::Path), "{path}");
    }
    for target in ["/orders/7?", "/orders/7?a=1"] {
        assert_eq!(
            verify("GET", host, target),
            Err(VerifyError::Query),
            "{target}"
        );
    }
    assert_eq!(
        verifier.verify(
            &token,
            &RequestParts::without_authority("GET", "/orders/7").unwrap()
        ),
        Err(VerifyError::RequestUnclear)
    );
    // The scheme of `htu` has no meaning, so `http` is accepted too.
    let plain = key.assertion(&with(
        request_claims(),
        "htu",
        "http://orders.example.org/orders/7",
    ));
    assert!(verifier.verify(&plain, &request()).is_ok());
}

#[test]
fn the_query_is_bound() {
    let key = SigningKey::ed_dsa();
    let verifier = verifier(&key);
    let token = |query: &str| {
        key.assertion(&with(
            request_claims(),
            "htq",
            claims::hash(query.as_bytes()),
        ))
    };
    let verify = |token: &str, target: &str| {
        verifier.verify(
            token,
            &RequestParts::new("GET", "orders.example.org", target).unwrap(),
        )
    };
    assert!(verify(&token("a=1&b=%20"), "/orders/7?a=1&b=%20").is_ok());
    assert!(verify(&token("a?b"), "/orders/7?a?b").is_ok());
    assert!(verify(&token(""), "/orders/7?").is_ok());
    for target in [
        "/orders/7",
        "/orders/7?",
        "/orders/7?a=1&b=+",
        "/orders/7?b=%20&a=1",
        "/orders/7?a=1&b=%20&",
    ] {
        assert_eq!(
            verify(&token("a=1&b=%20"), target),
            Err(VerifyError::Query),
            "{target}"
        );
    }
    assert_eq!(verify(&token(""), "/orders/7"), Err(VerifyError::Query));
}

#[test]
fn the_body_is_bound_where_both_sides_say_so() {
    let key = SigningKey::ed_dsa();
    let bound = key.assertion(&with(request_claims(), "htb", claims::hash(b"one")));
    let unbound = key.assertion(&request_claims());
    let lenient = verifier(&key);
    assert!(lenient.verify(&bound, &request().with_body(b"one")).is_ok());
    assert_eq!(
        lenient.verify(&bound, &request().with_body(b"two")),
        Err(VerifyError::Body)
    );
    let unread = lenient.verify(&bound, &request()).unwrap();
    assert_eq!(unread.matches_body(b"one"), Some(true));
    assert_eq!(unread.matches_body(b"two"), Some(false));
    let none = lenient
        .verify(&unbound, &request().with_body(b"two"))
        .unwrap();
    assert_eq!(none.matches_body(b"two"), None);
    let strict = builder()
        .jwks(key_set(&[&key]))
        .require_body_binding()
        .build()
        .unwrap();
    assert!(strict.verify(&bound, &request().with_body(b"one")).is_ok());
    for (token, request) in [
        (&unbound, request().with_body(b"one")),
        (&bound, request()),
        (&unbound, request()),
    ] {
        assert_eq!(
            strict.verify(token, &request),
            Err(VerifyError::BodyNotBound)
        );
    }
}

#[test]
fn a_compact_assertion_is_of_a_caller_with_a_certificate_too() {
    let key = SigningKey::ed_dsa();
    let full = request_claims();
    let thumbprint = full["client_cert"]["x5t#S256"].as_str().unwrap();
    let mut compact = full.clone();
    compact.as_object_mut().unwrap().remove("client_cert");
    compact["authn"]["x5t#S256"] = json!(thumbprint);
    for claims in [&full, &compact] {
        let verified = verifier(&key).verify(&key.assertion(claims), &request());
        let caller = verified.unwrap();
        assert!(caller.has_certificate());
        assert_eq!(caller.certificate_thumbprint(), Some(thumbprint));
    }
    let mut by_token = compact;
    by_token["authn"] = json!({"methods": ["token"], "at": 1, "resumed": false});
    let verified = verifier(&key).verify(&key.assertion(&by_token), &request());
    let caller = verified.unwrap();
    assert!(!caller.has_certificate());
    assert_eq!(caller.certificate_thumbprint(), None);
}

#[test]
fn binding_to_the_caller_alone_is_opt_in() {
    let key = SigningKey::ed_dsa();
    let token = key.assertion(&caller_claims());
    assert_eq!(
        verifier(&key).verify(&token, &request()),
        Err(VerifyError::NotRequestBound)
    );
    let open = builder()
        .jwks(key_set(&[&key]))
        .allow_caller_binding()
        .build()
        .unwrap();
    assert!(!open.verify(&token, &request()).unwrap().is_request_bound());
    // Even this verifier compares a request-bound assertion with the request.
    assert_eq!(
        open.verify(
            &key.assertion(&with(request_claims(), "htm", "PUT")),
            &request()
        ),
        Err(VerifyError::Method)
    );
    // Both verifiers, `open` and the default verifier, refuse partly bound assertions.
    for name in ["htm", "htu", "jti"] {
        let claims = without(request_claims(), &[name]);
        assert_eq!(refusal(&claims), VerifyError::PartialBinding, "{name}");
        assert_eq!(
            open.verify(&key.assertion(&claims), &request()),
            Err(VerifyError::PartialBinding),
            "{name}"
        );
    }
    for name in ["htm", "htu", "htq", "htb", "jti", "txn"] {
        let token = key.assertion(&with(caller_claims(), name, "x"));
        assert_eq!(
            open.verify(&token, &request()),
            Err(VerifyError::PartialBinding),
            "{name}"
        );
    }
}

#[test]
fn authority_and_prefix_can_be_configured() {
    let key = SigningKey::ed_dsa();
    let verifier = builder()
        .jwks(key_set(&[&key]))
        .authority("orders.example.org")
        .path_prefix("/orders")
        .build()
        .unwrap();
    let token = key.assertion(&request_claims());
    let verify = |target: &str| {
        verifier.verify(
            &token,
            &RequestParts::new("GET", "10.0.0.7:8080", target).unwrap(),
        )
    };
    assert!(verify("/7").is_ok());
    assert_eq!(verify("/orders/7"), Err(VerifyError::Path));
    assert!(
        verifier
            .verify(
                &token,
                &RequestParts::without_authority("GET", "/7").unwrap()
            )
            .is_ok()
    );
    let elsewhere = key.assertion(&with(
        request_claims(),
        "htu",
        "https://10.0.0.7:8080/orders/7",
    ));
    assert_eq!(
        verifier.verify(
            &elsewhere,
            &RequestParts::new("GET", "10.0.0.7:8080", "/7").unwrap()
        ),
        Err(VerifyError::Authority)
    );
}

#[test]
fn an_assertion_can_be_made_to_count_once() {
    let key = SigningKey::ed_dsa();
    let clock = TestClock::new();
    let verifier = builder_with_clock(&clock)
        .jwks(key_set(&[&key]))
        .allow_caller_binding()
        .replay_cache(2)
        .build()
        .unwrap();
    let token = |id: &str, now: u64| {
        key.assertion(&with(
            with(with(request_claims(), "jti", id), "iat", now),
            "exp",
            now + 30,
        ))
    };
    let verify = |token: &str| verifier.verify(token, &request()).map(drop);
    // A refused assertion does not count as used.
    let first = token("one", NOW);
    let elsewhere = RequestParts::new("PUT", "orders.example.org", "/orders/7").unwrap();
    assert_eq!(
        verifier.verify(&first, &elsewhere),
        Err(VerifyError::Method)
    );
    assert_eq!(verify(&first), Ok(()));
    assert_eq!(verify(&first), Err(VerifyError::Replayed));
    assert_eq!(verify(&token("two", NOW)), Ok(()));
    assert_eq!(
        verify(&token("three", NOW)),
        Err(VerifyError::ReplayCacheFull)
    );
    assert_eq!(verify(&token("two", NOW)), Err(VerifyError::Replayed));
    // Caller-bound assertions may be used again.
    assert_eq!(verify(&key.assertion(&caller_claims())), Ok(()));
    assert_eq!(verify(&key.assertion(&caller_claims())), Ok(()));
    // The cache remembers an assertion until `exp` plus skew.
    clock.advance(39);
    assert_eq!(verify(&first), Err(VerifyError::Replayed));
    clock.advance(1);
    assert_eq!(verify(&first), Err(VerifyError::Expired));
    assert_eq!(verify(&token("three", NOW + 40)), Ok(()));
}

/// Returns a verifier with a replay cache, and a function that signs an assertion. The
/// function takes the `jti` and the time of signing.
fn with_replay_cache(clock: &TestClock) -> (Verifier, impl Fn(&str, u64) -> String) {
    let key = SigningKey::ed_dsa();
    let verifier = builder_with_clock(clock)
        .jwks(key_set(&[&key]))
        .replay_cache(100)
        .build()
        .unwrap();
    let token = move |id: &str, now: u64| {
        let claims = with(with(request_claims(), "jti", id), "iat", now);
        key.assertion(&with(claims, "exp", now + 30))
    };
    (verifier, token)
}

#[test]
fn a_used_assertion_stays_refused_after_the_clock_is_set_back() {
    let clock = TestClock::new();
    let (verifier, token) = with_replay_cache(&clock);
    let verify = |token: &str| verifier.verify(token, &request()).map(drop);
    let (first, unused) = (token("first", NOW), token("unused", NOW));
    assert_eq!(verify(&first), Ok(()));
    // The cache removes the first assertion, which has expired.
    clock.advance(45);
    let second = token("second", NOW + 45);
    assert_eq!(verify(&second), Ok(()));
    clock.set_back(10);
    assert_eq!(verify(&first), Err(VerifyError::Expired));
    assert_eq!(verify(&second), Err(VerifyError::Replayed));
    // The cache cannot distinguish this unused assertion from the removed first one.
    assert_eq!(verify(&unused), Err(VerifyError::Expired));
    assert_eq!(verify(&token("third", NOW + 35)), Ok(()));
}

#[test]
fn new_assertions_are_accepted_after_the_clock_was_ahead() {
    let clock = TestClock::new();
    let (verifier, token) = with_replay_cache(&clock);
    let verify = |token: &str| verifier.verify(token, &request()).map(drop);
    let first = token("first", NOW);
    assert_eq!(verify(&first), Ok(()));
    clock.advance(3600);
    assert_eq!(verify(&token("ahead", NOW + 3600)), Ok(()));
    clock.set_back(3590);
    assert_eq!(verify(&first), Err(VerifyError::Expired));
    let second = token("second", NOW + 10);
    assert_eq!(verify(&second), Ok(()));
    assert_eq!(verify(&second), Err(VerifyError::Replayed));
    clock.advance(3590);
    assert_eq!(
        verify(&token("ahead", NOW + 3600)),
        Err(VerifyError::Replayed)
    );
}

#[test]
fn tools_may_leave_out_the_request() {
    let key = SigningKey::ed_dsa();
    let verifier = verifier(&key);
    assert!(
        verifier
            .verify_without_request(&key.assertion(&request_claims()))
            .is_ok()
    );
    assert_eq!(
        verifier.verify_without_request(&key.assertion(&caller_claims())),
        Err(VerifyError::NotRequestBound)
    );
    assert_eq!(
        verifier.verify_without_request(&key.assertion(&with(request_claims(), "aud", "x"))),
        Err(VerifyError::Audience)
    );
}

#[test]
fn targets_are_split_and_not_touched() {
    let parts = RequestParts::new("GET", "h", "/a%2Fb;c/?x?y=%zz").unwrap();
    assert_eq!(
        (parts.path(), parts.query()),
        ("/a%2Fb;c/", Some("x?y=%zz"))
    );
    assert_eq!(RequestParts::new("GET", "h", "/").unwrap().query(), None);
    assert_eq!(
        RequestParts::new("GET", "h", "/?").unwrap().query(),
        Some("")
    );
    for bad in ["", "*", "orders", "https://h/orders", "/a#b", "?a"] {
        assert!(RequestParts::new("GET", "h", bad).is_err(), "{bad}");
    }
}

#[test]
fn a_verifier_needs_issuer_audience_and_keys() {
    let key = SigningKey::es256();
    let keys = || key_set(&[&key]);
    let complete = || {
        Verifier::builder()
            .issuer(ISSUER)
            .audience(AUDIENCE)
            .jwks(keys())
    };
    assert!(complete().build().is_ok());
    let no_issuer = Verifier::builder().audience(AUDIENCE).jwks(keys());
    assert!(matches!(no_issuer.build(), Err(BuildError::IssuerMissing)));
    assert!(matches!(
        complete().issuer("").build(),
        Err(BuildError::IssuerMissing)
    ));
    let no_audience = Verifier::builder().issuer(ISSUER).jwks(keys());
    assert!(matches!(
        no_audience.build(),
        Err(BuildError::AudienceMissing)
    ));
    assert!(matches!(
        complete().audience("").build(),
        Err(BuildError::AudienceMissing)
    ));
    assert!(matches!(builder().build(), Err(BuildError::KeysMissing)));
    assert!(matches!(
        complete().jwks(keys()).build(),
        Err(BuildError::KeysAmbiguous)
    ));
    assert!(matches!(
        builder().jwks(JwkSet::default()).build(),
        Err(BuildError::KeySetEmpty)
    ));
    assert!(matches!(
        builder()
            .jwks_json(r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#)
            .build(),
        Err(BuildError::KeySetEmpty)
    ));
    assert!(matches!(
        builder().jwks_json("<html>").build(),
        Err(BuildError::KeySet(_))
    ));
    assert!(complete().skew(Duration::from_secs(30)).build().is_ok());
    assert!(matches!(
        complete().skew(Duration::from_millis(30_001)).build(),
        Err(BuildError::SkewTooLarge)
    ));
    for bad in ["", "https://h", "h/", "u@h", "h?"] {
        assert!(
            matches!(
                complete().authority(bad).build(),
                Err(BuildError::Authority)
            ),
            "{bad}"
        );
    }
    for bad in ["api", "/", "/api/", "/api?"] {
        assert!(
            matches!(
                complete().path_prefix(bad).build(),
                Err(BuildError::PathPrefix)
            ),
            "{bad}"
        );
    }
    assert!(matches!(
        complete().replay_cache(0).build(),
        Err(BuildError::ReplayCapacity)
    ));
}

#[test]
fn errors_never_show_the_token() {
    let key = SigningKey::es256();
    let token = key.assertion(&with(request_claims(), "aud", "secret-audience"));
    let error = verifier(&key).verify(&token, &request()).unwrap_err();
    let shown = format!("{error} {error:?} {}", error.code());
    let jws = CompactJws::parse(&token, 4096).unwrap();
    let target = RequestParts::new("GET", "h", "/?code=secret-audience").unwrap();
    let shown = format!("{shown} {jws:?} {target:?} {:?}", verifier(&key));
    assert!(
        !shown.contains("secret-audience") && !shown.contains("eyJ"),
        "{shown}"
    );
}
