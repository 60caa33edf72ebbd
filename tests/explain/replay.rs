//! Kept chains: `explain` repeats past decisions, and shows how new trust settings would affect
//! recent callers.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_testkit::{Credentials, Crl, Gateway, TestCa, in_time, until};
use serde_json::Value;
use tokio::process::Command;

use crate::support::{BINARY, RevocationLists, Run, World};

/// A gateway that keeps the chains of its callers.
struct Keeping {
    world: World,
    chains: PathBuf,
    lists: RevocationLists,
    _directory: tempfile::TempDir,
}

impl Deref for Keeping {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Keeping {
    async fn new() -> Self {
        let ca = TestCa::new("example.org");
        let directory = tempfile::tempdir().unwrap();
        let chains = directory.path().join("chains");
        let lists = RevocationLists::of(&ca);
        let world = World::of(ca, |settings, ca, echo| {
            settings
                .trust(ca, &lists.setting())
                .set("audit", "chains", &format!("{chains:?}"))
                .everything_to(echo)
        })
        .await;
        Self {
            world,
            chains,
            lists,
            _directory: directory,
        }
    }

    fn audit_file(&self) -> PathBuf {
        self.gateway.directory().join("audit.jsonl")
    }

    fn revoke(&self, caller: &Credentials) {
        self.lists.revoke(&self.ca, caller);
    }

