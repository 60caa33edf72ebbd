//! Tokens in addition to a certificate, or instead of it: binding, claims, combinations, and
//! responses.

use countersign_testkit::{Leaf, Protocol, TlsVersion, TokenKey};
use serde_json::{Value, json};

use super::worlds::TokenWorld;
use super::{ask, issuer, refused};
use crate::support::{
    CALLER, HOST, TOKEN_ISSUER, assertion_claims, base64url, get_with, now, thumbprint,
};

const ROUTE: &str = "callers = [\"spiffe://example.org/ns/shop/sa/*\"]\n\
    token = { issuer = \"corporate\", audience = \"orders-api\", scopes = [\"orders:read\"] }";

#[tokio::test]
async fn a_bound_token_passes_with_its_certificate_and_the_service_learns_of_it() {
    let world = TokenWorld::with("forward_claims = [\"tenant\"]", ROUTE).await;
    let token = world.token();
    for protocol in Protocol::BOTH {
        for version in TlsVersion::BOTH {
            let client = world.client().protocol(protocol).tls(version);
            let answer = ask(&client, "/a", &token).await;
            let claims = assertion_claims(&answer);
            assert_eq!(claims["sub"], world.ca.spiffe(CALLER));
            assert_eq!(claims["authn"]["methods"], json!(["certificate", "token"]));
            assert_eq!(
                claims["token"],
                json!({
                    "iss": TOKEN_ISSUER, "sub": "alice", "client_id": "app", "jti": "token-1",
                    "scope": "orders:read orders:write", "tenant": "acme",
                    "ath": base64url(&countersign_testkit::sha256(token.as_bytes())),
                })
            );
            assert!(answer.received("authorization").is_empty(), "{answer:?}");
        }
    }
    let line = world.gateway.audit().request("/a").await;
    assert_eq!(line["methods"], "certificate, token", "{line}");
    let hash = base64url(&countersign_testkit::sha256(token.as_bytes()));
    assert_eq!(line["token"], hash, "{line}");
    let everything = format!("{}{}", world.gateway.audit().text(), world.gateway.stderr());
    for part in token.split('.').skip(1) {
        assert!(!everything.contains(part));
    }
    for word in ["alice", "acme", "orders:read"] {
        assert!(!everything.contains(word), "{word} in {everything}");
    }
}

#[tokio::test]
async fn a_bound_token_is_useless_without_its_certificate() {
    let world = TokenWorld::with("", ROUTE).await;
    let token = world.token();
    // The gateway accepts and caches the token. The refusals below must stay the same.
    assert_eq!(ask(&world.client(), "/a", &token).await.status, 200);
    let other = world
        .anonymous()
        .with(&world.ca.client("/ns/shop/sa/other"));
    let answer = ask(&other, "/a", &token).await;
    refused(&answer, 401, "token-binding-mismatch");
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    let answer = ask(&world.anonymous(), "/a", &token).await;
    refused(&answer, 403, "no-certificate");

    let digest = countersign_testkit::sha256(world.caller.leaf());
    let hex: String = digest.iter().map(|octet| format!("{octet:02x}")).collect();
    for (cnf, reason) in [
        (json!({"x5t#S256": hex}), "token-malformed"),
        (
            json!({"x5t#S256": format!("{}=", thumbprint(&world.caller))}),
            "token-malformed",
        ),
        (json!({"x5t#S256": 7}), "token-malformed"),
        (json!("x"), "token-malformed"),
        (json!([]), "token-malformed"),
        (json!({}), "token-binding-mismatch"),
        (
            json!({"x5t": thumbprint(&world.caller)}),
            "token-binding-mismatch",
        ),
        (
            json!({"jkt": thumbprint(&world.caller)}),
            "token-binding-mismatch",
        ),
        (
            json!({"jkt": "a", "x5t#S256": thumbprint(&world.caller)}),
            "token-binding-mismatch",
        ),
    ] {
        let token = world.token_with(json!({"cnf": cnf}));
        let answer = ask(&world.client(), "/a", &token).await;
        refused(&answer, 401, reason);
    }
    let unbound = world.token_with(json!({"cnf": null}));
    refused(
        &ask(&world.client(), "/a", &unbound).await,
        401,
        "token-unbound",
    );
    // The caller renewed its certificate, but the token is bound to the old certificate.
    let renewed = world.ca.issue(Leaf::with_uri(&world.ca.spiffe(CALLER)));
    let answer = ask(&world.anonymous().with(&renewed), "/a", &token).await;
    refused(&answer, 401, "token-binding-mismatch");
}

