//! Changes the configuration of a running gateway, and waits for the reload.

use std::time::Duration;

use countersign_testkit::gateway::plain;
use countersign_testkit::{DEADLINE, Gateway, until};
use serde_json::Value;

use super::replace;

/// Waits until the gateway uses generation `wanted` of its configuration, or a later one.
pub(crate) async fn generation(gateway: &Gateway, wanted: u64) {
    until("a reload", async || {
        let ready = plain(gateway.admin(), "GET", "/readyz", &[]).await.json();
        ready["generation"].as_u64().unwrap() >= wanted
    })
    .await;
}

/// Waits until the log says that a changed configuration, or a file that the configuration
/// names, was loaded.
pub(crate) async fn reloaded(gateway: &Gateway) {
    until("a reload", async || {
        let said = gateway.stderr();
        said.contains("configuration reloaded") || said.contains("and is in service")
    })
    .await;
}

/// Changes the configuration file and waits until the gateway uses the new configuration.
pub(crate) async fn change(gateway: &Gateway, edit: impl Fn(String) -> String) {
    // The function counts log messages, because the generation also increases when the gateway
    // reloads a file that the configuration names.
    let reloads = || gateway.stderr().matches("configuration reloaded").count();
    let before = reloads();
    let config = gateway.config_file();
    let text = std::fs::read_to_string(&config).unwrap();
    replace(&config, edit(text));
    until("a reload of the configuration", async || reloads() > before).await;
}

/// If `there` is true, waits until `/readyz` of the admin listener contains `wanted`. Otherwise
/// waits until it does not contain `wanted`. Returns the response.
pub(crate) async fn readyz(gateway: &Gateway, wanted: &str, there: bool) -> Value {
    let wait = async {
        loop {
            let answer = plain(gateway.admin(), "GET", "/readyz", &[]).await;
            // An alarm is no outage, unless no caller can be served.
            let expected = match answer.json()["status"].as_str() {
                Some("unable") => 503,
                _ => 200,
            };
            assert_eq!(answer.status, expected, "{answer:?}");
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
