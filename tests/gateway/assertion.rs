//! The main path: an allowed caller reaches the service, and the assertion names this caller and
//! its request.

use countersign_testkit::client::get;
use countersign_testkit::{Protocol, TlsVersion, sha256};
use countersign_verify::{RequestParts, Verifier, VerifyError};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

use crate::support::{CALLER, HOST, ISSUER, World, altered, assertion, base64url, decode};

const ROUTE: &str = "hosts = [\"orders.example.org\"]\npaths = [\"/orders\", \"/orders/**\"]\n\
    methods = [\"GET\", \"POST\"]\ncallers = [\"spiffe://example.org/ns/shop/sa/*\"]\n";

/// Verifies an assertion with another JOSE library.
fn oracle(
    token: &str,
    jwks: &str,
    algorithm: Algorithm,
    audience: &str,
) -> Result<Value, ErrorKind> {
    let keys: JwkSet = serde_json::from_str(jwks).unwrap();
    let header = jsonwebtoken::decode_header(token).map_err(|error| error.kind().clone())?;
    let key = keys
        .find(&header.kid.expect("a kid"))
        .expect("the kid is in the key set");
    let mut validation = Validation::new(algorithm);
    validation.set_issuer(&[ISSUER]);
    validation.set_audience(&[audience]);
    validation.leeway = 0;
    jsonwebtoken::decode::<Value>(token, &DecodingKey::from_jwk(key).unwrap(), &validation)
        .map(|token| token.claims)
        .map_err(|error| error.kind().clone())
}

fn verifier(jwks: &str, audience: &str) -> Verifier {
    Verifier::builder()
        .issuer(ISSUER)
        .audience(audience)
        .jwks_json(jwks)
        .build()
        .unwrap()
}

#[tokio::test]
async fn an_allowed_caller_reaches_the_service_over_every_protocol() {
    let world =
        World::with(|s, echo| s.upstream("orders", echo).route("orders", "orders", ROUTE)).await;
    for version in TlsVersion::BOTH {
        for protocol in Protocol::BOTH {
            let client = world.client().tls(version).protocol(protocol);
            let mut session = client.session().await.unwrap();
            for number in 0..2 {
                let path = format!("/orders/{number}?full=1");
                let answer = session.get(&path).await.unwrap();
                assert_eq!(answer.status, 200, "{version:?} {protocol:?} {answer:?}");
                let echo = answer.json();
                assert_eq!(echo["method"], "GET");
                assert_eq!(echo["path"], path);
                assert_eq!(answer.received("host"), [HOST]);
                let (_, claims) = decode(&assertion(&answer));
                assert_eq!(claims["sub"], world.ca.spiffe(CALLER));
            }
            let post = http::Request::post("/orders").body("hello".into()).unwrap();
            let answer = session.send(post).await.unwrap();
            assert_eq!(answer.json()["body"], "hello");
            assert_eq!(decode(&assertion(&answer)).1["htm"], "POST");
        }
    }
}