#[tokio::test]
async fn a_resumed_connection_has_the_certificate_that_its_token_is_bound_to() {
    let world = TokenWorld::with("", ROUTE).await;
    let token = world.token();
    let bearer = format!("Bearer {token}");
    for version in TlsVersion::BOTH {
        for (client, status) in [
            (world.client(), 200),
            (
                world
                    .anonymous()
                    .with(&world.ca.client("/ns/shop/sa/other")),
                401,
            ),
        ] {
            let client = client.tls(version).resuming();
            let mut resumed = Vec::new();
            for _ in 0..2 {
                let connection = client.connect().await.unwrap();
                resumed.push(connection.is_resumed());
                let mut session = connection.session(Protocol::Http1).await.unwrap();
                let request = get_with("/a", &[("authorization", &bearer)]);
                assert_eq!(session.send(request).await.unwrap().status, status);
            }
            assert_eq!(resumed, [false, true], "{version:?}");
        }
    }
}

#[tokio::test]
async fn unbound_tokens_pass_only_where_that_is_said() {
    for (binding, unbound) in [
        ("certificate_binding = \"if-present\"", 200),
        ("certificate_binding = \"off\"\nallow_unbound = true", 200),
        ("certificate_binding = \"required\"", 401),
    ] {
        let world = TokenWorld::with(binding, ROUTE).await;
        let token = world.token_with(json!({"cnf": null}));
        assert_eq!(ask(&world.client(), "/a", &token).await.status, unbound);
        // With every setting, a bound token is valid only with its certificate.
        let other = world
            .anonymous()
            .with(&world.ca.client("/ns/shop/sa/other"));
        let answer = ask(&other, "/a", &world.token()).await;
        refused(&answer, 401, "token-binding-mismatch");
    }
}

