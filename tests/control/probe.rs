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

/// Runs a probe with these arguments, and returns its exit code and JSON.
async fn ask(arguments: &[&str]) -> (i32, Value) {
    let mut command = Command::new(BINARY);
    let run = Run::of_async(command.args(["--json", "probe"]).args(arguments)).await;
    let said = serde_json::from_str(&run.stdout).unwrap_or(Value::String(run.stderr));
    (run.code, said)
}

#[tokio::test]
async fn the_request_is_the_one_that_was_described() {
    let world = World::open().await;
    let cert = world.ca.write("me.pem", world.caller.chain_pem());
    let key = world.ca.write("me.key", world.caller.key_pem());
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let body = world
        .ca
        .write("body.json", "{\"a\":1}")
        .display()
        .to_string();
    let token = world
        .ca
        .write("token", "abc.def.ghi\n")
        .display()
        .to_string();
    let roots = world.ca.root_file().display().to_string();
    let own = ["--cert", &*cert, "--key", &*key, "--cacert", &*roots];
    let data = format!("@{body}");
    for (more, method, content, fields) in [
        (
            &["-X", "DELETE", "-H", "X-One: 1", "-H", "X-One: 2"][..],
            "DELETE",
            "",
            &[("x-one", "1"), ("x-one", "2")][..],
        ),
        (
            &["-d", "a=1", "--token", &*token],
            "POST",
            "a=1",
            &[("content-type", "application/x-www-form-urlencoded")],
        ),
        (
            &[
                "-X",
                "PUT",
                "-d",
                &*data,
                "-H",
                "Content-Type: application/json",
            ],
            "PUT",
            "{\"a\":1}",
            &[("content-type", "application/json")],
        ),
    ] {
        let url = world.url("/asked");
        let (code, said) = ask(&[&[&*url][..], &own, more].concat()).await;
        assert_eq!(code, 0, "{said}");
        let seen = world.echo.seen().pop().unwrap();
        assert_eq!(seen["method"], method, "{seen}");
        assert_eq!(seen["path"], "/asked");
        if !content.is_empty() {
            assert_eq!(seen["body_len"], content.len(), "{seen}");
        }
        let received = seen["headers"].as_array().unwrap();
        for (name, value) in fields {
            let field = serde_json::json!([name, value]);
            assert!(received.contains(&field), "{name}: {seen}");
        }
    }
}

#[tokio::test]
async fn arguments_that_contradict_or_mean_nothing_are_refused() {
    let world = World::open_to_all().await;
    let token = world
        .ca
        .write("token", "abc.def.ghi\n")
        .display()
        .to_string();
    let url = world.url("/a");
    for more in [
        &["--token", &*token, "-H", "Authorization: x"][..],
        &["-H", "no colon"],
        &["-H", "a b: c"],
        &["-X", "CONNECT"],
        &["-d", "@/nonexistent"],
        &["--token", "-", "-d", "@-"],
        &["--resolve", "nonsense"],
    ] {
        let (code, said) = ask(&[&[&*url][..], more].concat()).await;
        assert_eq!(code, 2, "{more:?}: {said}");
    }
    assert_eq!(world.echo.requests(), 0);
}

#[tokio::test]
async fn without_a_certificate_it_is_a_caller_without_certificate() {
    let open = World::open_to_all().await;
    let (code, said) = ask(&[&open.url("/a")]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(said["issued_by_acceptable"], Value::Null);
    assert_eq!(said["notes"], serde_json::json!([]));
    let world = World::open().await;
    let (code, said) = ask(&[&world.url("/a")]).await;
    assert_eq!(code, 3, "{said}");
    assert_eq!(said["alert"]["number"], 116, "{said}");
    assert_eq!(codes(&said), ["no-certificate"]);
    assert_eq!(said["certificate_requested"], true);
    let (code, said) = ask(&[&world.url("/a"), "--cert", "me.pem"]).await;
    assert_eq!(code, 2, "{said}");
    assert!(said.as_str().unwrap().contains("--key"), "{said}");
}

#[tokio::test]
async fn the_address_can_be_given() {
    let world = World::open_to_all().await;
    let port = world.gateway.listener().port();
    let url = format!("https://orders.example.org:{port}/a");
    let roots = world.ca.root_file().display().to_string();
    let resolve = format!("orders.example.org:{port}:127.0.0.1");
    let (code, said) = ask(&[&url, "--resolve", &resolve, "--cacert", &roots]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(said["server"]["verified"], true, "{said}");
    // One that has no effect is a mistake.
    for resolve in [
        "other.example.org:443:127.0.0.1",
        "orders.example.org:1:127.0.0.1",
    ] {
        let (code, said) = ask(&[&url, "--resolve", resolve]).await;
        assert_eq!(code, 2, "{said}");
        assert!(said.as_str().unwrap().contains("has no effect"), "{said}");
    }
}

#[tokio::test]
async fn a_certificate_without_names_is_noticed() {
    let world = World::open().await;
    let roots = world.ca.root_file();
    let nameless = world.ca.issue(Leaf::new().common_name("checkout"));
    let (code, said) = probe(&world.ca, &world.url("/a"), &nameless, &roots).await;
    assert_eq!(code, 3, "{said}");
    let notes = said["notes"].to_string();
    assert!(notes.contains("no subject alternative name"), "{said}");
    assert!(notes.contains("CN=checkout"), "{said}");
    assert!(codes(&said).contains(&"no-identity"), "{said}");
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