#[tokio::test]
async fn the_claims_say_exactly_who_asked_for_what() {
    let world =
        World::with(|s, echo| s.upstream("orders", echo).route("orders", "orders", ROUTE)).await;
    let answer = world.client().get("/orders/7?full=1&x=%20").await.unwrap();
    let token = assertion(&answer);
    assert!(token.len() <= 1536, "{} octets", token.len());
    let (header, claims) = decode(&token);

    let keys: Value = serde_json::from_str(&world.gateway.jwks().await).unwrap();
    assert_eq!(header["alg"], "ES256");
    assert_eq!(header["typ"], "countersign+jwt");
    assert!(
        keys["keys"]
            .as_array()
            .unwrap()
            .iter()
            .any(|key| key["kid"] == header["kid"])
    );
    for member in ["jku", "x5u", "jwk", "x5c"] {
        assert_eq!(header.get(member), None, "{member}");
    }

    let caller = world.ca.spiffe(CALLER);
    assert_eq!(claims["iss"], ISSUER);
    assert_eq!(claims["aud"], "orders");
    assert_eq!(claims["sub"], caller);
    assert_eq!(claims["htm"], "GET");
    assert_eq!(claims["htu"], "https://orders.example.org/orders/7");
    assert_eq!(claims["htq"], base64url(&sha256(b"full=1&x=%20")));
    assert_eq!(claims["jti"].as_str().unwrap().len(), 22);
    assert!(!claims["txn"].as_str().unwrap().is_empty());
    let (iat, exp) = (
        claims["iat"].as_u64().unwrap(),
        claims["exp"].as_u64().unwrap(),
    );
    assert_eq!(exp - iat, 30);
    let now = jsonwebtoken::get_current_timestamp();
    assert!(iat <= now && now - iat < 10);

    let leaf = world.caller.leaf();
    let certificate = &claims["client_cert"];
    assert_eq!(certificate["x5t#S256"], base64url(&sha256(leaf)));
    assert_eq!(certificate["serial"], world.caller.serial_hex());
    assert_eq!(certificate["issuer"], "CN=example.org intermediate");
    assert_eq!(
        certificate["sans"],
        json!({ "uri": [caller], "dns": [], "email": [], "ip": [] })
    );
    assert_eq!(
        certificate["anchor"],
        base64url(&sha256(world.ca.root().der()))
    );
    assert!(certificate["not_before"].as_u64().unwrap() <= iat);
    assert!(certificate["not_after"].as_u64().unwrap() >= exp);
    assert_eq!(certificate.get("sans_truncated"), None);

    let authentication = &claims["authn"];
    assert_eq!(authentication["methods"], json!(["certificate"]));
    assert_eq!(authentication["trust_domain"], "example.org");
    assert_eq!(authentication["revocation"], "off");
    assert_eq!(authentication["resumed"], false);
    assert!(authentication["at"].as_u64().unwrap() <= iat);
    for member in ["cnf", "htb", "token", "nbf"] {
        assert_eq!(claims.get(member), None, "{member}");
    }
}

#[tokio::test]
async fn the_query_claim_tells_an_empty_query_from_none() {
    let world = World::open().await;
    let mut session = world.client().session().await.unwrap();
    let none = session.get("/a").await.unwrap();
    assert_eq!(decode(&assertion(&none)).1.get("htq"), None);
    let empty = session.get("/a?").await.unwrap();
    assert_eq!(empty.json()["path"], "/a?");
    assert_eq!(decode(&assertion(&empty)).1["htq"], base64url(&sha256(b"")));
}

#[tokio::test]
async fn every_request_has_an_assertion_of_its_own() {
    let world = World::open().await;
    let mut session = world.client().session().await.unwrap();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..5 {
        let answer = session.get("/a").await.unwrap();
        let jti = decode(&assertion(&answer)).1["jti"].to_string();
        assert!(seen.insert(jti), "a jti was used twice");
    }
}

#[tokio::test]
async fn foreign_and_own_verifiers_agree_on_both_algorithms() {
    for (name, algorithm) in [("ES256", Algorithm::ES256), ("EdDSA", Algorithm::EdDSA)] {
        let world = World::with(|s, echo| s.algorithm(name).everything_to(echo)).await;
        let jwks = world.gateway.jwks().await;
        let answer = world.client().get("/orders/7?full=1").await.unwrap();
        let token = assertion(&answer);
        assert_eq!(decode(&token).0["alg"], name);

        let claims = oracle(&token, &jwks, algorithm, "orders").unwrap();
        let request = RequestParts::new("GET", HOST, "/orders/7?full=1").unwrap();
        let verified = verifier(&jwks, "orders").verify(&token, &request).unwrap();
        assert_eq!(claims["sub"], verified.sub);
        assert_eq!(verified.sub, world.ca.spiffe(CALLER));

        let changed = altered(&token);
        assert_eq!(
            oracle(&changed, &jwks, algorithm, "orders").unwrap_err(),
            ErrorKind::InvalidSignature
        );
        assert_eq!(
            verifier(&jwks, "orders").verify(&changed, &request),
            Err(VerifyError::Signature)
        );
        assert_eq!(
            oracle(&token, &jwks, algorithm, "payments").unwrap_err(),
            ErrorKind::InvalidAudience
        );
        assert_eq!(
            verifier(&jwks, "payments").verify(&token, &request),
            Err(VerifyError::Audience)
        );
    }
}