/// The tokens have other algorithms, keys inside the header, or other audiences.
#[tokio::test]
async fn forged_and_foreign_tokens_are_refused() {
    let world = TokenWorld::with("", ROUTE).await;
    let claims = world.claims(json!({}));
    let stranger = TokenKey::new("one");
    let header = |changes: Value| {
        let mut header = json!({"alg": "ES256", "typ": "at+jwt", "kid": "one"});
        let members = header.as_object_mut().unwrap();
        for (name, value) in changes.as_object().unwrap() {
            members.insert(name.clone(), value.clone());
        }
        header
    };
    let unsigned = |algorithm: &str, signature: &str| {
        let header = header(json!({"alg": algorithm})).to_string();
        let payload = claims.to_string();
        format!(
            "{}.{}.{signature}",
            base64url(header.as_bytes()),
            base64url(payload.as_bytes())
        )
    };
    let under = |changes: Value| world.key.sign_with(&header(changes), &claims);
    for (token, reason) in [
        (unsigned("none", ""), "token-malformed"),
        (unsigned("none", "AA"), "token-algorithm"),
        (unsigned("nOnE", "AA"), "token-algorithm"),
        (under(json!({"alg": "HS256"})), "token-algorithm"),
        (under(json!({"alg": "RS256"})), "token-algorithm"),
        (under(json!({"typ": "JWT"})), "token-type"),
        (under(json!({"typ": "countersign+jwt"})), "token-type"),
        (under(json!({"crit": ["exp"]})), "token-malformed"),
        (under(json!({"jwk": stranger.jwk()})), "token-malformed"),
        (
            under(json!({"kid": "../../../etc/passwd"})),
            "token-signature",
        ),
        (under(json!({"kid": 7})), "token-malformed"),
        (stranger.sign(&claims), "token-signature"),
        (
            stranger.sign_with(&header(json!({"jwk": stranger.jwk()})), &claims),
            "token-malformed",
        ),
        (
            world.token_with(json!({"iss": "https://evil.example"})),
            "token-issuer",
        ),
        (
            world.token_with(json!({"aud": "payments-api"})),
            "token-audience",
        ),
        (
            world.token_with(json!({"aud": ["x", "y"]})),
            "token-audience",
        ),
        (world.token_with(json!({"aud": null})), "token-audience"),
        (world.token_with(json!({"exp": 1})), "token-expired"),
        (world.token_with(json!({"exp": "soon"})), "token-malformed"),
        (
            world.token_with(json!({"nbf": now() + 3600})),
            "token-not-yet-valid",
        ),
        (world.token_with(json!({"jti": null})), "token-malformed"),
        ("a.b".to_owned(), "token-malformed"),
        ("a".repeat(20_000), "token-malformed"),
    ] {
        let answer = ask(&world.client(), "/a", &token).await;
        refused(&answer, 401, reason);
    }
    assert_eq!(world.echo.requests(), 0);
    // A valid token of the caller is still accepted, also with a second audience.
    let token = world.token_with(json!({"aud": ["payments-api", "orders-api"]}));
    assert_eq!(ask(&world.client(), "/a", &token).await.status, 200);
}

#[tokio::test]
async fn clocks_may_differ_by_the_skew_but_no_assertion_outlives_its_token() {
    let world = TokenWorld::with("skew = \"60s\"", ROUTE).await;
    let now = now();
    let ahead = world.token_with(json!({"iat": now + 40, "nbf": now + 40}));
    assert_eq!(ask(&world.client(), "/a", &ahead).await.status, 200);
    let further = world.token_with(json!({"iat": now + 600}));
    refused(
        &ask(&world.client(), "/a", &further).await,
        401,
        "token-not-yet-valid",
    );
    let behind = world.token_with(json!({"exp": now - 10}));
    refused(
        &ask(&world.client(), "/a", &behind).await,
        401,
        "token-expired",
    );
    let short = world.token_with(json!({"exp": now + 20}));
    let claims = assertion_claims(&ask(&world.client(), "/a", &short).await);
    assert!(claims["exp"].as_u64().unwrap() <= now + 20, "{claims}");
}

#[tokio::test]
async fn a_token_accepted_on_one_route_is_judged_anew_on_another() {
    let world = TokenWorld::open(|settings, keys, echo| {
        let route = |name: &str, token: &str| {
            format!("paths = [\"/{name}\"]\ncallers = [\"*\"]\ntoken = {{ issuer = \"corporate\", {token} }}")
        };
        settings
            .section(&issuer(keys, ""))
            .upstream("orders", echo)
            .route("orders", "orders", &route("orders", "audience = \"orders-api\""))
            .route("payments", "orders", &route("payments", "audience = \"payments-api\""))
            .route("admin", "orders", &route("admin", "scopes = [\"admin\"]"))
            .route("acme", "orders", &route("acme", "claims = { tenant = [\"acme\", \"other\"] }"))
            .route("other", "orders", &route("other", "claims = { tenant = \"other\" }"))
    })
    .await;
    let token = world.token();
    for (path, status, reason) in [
        ("/orders", 200, None),
        ("/payments", 401, Some("token-audience")),
        ("/admin", 403, Some("token-scope")),
        ("/acme", 200, None),
        ("/other", 403, Some("token-scope")),
        ("/orders", 200, None),
    ] {
        let answer = ask(&world.client(), path, &token).await;
        assert_eq!((answer.status, answer.reason()), (status, reason), "{path}");
        if path == "/admin" {
            let challenge = answer.header("www-authenticate").unwrap();
            assert!(
                challenge.contains("error=\"insufficient_scope\""),
                "{challenge}"
            );
            assert!(challenge.ends_with("scope=\"admin\""), "{challenge}");
        }
    }
}