    /// Waits until the gateway has written the chain of an audit line.
    async fn kept(&self, line: &Value) {
        let id = line["chain"].as_str().unwrap().to_owned();
        let there = |directory: &str| self.chains.join(directory).join(format!("{id}.pem"));
        until("a kept chain", async || {
            there("admitted").exists() || there("refused").exists()
        })
        .await;
    }
}

async fn run(arguments: &[&str], config: &Path) -> Run {
    let mut command = Command::new(BINARY);
    Run::of_async(command.args(arguments).arg("--config").arg(config)).await
}

#[tokio::test]
async fn past_decisions_are_replayed_by_their_chains() {
    let world = Keeping::new().await;
    let caller = world.ca.client("/a");
    let client = world.anonymous().with(&caller);
    for _ in 0..3 {
        assert_eq!(client.get("/orders/7?secret=1").await.unwrap().status, 200);
    }
    let line = world.gateway.audit().request("/orders/7").await;
    world.kept(&line).await;
    let admitted = std::fs::read_dir(world.chains.join("admitted")).unwrap();
    assert_eq!(admitted.count(), 1, "each chain once");
    let id = line["request_id"].as_str().unwrap();
    let (log, config) = (world.audit_file(), world.gateway.config_file());
    let log = log.to_str().unwrap();
    let arguments = ["--json", "explain", "--audit", log, "--request-id", id];
    let ended = run(&arguments, &config).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let said = ended.json();
    assert_eq!(said["allowed"], true);
    assert_eq!(said["then"]["decision"], "allowed");
    assert_eq!(said["claims"]["sub"], world.ca.spiffe("/a"));

    // Explains the same request after the caller was revoked.
    world.revoke(&caller);
    let ended = run(&arguments, &config).await;
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    assert_eq!(ended.json()["answer"]["reason"], "certificate-revoked");

    // A refused handshake has no request, but the gateway keeps its chain.
    let stranger = TestCa::new("example.org");
    let refused = world.anonymous().with(&stranger.client("/a"));
    assert_eq!(refused.refusal().await.alert(), Some(48));
    let line = world.gateway.audit().handshake("unknown-issuer").await;
    world.kept(&line).await;
    let id = line["connection_id"].as_str().unwrap();
    let ended = run(&["explain", "--audit", log, "--request-id", id], &config).await;
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    let text = ended.stdout;
    assert!(text.contains("refused, unknown-issuer"), "{text}");

    let ended = run(&["explain", "--audit", log, "--request-id", "x"], &config).await;
    assert_eq!(ended.code, 2, "{}", ended.stderr);
}

#[tokio::test]
async fn check_says_which_callers_new_trust_would_refuse() {
    let world = Keeping::new().await;
    let (revoked, other) = (world.ca.client("/revoked"), world.ca.client("/other"));
    for caller in [&revoked, &other] {
        let client = world.anonymous().with(caller);
        assert_eq!(client.get("/a").await.unwrap().status, 200);
    }
    let lines = world
        .gateway
        .audit()
        .at_least(2, "requests", |line| line["event"] == "request")
        .await;
    for line in &lines {
        world.kept(line).await;
    }
    let (log, config) = (world.audit_file(), world.gateway.config_file());
    let arguments = ["--json", "check", "--against", log.to_str().unwrap()];
    let ended = run(&arguments, &config).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(ended.json()["against"]["callers"], 2);

    world.revoke(&revoked);
    let ended = run(&arguments, &config).await;
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    let changes = ended.json()["against"]["changes"].clone();
    assert_eq!(changes.as_array().unwrap().len(), 1, "{changes}");
    assert_eq!(changes[0]["identity"], world.ca.spiffe("/revoked"));
    assert_eq!(changes[0]["before"], "allowed");
    assert_eq!(changes[0]["after"], "certificate-revoked");
    assert_eq!(changes[0]["serial"], revoked.serial_hex());

    // The gateway logs the same preview when it has reloaded.
    in_time("the preview in the log", async {
        loop {
            let said = world.gateway.stderr();
            let about = |line: &str| {
                line.contains("refused from now on") && line.contains(&revoked.serial_hex())
            };
            if said.lines().any(about) {
                assert!(
                    !said.contains(&format!("serial=\"{}\"", other.serial_hex())),
                    "{said}"
                );
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn without_kept_chains_both_say_what_is_missing() {
    let world = World::open().await;
    let gateway = &world.gateway;
    assert_eq!(world.client().get("/a").await.unwrap().status, 200);
    let line = gateway.audit().request("/a").await;
    assert!(line["chain"].is_null(), "{line}");
    let log = gateway.directory().join("audit.jsonl");
    let log = log.to_str().unwrap();
    let id = line["request_id"].as_str().unwrap();
    let arguments = ["explain", "--audit", log, "--request-id", id];
    let ended = run(&arguments, &gateway.config_file()).await;
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("[audit] chains"), "{}", ended.stderr);
    // Routes can be compared without chains.
    let ended = run(&["check", "--against", log], &gateway.config_file()).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    for part in ["Nothing would change", "[audit] chains"] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
}

/// Writes a configuration beside that of the gateway, in which one text is replaced.
fn candidate(gateway: &Gateway, from: &str, to: &str) -> PathBuf {
    let text = std::fs::read_to_string(gateway.config_file()).unwrap();
    assert!(text.contains(from), "{text}");
    let path = gateway.directory().join("candidate.toml");
    std::fs::write(&path, text.replace(from, to)).unwrap();
    path
}

#[tokio::test]
async fn check_says_which_requests_other_routes_would_refuse_or_allow() {
    let world = World::with(|settings, echo| {
        settings.upstream("orders", echo).route(
            "orders",
            "orders",
            "paths = [\"/orders/**\"]\ncallers = [\"spiffe://example.org/a\", \"spiffe://example.org/b\"]",
        )
    })
    .await;
    let gateway = &world.gateway;
    for (path, url, status) in [
        ("/a", "/orders/1", 200),
        ("/b", "/orders/2", 200),
        ("/b", "/orders/3", 200),
        ("/c", "/orders/4", 403),
        ("/a", "/elsewhere", 404),
    ] {
        assert_eq!(world.client_as(path).get(url).await.unwrap().status, status);
    }
    gateway.audit().at_least(5, "requests", |_| true).await;
    let log = gateway.directory().join("audit.jsonl");
    let arguments = ["--json", "check", "--against", log.to_str().unwrap()];
    let same = run(&arguments, &gateway.config_file()).await;
    assert_eq!(same.code, 0, "{}", same.stderr);
    assert_eq!(same.json()["against"]["requests"], 5);
    assert_eq!(same.json()["against"]["changes"], Value::Array(Vec::new()));

    // One caller is removed, and another is added.
    let config = candidate(gateway, "spiffe://example.org/b", "spiffe://example.org/c");
    let ended = run(&arguments, &config).await;
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    let changes = ended.json()["against"]["changes"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(changes.len(), 2, "{changes:?}");
    let of = |identity: &str| {
        let mut rows = changes.iter();
        rows.find(|row| row["identity"] == world.ca.spiffe(identity))
            .unwrap()
    };
    let lost = of("/b");
    for (member, value) in [
        ("route", "orders"),
        ("method", "GET"),
        ("before", "allowed"),
        ("after", "caller-not-allowed"),
        ("path", "/orders/2"),
    ] {
        assert_eq!(lost[member], value, "{member}: {lost}");
    }
    assert_eq!(
        (&lost["status"], &lost["count"]),
        (&403.into(), &2.into()),
        "{lost}"
    );
    assert!(
        lost["first"].as_str().unwrap() <= lost["last"].as_str().unwrap(),
        "{lost}"
    );
    let won = of("/c");
    assert_eq!(won["before"], "caller-not-allowed");
    assert_eq!(won["after"], "allowed");
    let text = run(&arguments[1..], &config).await.stdout;
    let line = format!(
        "2 allowed requests would now get 403 caller-not-allowed: GET /orders/2 by {} (route orders)",
        world.ca.spiffe("/b")
    );
    assert!(text.contains(&line), "{text}");
}

/// The log has paths as they were sent. They are read as the gateway reads those of requests.
#[tokio::test]
async fn check_reads_encoded_paths_of_a_log() {
    let world = World::with(|settings, echo| {
        settings
            .upstream("orders", echo)
            .route("cafe", "orders", "paths = [\"/café\"]\ncallers = [\"*\"]")
            .route(
                "files",
                "orders",
                "paths = [\"/files/**\"]\ncallers = [\"*\"]\n\
                 path_encoding = \"allow-encoded-slash\"",
            )
    })
    .await;
    let gateway = &world.gateway;
    for path in ["/caf%C3%A9", "/%63af%c3%a9", "/files/a%2Fb"] {
        let response = world.client_as("/a").get(path).await;
        assert_eq!(response.unwrap().status, 200, "{path}");
    }
    gateway.audit().at_least(3, "requests", |_| true).await;
    let log = gateway.directory().join("audit.jsonl");
    let arguments = ["--json", "check", "--against", log.to_str().unwrap()];
    let same = run(&arguments, &gateway.config_file()).await;
    assert_eq!(same.code, 0, "{}", same.stderr);
    assert_eq!(same.json()["against"]["changes"], Value::Array(Vec::new()));
    let config = candidate(gateway, "allow-encoded-slash", "strict");
    let ended = run(&arguments, &config).await;
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    let changed = &ended.json()["against"]["changes"][0];
    assert_eq!(changed["path"], "/files/a%2Fb", "{changed}");
    assert_eq!(changed["after"], "malformed-request", "{changed}");
}

#[tokio::test]
async fn check_tells_a_lost_route_from_a_won_caller() {
    let world = World::with(|settings, echo| {
        settings.upstream("orders", echo).route(
            "orders",
            "orders",
            "paths = [\"/orders/**\"]\ncallers = [\"spiffe://example.org/b\"]",
        )
    })
    .await;
    let gateway = &world.gateway;
    for (path, status) in [("/b", 200), ("/c", 403)] {
        assert_eq!(
            world.client_as(path).get("/orders/2").await.unwrap().status,
            status
        );
    }
    gateway.audit().at_least(2, "requests", |_| true).await;
    let log = gateway.directory().join("audit.jsonl");
    let arguments = ["--json", "check", "--against", log.to_str().unwrap()];
    // A path that no route has any longer is 404, and a caller that only gains is no reason for 3.
    let config = candidate(gateway, "/orders/**", "/orders/1");
    let ended = run(&arguments, &config).await;
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    assert_eq!(ended.json()["against"]["changes"][0]["after"], "no-route");
    let config = candidate(
        gateway,
        "\"spiffe://example.org/b\"",
        "\"spiffe://example.org/**\"",
    );
    let ended = run(&arguments, &config).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(
        ended.json()["against"]["changes"].as_array().unwrap().len(),
        1
    );
}

/// A certificate that was replaced is not used any more. Its revocation refuses no request.
#[tokio::test]
async fn check_leaves_out_certificates_that_were_replaced() {
    let world = Keeping::new().await;
    let (old, new) = (world.ca.client("/renewed"), world.ca.client("/renewed"));
    for (caller, path) in [(&old, "/old"), (&new, "/new")] {
        let client = world.anonymous().with(caller);
        assert_eq!(client.get(path).await.unwrap().status, 200);
        world.kept(&world.gateway.audit().request(path).await).await;
    }
    let (log, config) = (world.audit_file(), world.gateway.config_file());
    let arguments = ["--json", "check", "--against", log.to_str().unwrap()];
    world.revoke(&old);
    let ended = run(&arguments, &config).await;
    assert_eq!(ended.code, 0, "{}", ended.stdout);
    assert_eq!(ended.json()["against"]["callers"], 1);
    // The certificate in use does count, also for the requests of its predecessor.
    world
        .lists
        .publish(&world.ca, Crl::new().number(3).revoke(new.serial()));
    let ended = run(&arguments, &config).await;
    assert_eq!(ended.code, 3, "{}", ended.stdout);
    let changes = ended.json()["against"]["changes"].clone();
    assert_eq!(changes[0]["serial"], new.serial_hex(), "{changes}");
    assert_eq!(changes[0]["count"], 2, "{changes}");
}
