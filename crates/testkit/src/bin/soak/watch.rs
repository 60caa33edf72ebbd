//! Reads the metrics of the gateway, its memory use and its audit log.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::time::Duration;

use countersign_testkit::gateway::plain;
use serde_json::Value;

use crate::World;

pub(crate) async fn metrics(world: &World) -> String {
    plain(world.gateway.admin(), "GET", "/metrics", &[])
        .await
        .body
}

/// Returns the value of a metric series. Returns 0 if the series does not exist yet.
pub(crate) fn metric(metrics: &str, series: &str) -> u64 {
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
        .unwrap_or(0)
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

/// Prints one line about the progress of the test.
pub(crate) async fn report(world: &World) {
    let metrics = metrics(world).await;
    eprintln!(
        "{} KiB, {} connections, {:?}",
        resident_kib(world.gateway.pid()),
        metric(&metrics, "countersign_connections_open"),
        world.ledger.counts()
    );
}

/// Waits until the gateway has no open connection. Then returns the gateway's memory in KiB.
pub(crate) async fn at_rest(world: &World) -> u64 {
    let mut open = 0;
    for _ in 0..150 {
        open = metric(&metrics(world).await, "countersign_connections_open");
        if open == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    if open > 0 {
        world.ledger.fault(format!(
            "{open} connections stay open though no caller is there"
        ));
    }
    // The gateway frees buffers a little later. Therefore the smallest of several samples is
    // used.
    let mut least = u64::MAX;
    for _ in 0..20 {
        least = least.min(resident_kib(world.gateway.pid()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eprintln!("at rest: {least} KiB");
    least
}

/// Checks that each request with a complete response has exactly one audit line, and that
/// this line says that the request was allowed.
pub(crate) fn audited(world: &World) {
    let path = world.gateway.directory().join("audit.jsonl");
    let file = std::fs::File::open(&path).expect("the audit log");
    let mut seen: HashMap<String, (u32, bool)> = HashMap::new();
    for line in BufReader::new(file).lines() {
        let line = line.expect("an audit line");
        let Ok(line) = serde_json::from_str::<Value>(&line) else {
            world
                .ledger
                .fault(format!("an audit line is not JSON: {line}"));
            continue;
        };
        if line["event"] == "request"
            && let Some(path) = line["path"].as_str()
        {
            let entry = seen.entry(path.to_owned()).or_default();
            entry.0 += 1;
            entry.1 |= line["decision"] == "allowed";
        }
    }
    let mut missing = 0;
    let mut wrong = Vec::new();
    for path in world.ledger.all_answered() {
        match seen.get(&path) {
            Some((1, true)) => {}
            None => missing += 1,
            Some(other) => wrong.push(format!("{path} {other:?}")),
        }
    }
    if missing > 0 {
        world
            .ledger
            .fault(format!("{missing} answered requests left no audit line"));
    }
    if let Some(first) = wrong.first() {
        world.ledger.fault(format!(
            "{} requests left other lines, for example {first}",
            wrong.len()
        ));
    }
}