#[tokio::test]
async fn a_client_that_brings_none_or_two_learns_what_to_do() {
    let world = TokenWorld::with("", ROUTE).await;
    let metadata = format!("https://{HOST}/.well-known/oauth-protected-resource/a/b%20c");
    let answer = world.client().get("/a/b%20c?x=1").await.unwrap();
    refused(&answer, 401, "token-missing");
    assert_eq!(
        answer.header("www-authenticate").unwrap(),
        format!("Bearer resource_metadata=\"{metadata}\", scope=\"orders:read\"")
    );
    let token = world.token();
    let bearer = format!("Bearer {token}");
    for fields in [
        &[("authorization", &*bearer), ("authorization", &*bearer)][..],
        &[("authorization", "Bearer a, Bearer b")],
        &[("authorization", "Bearer")],
    ] {
        let answer = world.client().send(get_with("/a", fields)).await.unwrap();
        refused(&answer, 400, "malformed-request");
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(
            challenge.contains("error=\"invalid_request\""),
            "{challenge}"
        );
    }
    let answer = ask(&world.client(), "/a?access_token=x", &token).await;
    refused(&answer, 400, "malformed-request");
    // The gateway ignores a token in the query.
    let answer = world
        .client()
        .get(&format!("/a?access_token={token}"))
        .await;
    refused(&answer.unwrap(), 401, "token-missing");
    let answer = world
        .client()
        .send(get_with("/a", &[("authorization", "Basic eDp5")]))
        .await
        .unwrap();
    refused(&answer, 401, "token-missing");
}

#[tokio::test]
async fn a_caller_that_is_not_on_the_route_is_asked_for_no_token() {
    for authenticate in ["all", "any"] {
        let route = format!(
            "callers = [\"spiffe://example.org/ns/ops/**\"]\n\
             authenticate = {{ {authenticate} = [\"certificate\", \"token\"] }}\n\
             token = {{ issuer = \"corporate\" }}\n"
        );
        let world = TokenWorld::with("", &route).await;
        let good = world.token();
        let expired = world.token_with(json!({ "exp": now() - 600 }));
        let fields = [
            None,
            Some("Bearer x".to_owned()),
            Some(format!("Bearer {expired}")),
        ];
        let good = Some(format!("Bearer {good}"));
        for field in fields.into_iter().chain([good]) {
            let request = match &field {
                None => get_with("/a", &[]),
                Some(value) => get_with("/a", &[("authorization", value)]),
            };
            let answer = world.client().send(request).await.unwrap();
            refused(&answer, 403, "caller-not-allowed");
            assert_eq!(answer.header("www-authenticate"), None, "{field:?}");
        }
    }
}

#[tokio::test]
async fn grpc_clients_get_their_status_and_the_challenge() {
    let world = TokenWorld::with("", ROUTE).await;
    let request = get_with(
        "/orders.Orders/Get",
        &[("content-type", "application/grpc")],
    );
    let client = world.client().protocol(Protocol::Http2);
    let answer = client.send(request).await.unwrap();
    assert_eq!(
        (answer.status, answer.header("grpc-status")),
        (200, Some("16"))
    );
    assert_eq!(answer.reason(), Some("token-missing"));
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(
        challenge.starts_with("Bearer resource_metadata="),
        "{challenge}"
    );
}

