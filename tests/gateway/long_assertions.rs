//! Assertions have a maximum size. Callers with long names, and requests with long paths, are served
//! as long as the claims that cannot be left out fit.

use countersign_testkit::{Answer, Leaf, Protocol};
use serde_json::{Value, json};

use crate::support::{CALLER, ISSUER, World, assertion, base64url, decode};

const EVERYTHING: &str = "paths = [\"/**\"]\ncallers = [\"*\"]\n";

/// Starts a gateway with this `max_size` and these keys of the route.
async fn world(max_size: &str, more: &str) -> World {
    World::with(|settings, echo| {
        let settings = match max_size {
            "" => settings,
            size => settings.set("assertion", "max_size", &format!("\"{size}\"")),
        };
        settings
            .upstream("orders", echo)
            .route("orders", "orders", &format!("{EVERYTHING}{more}"))
    })
    .await
}

/// Returns a SPIFFE ID of this length.
fn long_id(length: usize) -> String {
    let start = "spiffe://example.org/";
    format!("{start}{}", "a".repeat(length - start.len()))
}

/// Returns the claims of the assertion that the service has received. The assertion must have at
/// most `max` bytes, and the verifier for services must accept it.
async fn claims(world: &World, answer: &Answer, path: &str, max: usize) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    let token = assertion(answer);
    assert!(token.len() <= max, "{} bytes", token.len());
    let verifier = countersign_verify::AssertionVerifier::builder()
        .issuer(ISSUER)
        .audience("orders")
        .jwks_json(world.gateway.jwks().await)
        .build()
        .unwrap();
    let request = countersign_verify::RequestParts::new("GET", crate::support::HOST, path).unwrap();
    verifier.verify(&token, &request).unwrap();
    decode(&token).1
}

fn refused(answer: &Answer, status: u16, parts: &[&str]) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.reason(), Some("too-large"));
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    for part in parts {
        assert!(detail.contains(part), "{part}: {detail}");
    }
}

#[tokio::test]
async fn a_long_name_takes_the_place_of_details() {
    let world = world("", "").await;
    for (length, without_issuer) in [(800, false), (1200, true)] {
        let id = long_id(length);
        let client = world.anonymous().with(&world.ca.issue(Leaf::with_uri(&id)));
        for protocol in Protocol::BOTH {
            let answer = client.clone().protocol(protocol).get("/a").await.unwrap();
            let claims = claims(&world, &answer, "/a", 4096).await;
            assert_eq!(claims["sub"], id);
            let certificate = &claims["client_cert"];
            assert_eq!(certificate["sans"]["uri"], json!([]));
            assert_eq!(certificate["sans_truncated"], true);
            assert_eq!(certificate["issuer"] == "", without_issuer);
            let said = certificate.get("issuer_truncated");
            assert_eq!(said.is_some(), without_issuer, "{certificate}");
            assert_eq!(claims["authn"]["trust_domain"], "example.org");
        }
    }
}

/// A service must not take a missing name for a certificate without the name, so a caller must not
/// be able to choose that names are missing.
#[tokio::test]
async fn a_long_path_makes_no_name_disappear() {
    let world = world("", "").await;
    let spiffe = world.ca.spiffe(CALLER);
    let leaf = Leaf::with_uri(&spiffe).dns("restricted.example.org");
    let client = world.anonymous().with(&world.ca.issue(leaf));
    let mut refusals = 0;
    for length in (1..2600).step_by(100) {
        let path = format!("/{}", "p".repeat(length));
        let answer = client.get(&path).await.unwrap();
        if answer.status == 200 {
            let (_, claims) = decode(&assertion(&answer));
            let sans = &claims["client_cert"]["sans"];
            assert_eq!(sans["uri"], json!([spiffe]), "{length}");
            assert_eq!(sans["dns"], json!(["restricted.example.org"]), "{length}");
        } else {
            refused(&answer, 414, &["`htu` has", "`max_size`"]);
            refusals += 1;
        }
    }
    assert!(refusals > 0);
}

#[tokio::test]
async fn long_additional_names_are_left_out_from_the_end() {
    let world = world("", "").await;
    let spiffe = world.ca.spiffe(CALLER);
    let label = "a".repeat(60);
    let leaf = (0..16).fold(Leaf::with_uri(&spiffe), |leaf, number| {
        leaf.dns(&format!("n{number}.{label}.{label}.{label}.example.org"))
    });
    let client = world.anonymous().with(&world.ca.issue(leaf));
    let answer = client.get("/a").await.unwrap();
    let claims = claims(&world, &answer, "/a", 4096).await;
    let certificate = &claims["client_cert"];
    assert_eq!(certificate["sans"]["uri"], json!([spiffe]));
    let names = certificate["sans"]["dns"].as_array().unwrap();
    assert!((3..16).contains(&names.len()), "{names:?}");
    for (number, name) in names.iter().enumerate() {
        assert!(name.as_str().unwrap().starts_with(&format!("n{number}.")));
    }
    assert_eq!(certificate["sans_truncated"], true);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_the_claim_and_the_key() {
    let world = world("", "").await;
    let path = format!("/{}", "p".repeat(2399));
    let answer = world.client().get(&path).await.unwrap();
    let key = "`max_size` of [assertion] is 4096";
    refused(&answer, 414, &["`htu` has 2426 bytes", key]);
    let id = long_id(2048);
    let client = world.anonymous().with(&world.ca.issue(Leaf::with_uri(&id)));
    let answer = client.get("/").await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = client.get(&format!("/{}", "p".repeat(1023))).await.unwrap();
    refused(&answer, 431, &["`sub` has 2048 bytes", key]);
    assert_eq!(world.echo.requests(), 1);
}

#[tokio::test]
async fn seven_kib_hold_the_longest_name_and_a_long_path() {
    for more in ["", "assertion = \"compact\"\n"] {
        let world = world("7KiB", more).await;
        let id = long_id(2048);
        let client = world.anonymous().with(&world.ca.issue(Leaf::with_uri(&id)));
        let path = format!("/{}", "p".repeat(2047));
        for protocol in Protocol::BOTH {
            let client = client.clone().protocol(protocol);
            let answer = client.get(&path).await.unwrap();
            let claims = claims(&world, &answer, &path, 7168).await;
            assert_eq!(claims["sub"], id);
        }
        let path = format!("/{}", "p".repeat(2399));
        let answer = world.client().get(&path).await.unwrap();
        assert_eq!(
            claims(&world, &answer, &path, 7168).await["sub"],
            world.ca.spiffe(CALLER)
        );
        let answer = world
            .client()
            .get(&format!("/{}", "p".repeat(6000)))
            .await
            .unwrap();
        refused(&answer, 414, &["`htu` has 6027 bytes", "is 7168"]);
    }
}

#[tokio::test]
async fn compact_assertions_name_the_certificate_by_its_thumbprint() {
    for binding in ["request", "caller"] {
        let world = world(
            "",
            &format!("assertion = \"compact\"\nbinding = \"{binding}\"\n"),
        )
        .await;
        let answer = world.client().get("/a").await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let (_, claims) = decode(&assertion(&answer));
        assert!(claims.get("client_cert").is_none(), "{claims}");
        let thumbprint = base64url(&countersign_testkit::sha256(world.caller.leaf()));
        assert_eq!(claims["authn"]["x5t#S256"], thumbprint);
        assert_eq!(claims["authn"]["trust_domain"], "example.org");
        assert_eq!(claims["authn"]["methods"], json!(["certificate"]));
        assert_eq!(claims["sub"], world.ca.spiffe(CALLER));
    }
}
