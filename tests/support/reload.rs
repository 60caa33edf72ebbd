//! Changes while a gateway runs, and waiting until it has noticed them.

use std::time::Duration;

use countersign_testkit::gateway::plain;
use countersign_testkit::{DEADLINE, Gateway, until};
use serde_json::Value;

use super::replace;

/// Waits until this generation of the configuration, or a later one, is in service.
pub(crate) async fn generation(gateway: &Gateway, wanted: u64) {
    until("a reload", async || {
        let ready = plain(gateway.admin(), "GET", "/readyz", &[]).await.json();
        ready["generation"].as_u64().unwrap() >= wanted
    })
    .await;
}

/// Waits until the gateway has logged that it loaded a changed configuration, or a file
/// that the configuration names.
pub(crate) async fn reloaded(gateway: &Gateway) {
    until("a reload", async || {
        let said = gateway.stderr();
        said.contains("configuration reloaded") || said.contains("and is in service")
    })
    .await;
}

/// Changes the configuration and waits until the change is in service.
pub(crate) async fn change(gateway: &Gateway, edit: impl Fn(String) -> String) {
    // Files that the configuration names are read by themselves: the generation says
    // nothing of the configuration.
    let reloads = || gateway.stderr().matches("configuration reloaded").count();
    let before = reloads();
    let config = gateway.config_file();
    let text = std::fs::read_to_string(&config).unwrap();
    replace(&config, edit(text));
    until("a reload of the configuration", async || reloads() > before).await;
}

/// Waits until `/readyz` of the operators' listener mentions `wanted`, or no longer
/// does, and returns what it says then.
pub(crate) async fn readyz(gateway: &Gateway, wanted: &str, there: bool) -> Value {
    let wait = async {
        loop {
            let answer = plain(gateway.admin(), "GET", "/readyz", &[]).await;
            assert_eq!(answer.status, 200, "an alarm is no outage: {answer:?}");
            if answer.body.contains(wanted) == there {
                return answer.json();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(DEADLINE, wait).await {
        Ok(answer) => answer,
        Err(_) => panic!("{wanted:?}, {there}:\n{}", gateway.stderr()),
    }
}
