//! The audit log records the necessary facts about each request, but no secrets.

use std::time::Duration;

use countersign_testkit::client::get;
use countersign_testkit::{Leaf, Protocol, TestCa, sha256, until};
use http::Request;
use serde_json::Value;

use crate::support::{CALLER, HOST, World, base64url, decode, revocable, streaming};

#[tokio::test]
async fn an_allowed_request_is_recorded_with_all_its_facts() {
    let world = World::open().await;
    for protocol in Protocol::BOTH {
        let path = format!("/orders/{protocol:?}");
        let client = world.client().protocol(protocol);
        let answer = client.get(&path).await.unwrap();
        let (_, claims) = decode(&answer.received("countersign-assertion")[0]);
        let line = world.gateway.audit().request(&path).await;
        assert_eq!(line["event"], "request");
        assert_eq!(line["decision"], "allowed");
        assert!(line["reason"].is_null(), "{line}");
        assert_eq!(line["method"], "GET");
        assert_eq!(line["host"], HOST);
        assert_eq!(line["sni"], HOST);
        assert_eq!(line["caller"], world.ca.spiffe(CALLER));
        assert_eq!(line["serial"], world.caller.serial_hex());
        assert_eq!(line["thumbprint"], base64url(&sha256(world.caller.leaf())));
        assert_eq!(line["route"], "orders");
        assert_eq!(line["upstream"], "orders");
        assert_eq!(line["status"], 200);
        assert_eq!(line["jti"], claims["jti"]);
        assert_eq!(line["complete"], true);
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
        assert!(line["request_id"].is_string() && line["connection_id"].is_string());
        let duration = line["duration_ms"].as_f64().unwrap();
        assert!(line["upstream_ms"].as_f64().unwrap() <= duration);
        let time = line["time"].as_str().unwrap();
        assert!(time.ends_with('Z') && time.contains('T'), "{time}");
    }
}

#[tokio::test]
async fn a_line_that_was_not_finished_is_ended_before_the_next_one() {
    const TORN: &str = "{\"event\":\"request\",\"ti";
    let ca = TestCa::new("example.org");
    let log = ca.write("torn.jsonl", TORN);
    let world = World::of(ca, |settings, _, echo| {
        settings
            .set("audit", "file", &format!("{:?}", log.display().to_string()))
            .everything_to(echo)
    })
    .await;
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
    let text = || std::fs::read_to_string(&log).unwrap();
    until("a line", async || text().ends_with("}\n")).await;
    let text = text();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(TORN));
    let rest: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(rest.iter().any(|line| line["path"] == "/a"), "{rest:?}");
}

#[tokio::test]
async fn every_request_is_recorded_exactly_once() {
    let world = World::open().await;
    let mut ids = std::collections::HashSet::new();
    for protocol in Protocol::BOTH {
        let mut session = world.client().protocol(protocol).session().await.unwrap();
        for number in 0..10 {
            session.get(&format!("/{number}")).await.unwrap();
        }
    }
    let count = |_: &Value| true;
    let lines = world.gateway.audit().at_least(20, "requests", count).await;
    assert_eq!(lines.len(), 20);
    let connections: std::collections::HashSet<_> = lines
        .iter()
        .map(|line| line["connection_id"].to_string())
        .collect();
    assert_eq!(connections.len(), 2);
    for line in lines {
        assert!(ids.insert(line["request_id"].to_string()));
    }
}

#[tokio::test]
async fn queries_credentials_and_tokens_are_never_recorded() {
    let world = World::open().await;
    let request = Request::post("/orders?token=secret-query")
        .header("authorization", "Bearer secret-token")
        .header("cookie", "secret-cookie")
        .header("x-api-key", "secret-key")
        .body("secret-body".into())
        .unwrap();
    let answer = world.client().send(request).await.unwrap();
    let assertion = answer.received("countersign-assertion").remove(0);
    world.gateway.audit().request("/orders").await;
    let refused = world.client_as("/x").get("/a//b?secret-query").await;
    assert_eq!(refused.unwrap().status, 400);
    world.gateway.audit().at_least(2, "both", |_| true).await;
    for text in [world.gateway.audit().text(), world.gateway.stderr()] {
        assert!(!text.contains("secret"), "{text}");
        assert!(!text.contains(&assertion));
        assert!(!text.contains(assertion.rsplit('.').next().unwrap()));
    }
}

