//! Kept chains: `explain` repeats past decisions, and shows how new trust settings would affect
//! recent callers.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_testkit::{Credentials, TestCa, in_time, until};
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
    let refused = ended.json()["against"]["refused"].clone();
    assert_eq!(refused.as_array().unwrap().len(), 1, "{refused}");
    assert_eq!(refused[0]["reason"], "certificate-revoked");
    assert_eq!(refused[0]["serial"], revoked.serial_hex());

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
    for arguments in [
        &["check", "--against", log][..],
        &["explain", "--audit", log, "--request-id", id],
    ] {
        let ended = run(arguments, &gateway.config_file()).await;
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains("[audit] chains"), "{}", ended.stderr);
    }
}
