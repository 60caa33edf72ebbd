//! Rate limits: which requests count, when they count, and how further requests are refused.

use std::time::Duration;

use countersign_testkit::{Answer, Protocol};
use serde_json::json;

use super::worlds::TokenWorld;
use super::{ask, issuer, refused};
use crate::support::{get_with, reloaded};

const TOKEN: &str = "token = { issuer = \"corporate\" }";

fn once(per: &str) -> String {
    format!("rate_limit = {{ per = \"{per}\", requests = 1, window = \"1h\" }}")
}

#[track_caller]
fn limited(answer: &Answer, per: &str) {
    refused(answer, 429, "rate-limited");
    let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3600).contains(&after), "{after}");
    let policy = answer.header("ratelimit-policy").unwrap();
    assert_eq!(policy, format!("\"{per}\";q=1;w=3600"));
    let left = answer.header("ratelimit").unwrap();
    assert!(left.starts_with(&format!("\"{per}\";r=0;t=")), "{left}");
}

#[tokio::test]
async fn each_caller_has_its_own_allowance() {
    for protocol in Protocol::BOTH {
        let route = format!("callers = [\"*\"]\n{}", once("caller"));
        let world = TokenWorld::with("", &route).await;
        let mine = world.client().protocol(protocol);
        let other = world
            .anonymous()
            .with(&world.ca.client("/ns/shop/sa/other"));
        assert_eq!(mine.get("/a").await.unwrap().status, 200);
        limited(&mine.get("/a").await.unwrap(), "caller");
        assert_eq!(other.get("/a").await.unwrap().status, 200);
        limited(&other.get("/a").await.unwrap(), "caller");
        assert_eq!(world.echo.requests(), 2);
        let line = world
            .gateway
            .audit()
            .line("a limited request", |line| line["reason"] == "rate-limited")
            .await;
        assert_eq!(line["decision"], "refused", "{line}");
    }
}

#[tokio::test]
async fn bursts_pass_and_the_allowance_comes_back() {
    let route = "callers = [\"*\"]\n\
                 rate_limit = { per = \"route\", requests = 2, window = \"1s\", burst = 5 }";
    let world = TokenWorld::with("", route).await;
    let mut session = world.client().session().await.unwrap();
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(session.get("/a").await.unwrap().status);
    }
    let passed = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(statuses[..5], [200; 5]);
    assert!((5..=8).contains(&passed), "{statuses:?}");
    let refused = session.get("/a").await.unwrap();
    if refused.status == 429 {
        let after = refused.header("retry-after").unwrap().parse().unwrap();
        tokio::time::sleep(Duration::from_secs(after)).await;
    }
    assert_eq!(session.get("/a").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_caller_with_a_certificate_is_counted_before_its_token_is_looked_at() {
    let route = format!("callers = [\"*\"]\n{TOKEN}\n{}", once("caller"));
    let world = TokenWorld::with("", &route).await;
    let bad = world.token_with(json!({"exp": 1}));
    refused(
        &ask(&world.client(), "/a", &bad).await,
        401,
        "token-expired",
    );
    limited(&ask(&world.client(), "/a", &world.token()).await, "caller");
}

#[tokio::test]
async fn subjects_are_counted_once_their_token_is_known_to_be_good() {
    let route = format!("callers = [\"*\"]\n{TOKEN}\n{}", once("subject"));
    let world = TokenWorld::with("", &route).await;
    let forged = countersign_testkit::TokenKey::new("one").sign(&world.claims(json!({})));
    refused(
        &ask(&world.client(), "/a", &forged).await,
        401,
        "token-signature",
    );
    assert_eq!(ask(&world.client(), "/a", &world.token()).await.status, 200);
    let again = world.token_with(json!({"jti": "another"}));
    limited(&ask(&world.client(), "/a", &again).await, "subject");
    let bob = world.token_with(json!({"sub": "bob"}));
    assert_eq!(ask(&world.client(), "/a", &bob).await.status, 200);
}

#[tokio::test]
async fn what_was_counted_is_kept_over_a_reload() {
    let route = format!("callers = [\"*\"]\n{}", once("address"));
    let world = TokenWorld::with("", &route).await;
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
    world.reconfigure("[audit]", "# changed\n[audit]");
    reloaded(&world.gateway).await;
    limited(&world.client().get("/a").await.unwrap(), "address");
}

#[tokio::test]
async fn a_caller_that_fails_too_often_must_wait_but_not_others_at_its_address() {
    let world = TokenWorld::open(|settings, keys, echo| {
        settings
            .section(&issuer(keys, ""))
            .section("[rate_limits]\nfailed_authentications = 3")
            .upstream("orders", echo)
            .route(
                "orders",
                "orders",
                &format!("paths = [\"/a\"]\ncallers = [\"*\"]\n{TOKEN}"),
            )
            .route("free", "orders", "paths = [\"/free\"]\ncallers = [\"*\"]")
    })
    .await;
    for number in 0..3 {
        // A request without a token does not count as a failed authentication.
        let answer = world.client().get("/a").await.unwrap();
        refused(&answer, 401, "token-missing");
        let bad = world.token_with(json!({"exp": 1, "jti": number.to_string()}));
        refused(
            &ask(&world.client(), "/a", &bad).await,
            401,
            "token-expired",
        );
    }
    let answer = ask(&world.client(), "/a", &world.token()).await;
    refused(&answer, 429, "rate-limited");
    let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=20).contains(&after), "{after}");
    // Another caller at the same address has its own limit on failures.
    let other = world
        .anonymous()
        .with(&world.ca.client("/ns/shop/sa/other"));
    let answer = ask(&other, "/a", &world.token()).await;
    refused(&answer, 401, "token-binding-mismatch");
    assert_eq!(world.client().get("/free").await.unwrap().status, 200);
    tokio::time::sleep(Duration::from_secs(after)).await;
    assert_eq!(ask(&world.client(), "/a", &world.token()).await.status, 200);
}

