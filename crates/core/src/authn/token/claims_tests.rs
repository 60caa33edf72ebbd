//! Tests of the rules for claims, one boundary case in each test.

use serde_json::json;

use super::*;

const NOW: u64 = 1_770_000_000;

fn rules() -> ClaimRules {
    ClaimRules {
        issuer: "https://idp.example.org".to_owned(),
        audiences: vec!["orders".to_owned(), "payments".to_owned()],
        binding: CertificateBinding::IfPresent,
        skew: 30,
        keep: vec!["tenant".to_owned(), "sub".to_owned()],
    }
}

fn claims() -> Value {
    json!({
        "iss": "https://idp.example.org", "aud": "orders", "sub": "alice", "client_id": "app",
        "exp": NOW + 60, "iat": NOW, "nbf": NOW, "jti": "1", "scope": "a b", "tenant": 7
    })
}

/// Returns the claims with one of them replaced. If `value` is null, the claim is removed.
fn with(name: &str, value: Value) -> Map<String, Value> {
    let Value::Object(mut members) = claims() else {
        unreachable!()
    };
    match value {
        Value::Null => members.remove(name),
        value => members.insert(name.to_owned(), value),
    };
    members
}

fn judge(
    members: Map<String, Value>,
    origin: Origin,
    demands: &Demands,
) -> Result<TokenClaims, ReasonCode> {
    rules()
        .check(members, origin, "hash".to_owned(), demands, None, NOW)
        .map_err(|denial| denial.reason)
}

fn reason(name: &str, value: Value) -> Option<ReasonCode> {
    judge(
        with(name, value),
        Origin::Jwt(TokenType::AccessToken),
        &Demands::default(),
    )
    .err()
}

#[test]
fn what_is_accepted_comes_out() {
    let accepted = judge(
        with("x", json!(1)),
        Origin::Jwt(TokenType::AccessToken),
        &Demands::default(),
    )
    .unwrap();
    assert_eq!(accepted.expires, NOW + 60);
    assert_eq!(
        accepted.to_json(),
        json!({"iss": "https://idp.example.org", "sub": "alice", "client_id": "app",
               "scope": "a b", "jti": "1", "ath": "hash", "tenant": 7})
    );
}

#[test]
fn the_issuer_is_exact() {
    for bad in [
        json!(null),
        json!("https://idp.example.org/"),
        json!("https://IDP.example.org"),
        json!(["https://idp.example.org"]),
        json!(""),
    ] {
        assert_eq!(reason("iss", bad), Some(ReasonCode::TokenIssuer));
    }
}

#[test]
fn the_audience_lies_within_the_issuers_and_the_routes() {
    for good in [json!("orders"), json!(["x", "payments"]), json!(["orders"])] {
        assert_eq!(reason("aud", good), None);
    }
    for bad in [
        json!(null),
        json!("order"),
        json!([]),
        json!(["x"]),
        json!(""),
    ] {
        assert_eq!(reason("aud", bad), Some(ReasonCode::TokenAudience));
    }
    for bad in [json!(1), json!({"a": "orders"}), json!(["orders", 1])] {
        assert_eq!(reason("aud", bad), Some(ReasonCode::TokenMalformed));
    }
    let of_route = |audience: &str| {
        let demands = Demands {
            audience: Some(audience.to_owned()),
            ..Demands::default()
        };
        judge(with("x", json!(1)), Origin::Jwt(TokenType::Jwt), &demands).err()
    };
    assert_eq!(of_route("orders"), None);
    assert_eq!(of_route("payments"), Some(ReasonCode::TokenAudience));
    let nobody = ClaimRules {
        audiences: Vec::new(),
        ..rules()
    };
    let refused = nobody.check(
        with("x", json!(1)),
        Origin::Introspection,
        String::new(),
        &Demands::default(),
        None,
        NOW,
    );
    assert_eq!(refused.unwrap_err().reason, ReasonCode::TokenAudience);
}

#[test]
fn times_have_edges() {
    assert_eq!(reason("exp", json!(NOW + 1)), None);
    assert_eq!(reason("exp", json!(NOW)), Some(ReasonCode::TokenExpired));
    let fraction = json!(1_770_000_000.9);
    assert_eq!(reason("exp", fraction), Some(ReasonCode::TokenExpired));
    assert_eq!(reason("exp", json!(0)), Some(ReasonCode::TokenExpired));
    for name in ["nbf", "iat"] {
        assert_eq!(reason(name, json!(NOW + 30)), None);
        let future = Some(ReasonCode::TokenNotYetValid);
        assert_eq!(reason(name, json!(NOW + 31)), future);
        assert_eq!(reason(name, json!(1_770_000_030.1)), future);
    }
    assert_eq!(reason("nbf", json!(null)), None);
    for name in ["exp", "nbf", "iat"] {
        for bad in [
            json!("1770000060"),
            json!(-1),
            json!(1e300),
            json!([]),
            json!(true),
        ] {
            assert_eq!(
                reason(name, bad),
                Some(ReasonCode::TokenMalformed),
                "{name}"
            );
        }
    }
}

