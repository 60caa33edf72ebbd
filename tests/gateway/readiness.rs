//! Problems: `/readyz`, `status` and the metrics name them, with a command that mends each. Only a
//! gateway that can serve no caller is not ready.

use std::fs;
use std::time::Duration;

use countersign_testkit::gateway::plain;
use countersign_testkit::{DEADLINE, Gateway, Leaf, until};
use serde_json::Value;

use super::material::problem;
use crate::support::{BINARY, Run, World, readyz, replace, revocable};

async fn metrics(gateway: &Gateway) -> String {
    plain(gateway.admin(), "GET", "/metrics", &[]).await.body
}

fn has_line(metrics: &str, line: &str) -> bool {
    metrics.lines().any(|other| other == line)
}

/// A log whose directory is gone cannot be opened again after a rotation. The tests may run as root,
/// so that permissions are no obstacle.
#[tokio::test]
async fn an_audit_log_that_cannot_be_written_is_a_problem_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (logs, away) = (directory.path().join("logs"), directory.path().join("away"));
    fs::create_dir(&logs).unwrap();
    let file = logs.join("audit.jsonl");
    let world = World::with(|settings, echo| {
        settings
            .set("audit", "file", &format!("{file:?}"))
            .set("admin", "socket", "\"admin.sock\"")
            .everything_to(echo)
    })
    .await;
    let text = || fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(world.client().get("/first").await.unwrap().status, 200);
    until("a line", async || text().contains("/first")).await;
    let before = metrics(&world.gateway).await;
    assert!(
        has_line(
            &before,
            "countersign_audit_lines_total{sink=\"file\",result=\"written\"} 1"
        ),
        "{before}"
    );
    assert!(has_line(
        &before,
        "countersign_problem{code=\"audit-unwritable\"} 0"
    ));

    fs::rename(&logs, &away).unwrap();
    assert_eq!(world.client().get("/second").await.unwrap().status, 200);
    let ready = readyz(&world.gateway, "audit-unwritable", true).await;
    assert_eq!(ready["status"], "ready");
    let found = problem(&ready, "audit-unwritable");
    assert_eq!(found["severity"], "error");
    assert!(found["since"].as_str().unwrap().ends_with('Z'), "{found}");
    assert_eq!(found["command"], format!("df -h {}", logs.display()));
    let detail = found["detail"].as_str().unwrap();
    assert!(detail.contains("none is lost yet"), "{detail}");
    let during = metrics(&world.gateway).await;
    assert!(
        has_line(&during, "countersign_problem{code=\"audit-unwritable\"} 1"),
        "{during}"
    );
    let status = world.by_socket(&["status"]).await;
    assert_eq!(status.code, 3);
    for part in [
        "PROBLEM audit-unwritable",
        "try: df -h",
        "audit log: 1 lines written, 0 lost",
    ] {
        assert!(status.stdout.contains(part), "{part}: {}", status.stdout);
    }

    fs::rename(&away, &logs).unwrap();
    readyz(&world.gateway, "audit-unwritable", false).await;
    until("the line that had to wait", async || {
        text().contains("/second")
    })
    .await;
}

