//! Kept chains: past decisions replayed, and what new trust would mean for
//! callers seen lately.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use countersign_testkit::{Crl, Echo, Gateway, Settings, TestCa, in_time};
use serde_json::Value;
use tokio::process::Command;

const BINARY: &str = env!("CARGO_BIN_EXE_countersign");
const HOST: &str = "orders.example.org";

/// A gateway that keeps chains.
struct Keeping {
    ca: TestCa,
    gateway: Gateway,
    chains: PathBuf,
    list: PathBuf,
    _echo: Echo,
    _directory: tempfile::TempDir,
}

impl Keeping {
    async fn new() -> Self {
        let ca = TestCa::new("example.org");
        let echo = Echo::start().await;
        let directory = tempfile::tempdir().unwrap();
        let chains = directory.path().join("chains");
        let root = ca.write("root.crl", Crl::new().signed_by(ca.root()));
        let list = ca.write("issuing.crl", Crl::new().signed_by(ca.intermediate()));
        let crls = format!("crls = [\"{}\", \"{}\"]", root.display(), list.display());
        let settings = Settings::new(&ca)
            .trust(&ca, &crls)
            .set("audit", "chains", &format!("\"{}\"", chains.display()))
            .everything_to(echo.address());
        Self {
            gateway: Gateway::start(BINARY, &settings).await,
            ca,
            chains,
            list,
            _echo: echo,
            _directory: directory,
        }
    }

    fn audit_file(&self) -> PathBuf {
        self.gateway.directory().join("audit.jsonl")
    }

    fn revoke(&self, serial: &[u8]) {
        let newer = Crl::new().number(2).revoke(serial);
        let aside = self.list.with_extension("aside");
        std::fs::write(&aside, newer.signed_by(self.ca.intermediate())).unwrap();
        std::fs::rename(&aside, &self.list).unwrap();
    }

    /// Waits until the chain of an audit line was written.
    async fn kept(&self, line: &Value) {
        let id = line["chain"].as_str().unwrap().to_owned();
        let there = |directory: &str| self.chains.join(directory).join(format!("{id}.pem"));
        in_time("a kept chain", async {
            while !there("admitted").exists() && !there("refused").exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

async fn run(arguments: &[&str], config: &Path) -> Output {
    Command::new(BINARY)
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .await
        .unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn past_decisions_are_replayed_by_their_chains() {
    let world = Keeping::new().await;
    let caller = world.ca.client("/a");
    let client = world.gateway.client(HOST).with(&caller);
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
    let output = run(&arguments, &config).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = json(&output);
    assert_eq!(said["allowed"], true);
    assert_eq!(said["then"]["decision"], "allowed");
    assert_eq!(said["claims"]["sub"], world.ca.spiffe("/a"));

    // The same question, after the caller was revoked.
    world.revoke(caller.serial());
    let output = run(&arguments, &config).await;
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert_eq!(json(&output)["answer"]["reason"], "certificate-revoked");

    // A refused handshake has no request, and a chain all the same.
    let stranger = TestCa::new("example.org");
    let refused = world.gateway.client(HOST).with(&stranger.client("/a"));
    assert_eq!(refused.refusal().await.alert(), Some(48));
    let line = world.gateway.audit().handshake("unknown-issuer").await;
    world.kept(&line).await;
    let id = line["connection_id"].as_str().unwrap();
    let output = run(&["explain", "--audit", log, "--request-id", id], &config).await;
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("refused, unknown-issuer"), "{text}");

    let output = run(&["explain", "--audit", log, "--request-id", "x"], &config).await;
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[tokio::test]
async fn check_says_which_callers_new_trust_would_refuse() {
    let world = Keeping::new().await;
    let (revoked, other) = (world.ca.client("/revoked"), world.ca.client("/other"));
    for caller in [&revoked, &other] {
        let client = world.gateway.client(HOST).with(caller);
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
    let output = run(&arguments, &config).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(json(&output)["against"]["callers"], 2);

    world.revoke(revoked.serial());
    let output = run(&arguments, &config).await;
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let refused = json(&output)["against"]["refused"].clone();
    assert_eq!(refused.as_array().unwrap().len(), 1, "{refused}");
    assert_eq!(refused[0]["reason"], "certificate-revoked");
    assert_eq!(refused[0]["serial"], revoked.serial_hex());

    // The gateway says the same when it has reloaded.
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
    let ca = TestCa::new("example.org");
    let echo = Echo::start().await;
    let settings = Settings::new(&ca).everything_to(echo.address());
    let gateway = Gateway::start(BINARY, &settings).await;
    let client = gateway.client(HOST).with(&ca.client("/a"));
    assert_eq!(client.get("/a").await.unwrap().status, 200);
    let line = gateway.audit().request("/a").await;
    assert!(line["chain"].is_null(), "{line}");
    let log = gateway.directory().join("audit.jsonl");
    let log = log.to_str().unwrap();
    let id = line["request_id"].as_str().unwrap();
    for arguments in [
        &["check", "--against", log][..],
        &["explain", "--audit", log, "--request-id", id],
    ] {
        let output = run(arguments, &gateway.config_file()).await;
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(
            stderr(&output).contains("[audit] chains"),
            "{}",
            stderr(&output)
        );
    }
}