#[test]
fn rfc_9068_tokens_have_all_their_claims() {
    for name in ["exp", "iat", "jti", "sub", "client_id"] {
        assert_eq!(
            reason(name, json!(null)),
            Some(ReasonCode::TokenMalformed),
            "{name}"
        );
        let plain = judge(
            with(name, json!(null)),
            Origin::Jwt(TokenType::Jwt),
            &Demands::default(),
        );
        assert_eq!(plain.is_ok(), name != "exp", "{name}");
    }
    for name in ["sub", "jti", "client_id"] {
        assert_eq!(
            reason(name, json!(7)),
            Some(ReasonCode::TokenMalformed),
            "{name}"
        );
    }
}

#[test]
fn clients_must_not_contradict() {
    assert_eq!(reason("azp", json!("app")), None);
    assert_eq!(
        reason("azp", json!("other")),
        Some(ReasonCode::TokenMalformed)
    );
}

#[test]
fn identity_tokens_do_not_pass_for_access_tokens() {
    for name in ["at_hash", "c_hash", "s_hash", "events"] {
        for (origin, refused) in [
            (Origin::Jwt(TokenType::Jwt), true),
            (Origin::Jwt(TokenType::Untyped), true),
            (Origin::Jwt(TokenType::AccessToken), false),
        ] {
            let outcome = judge(with(name, json!("x")), origin, &Demands::default());
            assert_eq!(
                outcome.err(),
                refused.then_some(ReasonCode::TokenType),
                "{name}"
            );
        }
    }
}

#[test]
fn introspection_may_leave_out_what_the_endpoint_implies() {
    for name in ["iss", "exp", "iat", "jti", "sub", "client_id"] {
        assert!(
            judge(
                with(name, json!(null)),
                Origin::Introspection,
                &Demands::default()
            )
            .is_ok()
        );
    }
    let other = judge(
        with("iss", json!("x")),
        Origin::Introspection,
        &Demands::default(),
    );
    assert_eq!(other, Err(ReasonCode::TokenIssuer));
}

#[test]
fn routes_demand_scopes_and_claims() {
    let judge = |members, scopes: &[&str], claims: &[(&str, Value)]| {
        let demands = Demands {
            audience: None,
            scopes: scopes.iter().map(|s| (*s).to_owned()).collect(),
            claims: claims
                .iter()
                .map(|(name, value)| ((*name).to_owned(), vec![value.clone(), json!("or")]))
                .collect(),
        };
        judge(members, Origin::Jwt(TokenType::Jwt), &demands).err()
    };
    let lacks = Some(ReasonCode::TokenScope);
    let plain = || with("x", json!(["y", "z"]));
    assert_eq!(judge(plain(), &["b", "a"], &[]), None);
    assert_eq!(judge(plain(), &["a", "c"], &[]), lacks);
    assert_eq!(judge(plain(), &["a b"], &[]), lacks);
    assert_eq!(judge(with("scope", json!(["a", "c"])), &["c"], &[]), None);
    assert_eq!(
        judge(with("scope", json!(["a b"])), &["a"], &[]),
        Some(ReasonCode::TokenMalformed)
    );
    assert_eq!(
        judge(plain(), &[], &[("tenant", json!(7)), ("x", json!("z"))]),
        None
    );
    assert_eq!(judge(plain(), &[], &[("tenant", json!("7"))]), lacks);
    assert_eq!(judge(plain(), &[], &[("x", json!("w"))]), lacks);
    assert_eq!(judge(plain(), &[], &[("absent", json!(null))]), lacks);
}

/// Tests the example of RFC 9068 section 3, figure 2, at a time when that token is valid.
#[test]
fn the_published_access_token_is_accepted() {
    let Value::Object(members) = json!({
        "iss": "https://authorization-server.example.com/", "sub": "5ba552d67",
        "aud": "https://rs.example.com/", "exp": 1_639_528_912, "iat": 1_618_354_090,
        "jti": "dbe39bf3a3ba4238a513f51d6e1691c4", "client_id": "s6BhdRkqt3",
        "scope": "openid profile reademail"
    }) else {
        unreachable!()
    };
    let rules = ClaimRules {
        issuer: "https://authorization-server.example.com/".to_owned(),
        audiences: vec!["https://rs.example.com/".to_owned()],
        skew: 0,
        ..rules()
    };
    let demands = Demands {
        scopes: vec!["reademail".to_owned()],
        ..Demands::default()
    };
    let judge = |now| {
        let origin = Origin::Jwt(TokenType::AccessToken);
        rules
            .check(
                members.clone(),
                origin,
                "hash".to_owned(),
                &demands,
                None,
                now,
            )
            .map_err(|denial| denial.reason)
    };
    assert_eq!(
        judge(1_639_528_911).unwrap().subject.as_deref(),
        Some("5ba552d67")
    );
    assert_eq!(judge(1_639_528_912).unwrap_err(), ReasonCode::TokenExpired);
}