#[tokio::test]
async fn the_resource_describes_itself() {
    let more = "\ntoken = { issuer = \"corporate\", scopes = [\"orders:read\"] }";
    let world = TokenWorld::with("", &format!("callers = [\"*\"]{more}")).await;
    for (path, resource) in [
        ("/.well-known/oauth-protected-resource", ""),
        (
            "/.well-known/oauth-protected-resource/orders/7",
            "/orders/7",
        ),
    ] {
        // This document needs no certificate, because clients read it before they have a token.
        let answer = world.anonymous().get(path).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(
            answer.json(),
            json!({
                "resource": format!("https://{HOST}{resource}"),
                "authorization_servers": [TOKEN_ISSUER],
                "bearer_methods_supported": ["header"],
                "scopes_supported": ["orders:read"],
                "tls_client_certificate_bound_access_tokens": true,
            })
        );
    }
    let request = http::Request::post("/.well-known/oauth-protected-resource")
        .body(bytes::Bytes::new())
        .unwrap();
    let answer = world.anonymous().send(request).await.unwrap();
    refused(&answer, 405, "method-not-allowed");
    assert_eq!(world.echo.requests(), 0);

    let named = more.replace(
        "scopes",
        "resource = \"https://orders.example.org/api\", scopes",
    );
    let world = TokenWorld::with("", &format!("callers = [\"*\"]{named}")).await;
    let answer = world.client().get("/orders/7").await.unwrap();
    let url = "/.well-known/oauth-protected-resource/api";
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(
        challenge.contains(&format!("\"https://{HOST}{url}\"")),
        "{challenge}"
    );
    let answer = world.anonymous().get(url).await.unwrap();
    assert_eq!(answer.json()["resource"], format!("https://{HOST}/api"));
    let answer = world
        .anonymous()
        .get(&format!("{url}/other"))
        .await
        .unwrap();
    refused(&answer, 404, "no-route");
}

#[tokio::test]
async fn authorization_goes_on_only_where_that_is_said_and_only_a_good_token() {
    for forward in [false, true] {
        let route = format!(
            "callers = [\"*\"]\nauthenticate = {{ any = [\"certificate\", \"token\"] }}\n\
             token = {{ issuer = \"corporate\" }}\nforward_token = {forward}"
        );
        let world = TokenWorld::with("", &route).await;
        let token = world.token();
        let answer = ask(&world.client(), "/a", &token).await;
        let expected = if forward {
            vec![format!("Bearer {token}")]
        } else {
            Vec::new()
        };
        assert_eq!(answer.received("authorization"), expected);
        let basic = get_with("/a", &[("authorization", "Basic eDp5")]);
        let answer = world.client().send(basic).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.received("authorization").is_empty(), "{answer:?}");
    }
}

#[tokio::test]
async fn a_caller_without_certificate_is_its_tokens_client() {
    let world = TokenWorld::with(
        "certificate_binding = \"if-present\"",
        "callers = [\"client:corporate/app\", \"spiffe://example.org/**\"]\n\
         authenticate = { any = [\"certificate\", \"token\"] }\n\
         token = { issuer = \"corporate\" }",
    )
    .await;
    let unbound = world.token_with(json!({"cnf": null}));
    let answer = ask(&world.anonymous(), "/a", &unbound).await;
    let claims = assertion_claims(&answer);
    assert_eq!(claims["sub"], "client:corporate/app");
    assert_eq!(claims["authn"]["methods"], json!(["token"]));
    assert!(claims.get("client_cert").is_none(), "{claims}");
    assert!(claims["authn"].get("trust_domain").is_none(), "{claims}");
    let line = world.gateway.audit().request("/a").await;
    assert_eq!(line["caller"], "client:corporate/app", "{line}");

    let other = world.token_with(json!({"cnf": null, "client_id": "other"}));
    refused(
        &ask(&world.anonymous(), "/a", &other).await,
        403,
        "caller-not-allowed",
    );
    let spaced = world.token_with(json!({"cnf": null, "client_id": "a b"}));
    refused(
        &ask(&world.anonymous(), "/a", &spaced).await,
        401,
        "token-malformed",
    );
    // A bound token is not valid without its certificate.
    let answer = ask(&world.anonymous(), "/a", &world.token()).await;
    refused(&answer, 401, "token-binding-mismatch");
    // If there is a certificate, the certificate and not the token names the caller.
    let claims = assertion_claims(&ask(&world.client(), "/a", &world.token()).await);
    assert_eq!(claims["sub"], world.ca.spiffe(CALLER));
    let claims = assertion_claims(&world.client().get("/a").await.unwrap());
    assert_eq!(claims["authn"]["methods"], json!(["certificate"]));
    // A valid certificate does not make up for an invalid token.
    let expired = world.token_with(json!({"exp": 1}));
    refused(
        &ask(&world.client(), "/a", &expired).await,
        401,
        "token-expired",
    );
    let answer = world.anonymous().get("/a").await.unwrap();
    refused(&answer, 401, "token-missing");
}