#[tokio::test]
async fn a_gateway_that_can_serve_nobody_is_not_ready_and_lives() {
    let ca = countersign_testkit::TestCa::new("example.org");
    let short = ca.issue(Leaf::new().for_server().dns("localhost").valid(-60, 4));
    let world = World::of(ca, |settings, _, echo| {
        settings.server(&short).everything_to(echo)
    })
    .await;
    let gateway = &world.gateway;
    let ready = plain(gateway.public(), "GET", "/readyz", &[]).await;
    assert_eq!(
        (ready.status, ready.json()["status"].as_str()),
        (200, Some("ready"))
    );
    let unable = async {
        loop {
            let answer = plain(gateway.admin(), "GET", "/readyz", &[]).await;
            if answer.status == 503 {
                return answer.json();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let answer = tokio::time::timeout(DEADLINE, unable).await.expect("503");
    assert_eq!(answer["status"], "unable");
    let found = problem(&answer, "unable-to-serve");
    assert!(
        found["detail"].as_str().unwrap().contains("has expired"),
        "{found}"
    );
    assert_eq!(found["command"], "countersign check");
    let public = plain(gateway.public(), "GET", "/readyz", &[]).await;
    assert_eq!(
        (public.status, public.json()["status"].as_str()),
        (503, Some("unable"))
    );
    for listener in [gateway.public(), gateway.admin()] {
        assert_eq!(plain(listener, "GET", "/healthz", &[]).await.status, 200);
    }
}

/// An empty list would say that there is no problem.
#[tokio::test]
async fn the_public_listener_names_no_problems_and_claims_not_that_there_are_none() {
    let world = World::open().await;
    let config = world.gateway.config_file();
    let good = fs::read_to_string(&config).unwrap();
    for broken in [false, true] {
        if broken {
            replace(&config, format!("{good}\n[surprise]\n"));
            readyz(&world.gateway, "surprise", true).await;
        }
        let public = plain(world.gateway.public(), "GET", "/readyz", &[]).await;
        let members: Vec<String> = match public.json() {
            Value::Object(members) => members.keys().cloned().collect(),
            other => panic!("{other}"),
        };
        assert_eq!(members, ["generation", "status"]);
        assert_eq!(public.status, 200);
    }
}

#[tokio::test]
async fn every_problem_has_a_code_that_is_listed_with_a_command() {
    let run = Run::of(std::process::Command::new(BINARY).args(["--json", "reasons", "--problems"]));
    assert_eq!(run.code, 0, "{run:?}");
    let listed = run.json()["problems"].as_array().unwrap().clone();
    for code in [
        "audit-unwritable",
        "endpoint-down",
        "crl-half-life",
        "configuration-refused",
    ] {
        let found = listed.iter().find(|problem| problem["code"] == code);
        let found = found.unwrap_or_else(|| panic!("{code}: {listed:?}"));
        for member in ["severity", "meaning", "command"] {
            assert!(
                !found[member].as_str().unwrap().is_empty(),
                "{member}: {found}"
            );
        }
    }
    // Each is a label of the metric, also while there is no such problem.
    let world = World::open().await;
    let metrics = metrics(&world.gateway).await;
    for problem in &listed {
        let code = problem["code"].as_str().unwrap();
        assert!(
            has_line(
                &metrics,
                &format!("countersign_problem{{code=\"{code}\"}} 0")
            ),
            "{code}: {metrics}"
        );
    }
    let run = Run::of(std::process::Command::new(BINARY).args(["reasons", "--problems"]));
    assert!(run.stdout.contains("countersign pki crl"), "{}", run.stdout);
}

#[tokio::test]
async fn metrics_tell_when_lists_are_due_and_how_many_are_denied() {
    let (world, _lists) = revocable().await;
    let text = metrics(&world.gateway).await;
    let due: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("countersign_crl_next_update_timestamp_seconds{"))
        .collect();
    assert_eq!(due.len(), 2, "{text}");
    for line in due {
        assert!(
            line.contains("trust_domain=\"example.org\",issuer=\"CN="),
            "{line}"
        );
        let time: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(time > 1_700_000_000, "{line}");
    }
    let world = World::with(|settings, echo| {
        settings
            .set("deny_list", "file", "\"deny.json\"")
            .set("admin", "socket", "\"admin.sock\"")
            .everything_to(echo)
    })
    .await;
    let file = world.gateway.directory().join("deny.json");
    let line = |count| {
        format!(
            "countersign_deny_list_entries{{source=\"{}\"}} {count}",
            file.display()
        )
    };
    let text = metrics(&world.gateway).await;
    assert!(has_line(&text, &line(0)), "{text}");
    let added = world
        .by_socket(&["deny", "add", "--identity", "spiffe://example.org/nobody"])
        .await;
    assert_eq!(added.code, 0, "{added:?}");
    let text = metrics(&world.gateway).await;
    assert!(has_line(&text, &line(1)), "{text}");
}

#[tokio::test]
async fn requests_are_counted_by_the_class_of_their_status() {
    let world = World::open().await;
    let client = world.client();
    assert_eq!(client.get("/a").await.unwrap().status, 200);
    assert_eq!(client.get("/a//b").await.unwrap().status, 400);
    let expected = [
        "countersign_requests_total{route=\"orders\",decision=\"allowed\",reason=\"\",status_class=\"2xx\"} 1",
        "countersign_requests_total{route=\"\",decision=\"refused\",reason=\"malformed-request\",status_class=\"4xx\"} 1",
    ];
    let text = metrics(&world.gateway).await;
    for line in expected {
        assert!(has_line(&text, line), "{line}\n{text}");
    }
}