#[tokio::test]
async fn an_expired_assertion_is_refused_by_both() {
    let world =
        World::with(|s, echo| s.set("assertion", "lifetime", "\"1s\"").everything_to(echo)).await;
    let jwks = world.gateway.jwks().await;
    let token = assertion(&world.client().get("/a").await.unwrap());
    let (_, claims) = decode(&token);
    let exp = claims["exp"].as_u64().unwrap();
    assert_eq!(exp - claims["iat"].as_u64().unwrap(), 1);
    // The other library reads the system clock, so that the test waits in real time.
    countersign_testkit::until("expiry", async || {
        oracle(&token, &jwks, Algorithm::ES256, "orders").is_err()
    })
    .await;
    assert_eq!(
        oracle(&token, &jwks, Algorithm::ES256, "orders").unwrap_err(),
        ErrorKind::ExpiredSignature
    );
    let later = Verifier::builder()
        .issuer(ISSUER)
        .audience("orders")
        .jwks_json(jwks)
        .clock(move || exp + 30)
        .build()
        .unwrap();
    let request = RequestParts::new("GET", HOST, "/a").unwrap();
    assert_eq!(later.verify(&token, &request), Err(VerifyError::Expired));
}

#[tokio::test]
async fn an_assertion_is_worthless_for_any_other_request() {
    let world = World::open().await;
    let jwks = world.gateway.jwks().await;
    let answer = world.client().get("/orders/7?full=1").await.unwrap();
    let token = assertion(&answer);
    let verifier = verifier(&jwks, "orders");
    for (method, host, target, error) in [
        ("POST", HOST, "/orders/7?full=1", VerifyError::Method),
        ("GET", HOST, "/orders/8?full=1", VerifyError::Path),
        ("GET", HOST, "/orders/7/?full=1", VerifyError::Path),
        ("GET", HOST, "/orders/%37?full=1", VerifyError::Path),
        ("GET", HOST, "/orders/7?full=2", VerifyError::Query),
        ("GET", HOST, "/orders/7?", VerifyError::Query),
        ("GET", HOST, "/orders/7", VerifyError::Query),
        (
            "GET",
            "other.example.org",
            "/orders/7?full=1",
            VerifyError::Authority,
        ),
    ] {
        let request = RequestParts::new(method, host, target).unwrap();
        assert_eq!(
            verifier.verify(&token, &request),
            Err(error),
            "{method} {host} {target}"
        );
    }
    let plain = assertion(&world.client().get("/orders/7").await.unwrap());
    let with_query = RequestParts::new("GET", HOST, "/orders/7?").unwrap();
    assert_eq!(
        verifier.verify(&plain, &with_query),
        Err(VerifyError::Query)
    );
}

#[tokio::test]
async fn the_assertion_never_outlives_the_certificate() {
    let world = World::with(|s, echo| {
        s.set("assertion", "lifetime", "\"300s\"")
            .everything_to(echo)
    })
    .await;
    let soon = world
        .ca
        .issue(countersign_testkit::Leaf::with_uri(&world.ca.spiffe(CALLER)).valid(-60, 60));
    let answer = world.anonymous().with(&soon).get("/a").await.unwrap();
    let (_, claims) = decode(&assertion(&answer));
    assert_eq!(claims["exp"], claims["client_cert"]["not_after"]);
}