#[tokio::test]
async fn the_tokens_client_has_to_be_the_callers() {
    let caller = "spiffe://example.org/ns/shop/sa/checkout";
    for (rule, client, status) in [
        ("\"any\"".to_owned(), "app", 200),
        ("\"caller\"".to_owned(), "app", 403),
        ("\"caller\"".to_owned(), caller, 200),
        (format!("{{ app = [\"{caller}\"] }}"), "app", 200),
        (format!("{{ app = [\"{caller}\"] }}"), "other", 403),
        (
            "{ app = [\"spiffe://example.org/b\"] }".to_owned(),
            "app",
            403,
        ),
    ] {
        let route =
            format!("callers = [\"*\"]\ntoken = {{ issuer = \"corporate\", client = {rule} }}");
        let world = TokenWorld::with("", &route).await;
        let token = world.token_with(json!({"client_id": client}));
        let answer = ask(&world.client(), "/a", &token).await;
        assert_eq!(answer.status, status, "{rule} {client}");
        if status == 403 {
            refused(&answer, 403, "caller-not-allowed");
        }
    }
}

#[tokio::test]
async fn reusable_assertions_are_kept_apart_by_token() {
    let world = TokenWorld::with(
        "",
        "callers = [\"*\"]\nbinding = \"caller\"\nauthenticate = { any = [\"certificate\", \"token\"] }\n\
         token = { issuer = \"corporate\" }",
    )
    .await;
    let mut session = world.client().session().await.unwrap();
    let alice = format!("Bearer {}", world.token());
    let bob = format!("Bearer {}", world.token_with(json!({"sub": "bob"})));
    let mut seen = Vec::new();
    for round in 0..2 {
        for (fields, subject) in [
            (vec![("authorization", alice.as_str())], json!("alice")),
            (vec![("authorization", bob.as_str())], json!("bob")),
            (Vec::new(), Value::Null),
        ] {
            let answer = session.send(get_with("/a", &fields)).await.unwrap();
            let claims = assertion_claims(&answer);
            assert_eq!(claims["token"]["sub"], subject, "{claims}");
            let wire = answer.received("countersign-assertion").remove(0);
            if round == 0 {
                assert!(!seen.contains(&wire));
                seen.push(wire);
            } else {
                assert!(seen.contains(&wire), "it was not kept");
            }
        }
    }
}

/// The metadata of a resource exists for the paths that its route accepts, and no others.
#[tokio::test]
async fn metadata_follows_the_forms_of_paths_that_a_route_accepts() {
    for (more, status, metadata_status) in [
        ("", 400, 400),
        ("path_encoding = \"allow-encoded-slash\"\n", 401, 200),
    ] {
        let world = TokenWorld::with("", &format!("{more}{ROUTE}")).await;
        let answer = world.client().get("/a%2Fb").await.unwrap();
        assert_eq!(answer.status, status, "{answer:?}");
        let metadata = "/.well-known/oauth-protected-resource/a%2Fb";
        let answer = world.client().get(metadata).await.unwrap();
        assert_eq!(answer.status, metadata_status, "{answer:?}");
        if status == 401 {
            assert_eq!(answer.json()["resource"], format!("https://{HOST}/a%2Fb"));
        }
    }
}
