//! What the gateway logs: for people, for programs, and nothing if that is wanted.

use std::process::Command;

use countersign_testkit::{Gateway, Settings, TestCa, until};
use serde_json::Value;

use crate::support::{BINARY, Run, World, replace};

/// Writes a configuration that is refused, and waits until that was logged.
async fn refuse_a_configuration(gateway: &Gateway) {
    let config = gateway.config_file();
    let text = std::fs::read_to_string(&config).unwrap();
    replace(&config, format!("{text}\n[nonsense]\n"));
    until("the refusal", async || {
        let said = gateway.stderr();
        said.contains("the configuration in service stays") && said.contains("nonsense")
    })
    .await;
}

async fn world(arguments: &'static [&'static str]) -> World {
    World::with(|settings, echo| {
        settings
            .arguments(arguments)
            .set("admin", "socket", "\"admin.sock\"")
            .set("deny_list", "file", "\"deny.json\"")
            .everything_to(echo)
    })
    .await
}

fn deny(gateway: &Gateway) {
    let mut command = Command::new(BINARY);
    command.args(["deny", "add", "--identity", "spiffe://example.org/nobody"]);
    Run::of(command.arg("--config").arg(gateway.config_file())).done();
}

fn documents(gateway: &Gateway) -> Vec<Value> {
    let said = gateway.stderr();
    let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
    said.lines().map(read).collect()
}

/// A key that is pasted in place of its file's name is refused, and neither the log nor `/readyz`
/// repeats it.
#[tokio::test]
async fn a_pasted_key_is_not_logged() {
    const BODY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgdeadbeefdeadbeef";
    let world = world(&[]).await;
    let config = world.gateway.config_file();
    let text = std::fs::read_to_string(&config).unwrap();
    let key = world.gateway.directory().join("gateway.key");
    let pasted =
        format!("\"\"\"-----BEGIN PRIVATE KEY-----\\n{BODY}\\n-----END PRIVATE KEY-----\"\"\"");
    let with = text.replace(&format!("{:?}", key.display().to_string()), &pasted);
    assert_ne!(with, text);
    replace(&config, with);
    let ready = crate::support::readyz(&world.gateway, "the content of a file", true).await;
    assert!(!ready.to_string().contains(BODY), "{ready}");
    let said = world.gateway.stderr();
    assert!(said.contains("the content of a file"), "{said}");
    assert!(!said.contains(BODY), "{said}");
}

#[tokio::test]
async fn with_json_each_line_is_a_document() {
    let mut world = world(&["--json"]).await;
    refuse_a_configuration(&world.gateway).await;
    deny(&world.gateway);
    until("the operator's line", async || {
        world.gateway.stderr().contains("POST /deny")
    })
    .await;
    let documents = documents(&world.gateway);
    for document in &documents {
        for member in ["timestamp", "level", "message"] {
            assert!(document[member].is_string(), "{member}: {document}");
        }
    }
    let about = |words: &str| {
        documents
            .iter()
            .find(|document| document["message"].as_str().unwrap().contains(words))
            .unwrap_or_else(|| panic!("{words}: {documents:?}"))
    };
    assert_eq!(about("listening")["level"], "INFO");
    let refused = about("the configuration in service stays");
    assert_eq!(refused["level"], "ERROR");
    let operator = about("an operator");
    assert_eq!(operator["decision"], "allowed");
    assert_eq!(operator["level"], "INFO");
    world.gateway.terminate().await;
    assert!(world.gateway.ended().await.success());
}

/// Also the one that says why it does not start.
#[tokio::test]
async fn with_json_the_reason_of_a_failed_start_is_a_document() {
    let ca = TestCa::new("example.org");
    let settings = Settings::new(&ca)
        .arguments(&["--json"])
        .set("listener", "nonsense", "1");
    let failure = Gateway::try_start(BINARY, &settings).await.unwrap_err();
    assert_eq!(failure.status.code(), Some(2), "{failure}");
    assert_eq!(failure.stderr.lines().count(), 1, "{failure}");
    let document: Value = serde_json::from_str(&failure.stderr).unwrap();
    assert_eq!(document["level"], "ERROR");
    assert!(document["message"].as_str().unwrap().contains("nonsense"));
}

#[tokio::test]
async fn each_line_of_text_says_when_and_how_serious() {
    // With the excerpt of the refused configuration, which has several lines.
    let world = World::with(|settings, echo| {
        settings
            .log("info,countersign=debug")
            .set("admin", "socket", "\"admin.sock\"")
            .set("deny_list", "file", "\"deny.json\"")
            .everything_to(echo)
    })
    .await;
    refuse_a_configuration(&world.gateway).await;
    deny(&world.gateway);
    until("the operator's line", async || {
        world.gateway.stderr().contains("POST /deny")
    })
    .await;
    let said = world.gateway.stderr();
    for line in said.lines() {
        let mut words = line.split_ascii_whitespace();
        let time = words.next().unwrap();
        assert!(
            time.starts_with("20") && time.ends_with('Z'),
            "{line:?} in {said}"
        );
        let level = words.next().unwrap();
        assert!(
            ["ERROR", "WARN", "INFO", "DEBUG"].contains(&level),
            "{line:?}"
        );
    }
    assert!(said.contains(" ERROR the configuration"), "{said}");
    assert!(said.matches(" DEBUG ").count() > 3, "{said}");
    let operator = said.lines().find(|line| line.contains("an operator"));
    assert!(operator.unwrap().contains(" INFO "), "{said}");
}

#[tokio::test]
async fn quiet_is_errors_only() {
    let world = world(&["--quiet"]).await;
    deny(&world.gateway);
    refuse_a_configuration(&world.gateway).await;
    let said = world.gateway.stderr();
    assert!(said.lines().all(|line| line.contains(" ERROR ")), "{said}");
}

/// A misspelt level would select nothing, and hide every error.
#[tokio::test]
async fn an_unknown_level_is_an_error() {
    let ca = TestCa::new("example.org");
    let settings = |filter| {
        let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
        Settings::new(&ca).log(filter).everything_to(nowhere)
    };
    for filter in ["typo", "info,h2", "h2=loud"] {
        let failure = Gateway::try_start(BINARY, &settings(filter))
            .await
            .unwrap_err();
        assert_eq!(failure.status.code(), Some(2), "{failure}");
        for words in ["COUNTERSIGN_LOG", "off, error, warn, info, debug and trace"] {
            assert!(failure.stderr.contains(words), "{failure}");
        }
    }
    let said = Gateway::start(BINARY, &settings("h2=debug")).await.stderr();
    assert!(
        said.contains(" INFO "),
        "everything else is as ever: {said}"
    );
    let said = Gateway::start(BINARY, &settings("error")).await.stderr();
    assert_eq!(said, "");
    let mut demo = Command::new(BINARY);
    let demo = demo.arg("demo").env("COUNTERSIGN_LOG", "typo");
    Run::in_time(demo).refused(2, "COUNTERSIGN_LOG");
}