/// notAfter is inclusive (RFC 5280 section 4.1.2.5). The test sends requests until the certificate
/// has expired. If a response arrived before the end of the last valid second, the request must
/// have been allowed. On a slow machine, the test only sends fewer requests.
#[tokio::test]
async fn requests_are_served_through_the_last_second_of_the_certificate() {
    let world = World::open().await;
    let is_valid = |not_after| rustls_pki_types::UnixTime::now().as_secs() <= not_after;
    let (client, mut session, not_after) = loop {
        let leaf = countersign_testkit::Leaf::with_uri(&world.ca.spiffe(CALLER));
        let caller = world.ca.issue(leaf.valid(-60, 2));
        let facts = countersign_core::identity::LeafFacts::read(caller.leaf()).unwrap();
        let not_after = u64::try_from(facts.not_after).unwrap();
        let client = world.anonymous().with(&caller);
        let session = client.session().await;
        if is_valid(not_after) {
            break (client, session.unwrap(), not_after);
        }
    };
    loop {
        let kept = session.get("/a").await;
        // A new handshake in the same second succeeds too.
        let anew = client.get("/a").await;
        if !is_valid(not_after) {
            break;
        }
        for answer in [kept.unwrap(), anew.unwrap()] {
            assert_eq!(answer.status, 200, "{}", world.gateway.stderr());
            let (_, claims) = decode(&assertion(&answer));
            assert!(claims["exp"].as_u64().unwrap() <= not_after + 1, "{claims}");
        }
    }
    let refusal = client.refusal().await;
    assert_eq!(refusal.alert(), Some(45), "{refusal}");
}

#[tokio::test]
async fn the_assertion_travels_in_the_configured_field() {
    let world = World::with(|s, echo| {
        s.set("assertion", "header", "\"X-Workload-Proof\"")
            .everything_to(echo)
    })
    .await;
    let mut request = get("/a");
    for name in ["x-workload-proof", "X_Workload_Proof", "x.workload.proof"] {
        request.headers_mut().insert(
            http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
            "forged".parse().unwrap(),
        );
    }
    let answer = world.client().send(request).await.unwrap();
    let received = answer.received("x-workload-proof");
    assert_eq!(received.len(), 1, "{answer:?}");
    assert_eq!(decode(&received[0]).1["aud"], "orders");
    for name in [
        "x_workload_proof",
        "x.workload.proof",
        "countersign-assertion",
    ] {
        assert_eq!(answer.received(name), [""; 0], "{name}");
    }
}

#[tokio::test]
async fn the_url_is_the_one_the_service_receives() {
    let world = World::with(|settings, echo| {
        settings
            .upstream("orders", echo)
            .upstream_with("renamed", echo, "host = \"internal.example.org:81\"\n")
            .route("orders", "orders", "paths = [\"/**\"]\ncallers = [\"*\"]\n")
            .route(
                "renamed",
                "renamed",
                "paths = [\"/renamed/**\"]\ncallers = [\"*\"]\n",
            )
    })
    .await;
    let jwks = world.gateway.jwks().await;
    for protocol in Protocol::BOTH {
        for (host, path, audience, sent) in [
            (
                "Orders.Example.ORG:8443",
                "/a",
                "orders",
                "Orders.Example.ORG:8443",
            ),
            ("orders.example.org.", "/a", "orders", "orders.example.org."),
            (HOST, "/renamed/a", "renamed", "internal.example.org:81"),
        ] {
            let client = world.client().host(host).protocol(protocol);
            let answer = client.get(path).await.unwrap();
            assert_eq!(answer.received("host"), [sent], "{protocol:?}");
            let token = assertion(&answer);
            assert_eq!(decode(&token).1["htu"], format!("https://{sent}{path}"));
            let request = RequestParts::new("GET", sent, path).unwrap();
            assert!(verifier(&jwks, audience).verify(&token, &request).is_ok());
        }
    }
}

#[tokio::test]
async fn many_names_are_cut_short_and_said_to_be() {
    let world = World::open().await;
    let spiffe = world.ca.spiffe(CALLER);
    let leaf = (0..20).fold(
        countersign_testkit::Leaf::with_uri(&spiffe),
        |leaf, number| leaf.dns(&format!("n{number}.example.org")),
    );
    let client = world.anonymous().with(&world.ca.issue(leaf));
    let answer = client.get("/a").await.unwrap();
    let (_, claims) = decode(&assertion(&answer));
    let certificate = &claims["client_cert"];
    assert_eq!(certificate["sans"]["dns"].as_array().unwrap().len(), 16);
    assert_eq!(certificate["sans_truncated"], true);
    assert_eq!(claims["sub"], spiffe);
}