#[tokio::test]
async fn not_even_the_most_talkative_log_has_a_secret() {
    let world = World::with(|s, echo| s.log("trace").everything_to(echo)).await;
    for protocol in Protocol::BOTH {
        let request = Request::post("/orders?token=secret-query")
            .header("authorization", "Bearer secret-token")
            .header("cookie", "secret-cookie")
            .body("secret-body".into())
            .unwrap();
        let client = world.client().protocol(protocol);
        let answer = client.send(request).await.unwrap();
        let assertion = answer.received("countersign-assertion").remove(0);
        let signature = assertion.rsplit('.').next().unwrap().to_owned();
        world.gateway.audit().request("/orders").await;
        let said = world.gateway.stderr();
        assert!(said.contains("TRACE"), "the log is not talkative");
        for line in said.lines() {
            assert!(
                ![
                    "secret-token",
                    "secret-cookie",
                    "secret-query",
                    "secret-body",
                    &signature
                ]
                .iter()
                .any(|secret| line.contains(secret)),
                "{protocol:?}: {line}"
            );
        }
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_is_recorded_too() {
    let world = World::open().await;
    for protocol in Protocol::BOTH {
        for path in ["/hang", "/hang-mid-body"] {
            let path = format!("/{protocol:?}{path}");
            let client = world.client().protocol(protocol);
            let request = get(&path);
            let task = tokio::spawn(async move {
                let mut session = client.session().await.unwrap();
                let response = session.start(request).await.unwrap();
                // The test keeps the response open until it aborts this task.
                let _open = (session, response);
                std::future::pending::<()>().await;
            });
            world.echo.arrived(&path).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            task.abort();
            let line = world.gateway.audit().request(&path).await;
            assert_eq!(line["complete"], false, "{line}");
            assert_eq!(line["caller"], world.ca.spiffe(CALLER));
            assert_eq!(line["route"], "orders");
        }
    }
}

#[tokio::test]
async fn what_peers_choose_is_escaped_and_bounded() {
    let world = World::open().await;
    // The name has a right-to-left override, an escape sequence, a line break and a quote.
    let evil = "a\u{202e}b\u{1b}[31mc\nd\"e\u{7f}";
    let long = "x".repeat(20_000);
    for name in [evil, long.as_str()] {
        let leaf = Leaf::new()
            .common_name(name)
            .dns(&format!("{name}.example.org"));
        let credentials = world.ca.issue(leaf);
        let error = world.anonymous().with(&credentials).refusal().await;
        assert!(error.alert().is_some(), "{error}");
        world
            .gateway
            .audit()
            .line("the refused handshake", |line| {
                line["serial"] == credentials.serial_hex() || line["serial"].is_null()
            })
            .await;
    }
    let mut session = world.client().session().await.unwrap();
    session
        .get(&format!("/{}", "p".repeat(8000)))
        .await
        .unwrap();
    session.get("/caf%C3%A9%E2%80%AE").await.unwrap();
    world
        .gateway
        .audit()
        .at_least(2, "requests", |line| line["event"] == "request")
        .await;
    let text = world.gateway.audit().text();
    for (index, line) in text.lines().enumerate() {
        assert!(
            line.len() < 10_000,
            "line {index} has {} octets",
            line.len()
        );
        let value: Value = serde_json::from_str(line).unwrap();
        for member in value.as_object().unwrap().values() {
            if let Some(text) = member.as_str() {
                assert!(
                    !text.chars().any(|c| c.is_control() || c == '\u{202e}'),
                    "{text:?}"
                );
            }
        }
    }
    assert!(!world.gateway.stderr().contains(['\u{202e}', '\u{1b}']));
}

#[tokio::test]
async fn lines_have_the_members_that_are_documented() {
    let (world, lists) = revocable().await;
    let held = streaming(&world.client()).await;
    world.client().get("/a").await.unwrap();
    lists.revoke(&world.ca, &world.caller);
    let audit = world.gateway.audit();
    audit
        .at_least(1, "a cut", |line| line["event"] == "connection")
        .await;
    world.client().refusal().await;
    audit.handshake("certificate-revoked").await;
    drop(held);
    let documented = crate::repository::audit_members::documented();
    let mut seen = std::collections::BTreeSet::new();
    for line in audit.lines() {
        let event = line["event"].as_str().unwrap();
        let members = &documented[event];
        for name in line.as_object().unwrap().keys() {
            assert!(members.contains_key(name), "{event}: {name}");
        }
        for (name, always) in members {
            assert!(!always || line.get(name).is_some(), "{event}: {name}");
        }
        seen.insert(event.to_owned());
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}
