//! Runs h2spec, the conformance test suite for HTTP/2 servers, with the mTLS listener.

use std::time::Duration;

use countersign_testkit::skipped::tool;
use countersign_testkit::{Protocol, Relay};
use tokio::process::Command;

use crate::support::{HOST, World};

/// The parts of the suite. Together they include all cases, also those of the strict mode.
const PARTS: [&str; 3] = ["generic", "http2", "hpack"];
const CASES: usize = 146;

/// Returns the cases in a JUnit report: section and title, and whether the case failed.
fn cases(report: &str) -> Vec<(String, bool)> {
    let attribute = |element: &str, name: &str| {
        let (_, rest) = element.split_once(&format!("{name}=\""))?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    report
        .split("<testcase ")
        .skip(1)
        .map(|element| {
            let name = format!(
                "{}: {}",
                attribute(element, "package").unwrap(),
                attribute(element, "classname").unwrap()
            );
            let element = element.split("</testcase>").next().unwrap();
            let failed = element.contains("<failure") || element.contains("<error");
            (name, failed)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_of_h2spec_passes() {
    let world = World::open().await;
    let client = world.client().protocol(Protocol::Http2).host(HOST);
    let relay = Relay::start(&client).await;
    let directory = tempfile::tempdir().unwrap();
    let mut running = Vec::new();
    for part in PARTS {
        let report = directory.path().join(part);
        let child = Command::new("h2spec")
            .args([
                "--strict",
                "--host",
                "127.0.0.1",
                "--timeout",
                "5",
                "--port",
            ])
            .arg(relay.address().port().to_string())
            .arg("--junit-report")
            .arg(&report)
            .arg(part)
            .kill_on_drop(true)
            .output();
        running.push(async move {
            let output = tokio::time::timeout(Duration::from_secs(120), child).await;
            (output.expect("h2spec ends in time"), report)
        });
    }
    let mut seen = Vec::new();
    let mut text = String::new();
    for task in running.into_iter().map(tokio::spawn).collect::<Vec<_>>() {
        let (output, report) = task.await.unwrap();
        if !tool("h2spec", output.is_ok()) {
            return;
        }
        let output = output.unwrap();
        text.push_str(&String::from_utf8_lossy(&output.stdout));
        seen.extend(cases(&std::fs::read_to_string(report).unwrap()));
    }
    let failed: Vec<&str> = seen
        .iter()
        .filter(|(_, failed)| *failed)
        .map(|(name, _)| name.as_str())
        .collect();
    assert!(failed.is_empty(), "{failed:#?}\n{text}");
    assert_eq!(seen.len(), CASES, "{text}");
    // The gateway still works after the suite.
    assert_eq!(world.client().get("/healthy").await.unwrap().status, 200);
}