#[tokio::test]
async fn an_address_that_fails_too_often_must_wait_but_not_callers_with_a_certificate() {
    let world = TokenWorld::open(|settings, keys, echo| {
        settings
            .optional_certificates()
            .section(&issuer(keys, "certificate_binding = \"if-present\""))
            .section("[rate_limits]\nfailed_authentications = 3")
            .upstream("orders", echo)
            .route(
                "orders",
                "orders",
                &format!(
                    "paths = [\"/a\"]\ncallers = [\"*\"]\n{TOKEN}\n\
                     authenticate = {{ any = [\"certificate\", \"token\"] }}"
                ),
            )
    })
    .await;
    let good = world.token_with(json!({"cnf": null}));
    for number in 0..3 {
        let bad = world.token_with(json!({"cnf": null, "exp": 1, "jti": number.to_string()}));
        let answer = ask(&world.anonymous(), "/a", &bad).await;
        refused(&answer, 401, "token-expired");
    }
    let answer = ask(&world.anonymous(), "/a", &good).await;
    refused(&answer, 429, "rate-limited");
    // A caller with a certificate is distinguished from other clients at the same address.
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
    assert_eq!(ask(&world.client(), "/a", &world.token()).await.status, 200);
    let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    tokio::time::sleep(Duration::from_secs(after)).await;
    assert_eq!(ask(&world.anonymous(), "/a", &good).await.status, 200);
}

#[tokio::test]
async fn grpc_callers_get_a_grpc_status_at_a_limit() {
    let route = format!("callers = [\"*\"]\n{}", once("caller"));
    let world = TokenWorld::with("", &route).await;
    let client = world.client().protocol(Protocol::Http2);
    assert_eq!(client.get("/a").await.unwrap().status, 200);
    let request = get_with("/a", &[("content-type", "application/grpc")]);
    let answer = client.send(request).await.unwrap();
    assert_eq!(answer.header("grpc-status"), Some("8"));
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
}
