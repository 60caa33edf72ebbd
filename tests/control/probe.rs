//! `countersign probe`: tests a gateway as a caller would.

use std::path::Path;

use countersign_testkit::{Credentials, Leaf, TestCa};
use serde_json::Value;
use tokio::process::Command;

use crate::support::{BINARY, CALLER, Run, World};

/// Runs a probe. Returns its exit code and its JSON output.
async fn probe(ca: &TestCa, url: &str, caller: &Credentials, roots: &Path) -> (i32, Value) {
    let run = Run::of_async(
        Command::new(BINARY)
            .args(["--json", "probe", url, "--cert"])
            .arg(ca.write("probe.pem", caller.chain_pem()))
            .arg("--key")
            .arg(ca.write("probe.key", caller.key_pem()))
            .arg("--cacert")
            .arg(roots),
    )
    .await;
    let said = serde_json::from_str(&run.stdout).unwrap_or(Value::Null);
    assert!(said.is_object() || run.code != 0, "{run:?}");
    (run.code, said)
}

fn codes(said: &Value) -> Vec<&str> {
    let candidates = said["candidates"].as_array().unwrap();
    let codes = candidates.iter().map(|one| one["code"].as_str().unwrap());
    codes.collect()
}

impl World {
    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.gateway.listener().port())
    }
}

#[tokio::test]
async fn an_accepted_caller_sees_what_was_asked_and_answered() {
    let world = World::open().await;
    let roots = world.ca.root_file();
    let (code, said) = probe(&world.ca, &world.url("/a"), &world.caller, &roots).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(said["server"]["verified"], true);
    assert_eq!(said["tls_version"], "TLS 1.3");
    assert_eq!(said["alpn"], "http/1.1");
    assert_eq!(said["certificate_requested"], true);
    assert_eq!(said["acceptable_issuers"].as_array().unwrap().len(), 1);
    assert_eq!(said["issued_by_acceptable"], true);
    assert_eq!(said["answer"]["status"], 200);
    assert_eq!(said["answer"]["reason"], Value::Null);
}

#[tokio::test]
async fn alerts_become_candidate_reasons() {
    let world = World::open().await;
    let roots = world.ca.root_file();
    let stranger = TestCa::new("other.org");
    let name = world.ca.spiffe(CALLER);
    for (caller, alert, reason) in [
        (stranger.client(CALLER), 48, "unknown-issuer"),
        (
            world.ca.issue(Leaf::with_uri(&name).valid(-7200, -3600)),
            45,
            "certificate-expired",
        ),
        (
            world.ca.issue(Leaf::with_uri(&name).for_server()),
            46,
            "wrong-usage",
        ),
    ] {
        let (code, said) = probe(&world.ca, &world.url("/a"), &caller, &roots).await;
        assert_eq!(code, 3, "{said}");
        assert_eq!(said["alert"]["number"], alert, "{said}");
        assert!(codes(&said).contains(&reason), "{said}");
        assert_eq!(said["server"]["verified"], true);
        assert_eq!(said["issued_by_acceptable"], alert != 48, "{said}");
    }
}

#[tokio::test]
async fn a_refusal_in_http_names_its_reason() {
    let world = World::open().await;
    let roots = world.ca.root_file();
    let (code, said) = probe(&world.ca, &world.url("/a/../b"), &world.caller, &roots).await;
    assert_eq!(code, 3, "{said}");
    assert_eq!(said["answer"]["status"], 400);
    assert_eq!(codes(&said), ["malformed-request"]);
    let id = said["answer"]["request_id"].clone();
    let line = world
        .gateway
        .audit()
        .line("the request", |line| line["request_id"] == id)
        .await;
    assert_eq!(line["reason"], "malformed-request");
}

#[tokio::test]
async fn a_server_that_does_not_hold_is_said_and_counts() {
    let world = World::open().await;
    let other = TestCa::new("example.org");
    let roots = other.root_file();
    let (code, said) = probe(&world.ca, &world.url("/a"), &world.caller, &roots).await;
    assert_eq!(code, 3, "{said}");
    assert_eq!(said["server"]["verified"], false);
    assert!(said["server"]["error"].is_string());
}

#[tokio::test]
async fn no_server_is_exit_1_and_wrong_arguments_exit_2() {
    let world = World::open().await;
    let roots = world.ca.root_file();
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = unused.local_addr().unwrap().port();
    drop(unused);
    let url = format!("https://localhost:{port}/");
    let (code, _) = probe(&world.ca, &url, &world.caller, &roots).await;
    assert_eq!(code, 1);
    let (code, _) = probe(&world.ca, "http://localhost/", &world.caller, &roots).await;
    assert_eq!(code, 2);
}
