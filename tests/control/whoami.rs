//! `/.well-known/countersign/whoami`: tells callers which identity the gateway sees.

use countersign_testkit::Protocol;

use crate::support::{BINARY, CALLER, HOST, World, request};

const PATH: &str = "/.well-known/countersign/whoami";

#[tokio::test]
async fn a_caller_learns_its_name_and_its_certificate() {
    let world = World::open().await;
    for protocol in Protocol::BOTH {
        let client = world.client();
        let client = client.protocol(protocol);
        let answer = client.get(PATH).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let said = answer.json();
        assert_eq!(said["caller"], world.ca.spiffe(CALLER));
        assert_eq!(said["trust_domain"], "example.org");
        assert_eq!(said["certificate"]["serial"], world.caller.serial_hex());
        assert_eq!(said["revocation"], "off");
        assert_eq!(said["server_name"], HOST);
        assert_eq!(said["request_id"], answer.header("x-request-id").unwrap());
        let line = world
            .gateway
            .audit()
            .line("the request", |line| {
                line["request_id"] == said["request_id"]
            })
            .await;
        assert_eq!(line["route"], "whoami");
        assert_eq!(line["decision"], "allowed");
        assert_eq!(line["status"], 200);
        assert_eq!(line["upstream"], serde_json::Value::Null);
    }
    assert!(world.echo.seen().is_empty(), "the service was asked");
}

#[tokio::test]
async fn only_reading_is_allowed_and_head_has_no_body() {
    let world = World::open().await;
    let client = world.client();
    let answer = client.send(request("POST", PATH, "")).await.unwrap();
    assert_eq!(answer.status, 405);
    assert_eq!(answer.reason(), Some("method-not-allowed"));
    assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    let answer = client.send(request("HEAD", PATH, "")).await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.body.is_empty());
    assert!(
        answer
            .header("content-length")
            .unwrap()
            .parse::<u32>()
            .unwrap()
            > 100
    );
    assert!(world.echo.seen().is_empty());
}

#[tokio::test]
async fn without_a_certificate_there_is_nothing_to_tell() {
    let world =
        World::with(|settings, echo| settings.optional_certificates().everything_to(echo)).await;
    let answer = world.anonymous().get(PATH).await.unwrap();
    assert_eq!(answer.status, 403);
    assert_eq!(answer.reason(), Some("no-certificate"));
}

#[tokio::test]
async fn the_path_is_checked_like_any_other_and_nothing_beside_it_is_taken() {
    let world = World::open().await;
    let client = world.client();
    for (path, status) in [
        ("/.well-known/countersign/./whoami", 400),
        ("/.well-known//countersign/whoami", 400),
    ] {
        assert_eq!(client.get(path).await.unwrap().status, status, "{path}");
    }
    for path in [
        "/.well-known/countersign/whoami/",
        "/.well-known/countersign/whoami/x",
        "/.well-known/countersign/WHOAMI",
        "/.well-known/countersign",
    ] {
        let answer = client.get(path).await.unwrap();
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.json()["path"], path);
    }
    // A percent-encoded form is the same path, so that the gateway and not the service responds.
    let answer = client
        .get("/.well-known/countersign/%77hoami?x=y")
        .await
        .unwrap();
    assert_eq!(answer.json()["trust_domain"], "example.org");
    let answer = client.clone().host("elsewhere.invalid").get(PATH).await;
    assert_eq!(
        answer.unwrap().status,
        200,
        "the default entry has every name"
    );
}

#[tokio::test]
async fn a_route_of_its_own_for_the_path_is_refused_at_start() {
    let ca = countersign_testkit::TestCa::new("example.org");
    let settings = countersign_testkit::Settings::new(&ca)
        .upstream("orders", "127.0.0.1:9".parse().unwrap())
        .route(
            "mine",
            "orders",
            &format!("paths = [\"{PATH}\"]\ncallers = [\"*\"]\n"),
        );
    let failure = countersign_testkit::Gateway::try_start(BINARY, &settings)
        .await
        .unwrap_err();
    assert_eq!(failure.status.code(), Some(2), "{failure}");
    assert!(
        failure
            .stderr
            .contains("the gateway itself answers this path"),
        "{failure}"
    );
}
