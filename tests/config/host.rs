//! `countersign check` looks at the machine: addresses, sockets, and files that the gateway writes.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use countersign_testkit::{Gateway, Settings, TestCa, in_time};
use tempfile::TempDir;

use super::{change, initialized};
use crate::support::{BINARY, Run, World};

fn check(config: &Path, more: &[&str]) -> Run {
    Run::of(
        Command::new(BINARY)
            .arg("check")
            .args(more)
            .arg("--config")
            .arg(config)
            .env_remove("COUNTERSIGN_CONFIG"),
    )
}

/// Returns a configuration whose listeners use any free port.
fn with_free_ports() -> TempDir {
    let directory = initialized();
    change(&directory, "127.0.0.1:8443", "127.0.0.1:0");
    change(&directory, "127.0.0.1:9080", "127.0.0.1:0");
    change(&directory, "127.0.0.1:9901", "127.0.0.1:0");
    directory
}

#[test]
fn every_obstacle_of_the_machine_is_an_error_at_once_and_nothing_is_made() {
    let directory = with_free_ports();
    let config = directory.path().join("countersign.toml");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    change(
        &directory,
        "address = \"127.0.0.1:0\"",
        &format!("address = \"{address}\""),
    );
    std::fs::write(directory.path().join("file"), "x").unwrap();
    change(
        &directory,
        "file = \"audit.jsonl\"",
        "file = \"nowhere/audit.jsonl\"\nchains = \"file/chains\"",
    );
    change(&directory, "\"deny.json\"", "\"nowhere/deny.json\"");
    change(&directory, "\"admin.sock\"", "\"file\"");
    // An error of the file itself is reported together with them.
    change(&directory, "certs/trust.pem", "certs/missing.pem");
    let run = check(&config, &[]);
    assert_eq!(run.code, 2, "{run:?}");
    for part in [
        "the configuration has 6 errors".to_owned(),
        format!("cannot listen on {address}: Address already in use"),
        "nowhere/audit.jsonl cannot be made in".to_owned(),
        "file/chains".to_owned(),
        "nowhere/deny.json cannot be made in".to_owned(),
        "file is not a socket".to_owned(),
        "certs/missing.pem: No such file".to_owned(),
    ] {
        assert!(
            run.stderr.contains(&part),
            "no {part:?} in:\n{}",
            run.stderr
        );
    }
    let run = check(&config, &["--json"]);
    let errors = run.json()["errors"].as_array().unwrap().clone();
    assert!(
        errors.iter().all(|error| error["line"].is_u64()),
        "{errors:?}"
    );
    let run = check(&config, &["--files-only"]);
    assert!(run.stderr.contains("has 1 error"), "{}", run.stderr);
    assert!(!directory.path().join("nowhere").exists());
    drop(taken);
}

#[test]
fn what_a_start_makes_itself_is_no_obstacle_and_is_not_made() {
    let directory = with_free_ports();
    change(
        &directory,
        "file = \"audit.jsonl\"",
        "file = \"audit.jsonl\"\nchains = \"var/chains\"",
    );
    let run = check(&directory.path().join("countersign.toml"), &[]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{run:?}");
    for name in ["audit.jsonl", "var", "deny.json", "admin.sock"] {
        assert!(!directory.path().join(name).exists(), "{name}");
    }
}

/// Names the addresses of a running gateway in its configuration.
fn pin(gateway: &Gateway) {
    let config = gateway.config_file();
    let mut text = std::fs::read_to_string(&config).unwrap();
    // The tables are sorted by name.
    for address in [gateway.admin(), gateway.listener(), gateway.public()] {
        assert!(text.contains("\"127.0.0.1:0\""), "{text}");
        text = text.replacen("\"127.0.0.1:0\"", &format!("\"{address}\""), 1);
    }
    std::fs::write(&config, text).unwrap();
}

#[tokio::test]
async fn the_gateway_that_runs_with_the_configuration_is_not_in_the_way() {
    let world = World::with(|settings, echo| {
        settings
            .set("admin", "socket", "\"admin.sock\"")
            .everything_to(echo)
    })
    .await;
    let gateway = &world.gateway;
    pin(gateway);
    let mut session = world.client().session().await.unwrap();
    assert_eq!(session.get("/before").await.unwrap().status, 200);
    let run = check(&gateway.config_file(), &["--json"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.json()["running_gateway"], gateway.pid());
    let run = check(&gateway.config_file(), &[]);
    assert_eq!(run.code, 0, "{run:?}");
    let note = format!(
        "note: a gateway runs with this configuration, process {}",
        gateway.pid()
    );
    assert!(run.stderr.contains(&note), "{}", run.stderr);
    // Nothing was disturbed: the connection lives, new ones are accepted, and no line was written
    // about the check.
    assert_eq!(session.get("/after").await.unwrap().status, 200);
    assert_eq!(world.client().get("/new").await.unwrap().status, 200);
    world
        .gateway
        .audit()
        .at_least(3, "requests", |_| true)
        .await;
    for line in gateway.audit().lines() {
        assert_eq!(line["event"], "request", "{line}");
    }
}

/// A gateway that hangs takes no connections from its socket. When the queue of the socket is full,
/// connecting waits without end.
#[tokio::test]
async fn a_gateway_that_hangs_does_not_hold_up_the_check() {
    let directory = with_free_ports();
    let socket = directory.path().join("admin.sock");
    let listener = tokio::net::UnixSocket::new_stream().unwrap();
    listener.bind(&socket).unwrap();
    let _listener = listener.listen(0).unwrap();
    let mut queued = Vec::new();
    loop {
        assert!(queued.len() < 100, "the queue has no end");
        let next = tokio::net::UnixSocket::new_stream().unwrap();
        match next.connect(&socket).await {
            Ok(stream) => queued.push(stream),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                break;
            }
        }
    }
    let mut command = tokio::process::Command::new(BINARY);
    command
        .args(["check", "--config"])
        .arg(directory.path().join("countersign.toml"))
        .kill_on_drop(true);
    let run = in_time("a check", Run::of_async(&mut command)).await;
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{run:?}");
}

#[tokio::test]
async fn an_address_in_use_is_a_warning_if_its_owner_is_unknown() {
    let ca = TestCa::new("example.org");
    let echo = countersign_testkit::Echo::start().await;
    let settings = Settings::new(&ca).everything_to(echo.address());
    let gateway = Gateway::start(BINARY, &settings).await;
    pin(&gateway);
    let run = check(&gateway.config_file(), &[]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stderr.contains("warning: "), "{}", run.stderr);
    assert!(
        run.stderr.contains("Address already in use"),
        "{}",
        run.stderr
    );
}
