//! Kills and restarts services, and reloads the configuration.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::task::JoinSet;

use crate::{World, watch};

pub(crate) fn start(world: &Arc<World>, workers: &mut JoinSet<()>) {
    workers.spawn(deaths(Arc::clone(world)));
    workers.spawn(reloads(Arc::clone(world)));
}

/// Waits for the time `length`, but at most until the end of the phase.
async fn pause(world: &World, length: Duration) {
    let until = tokio::time::Instant::now() + length;
    while !world.ledger.over() && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Kills an instance of a service, and restarts it 0.9 s later. Repeats this with all instances in
/// turn, until the phase ends.
async fn deaths(world: Arc<World>) {
    for turn in 0.. {
        pause(&world, Duration::from_millis(1700)).await;
        if world.ledger.over() {
            return;
        }
        let service = &world.mortal[turn % world.mortal.len()];
        service.kill().await;
        pause(&world, Duration::from_millis(900)).await;
        service.revive().await;
        world.ledger.count("deaths");
    }
}

/// Replaces the configuration file atomically.
fn put(path: &Path, text: &str) {
    let aside = path.with_extension("new");
    std::fs::write(&aside, text).expect("a configuration");
    std::fs::rename(&aside, path).expect("a configuration in its place");
}

/// Waits until the metric `name`, which counts reloads, is greater than `before`. Records a
/// fault if this takes too long.
async fn counted(world: &World, name: &str, before: u64) {
    for _ in 0..200 {
        let metrics = watch::metrics(world).await;
        if watch::metric(&metrics, name) > before {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.ledger.fault(format!("no reload was counted: {name}"));
}

/// Repeatedly makes the gateway reload its configuration: by a valid file, by an invalid file, or
/// by SIGHUP. Callers must not notice the reloads.
async fn reloads(world: Arc<World>) {
    const GOOD: &str = "countersign_reloads_total{result=\"ok\"}";
    const BAD: &str = "countersign_reloads_total{result=\"refused\"}";
    let path = world.gateway.config_file();
    let original = std::fs::read_to_string(&path).expect("the configuration");
    let pid = world.gateway.pid().to_string();
    for turn in 0.. {
        pause(&world, Duration::from_millis(1300)).await;
        if world.ledger.over() {
            break;
        }
        let metrics = watch::metrics(&world).await;
        match turn % 4 {
            3 => {
                put(&path, "this is not a configuration");
                counted(&world, BAD, watch::metric(&metrics, BAD)).await;
                world.ledger.count("bad-reloads");
            }
            2 => {
                let told = Command::new("kill").args(["-HUP", &pid]).status().await;
                assert!(told.is_ok_and(|status| status.success()), "kill -HUP {pid}");
                counted(&world, GOOD, watch::metric(&metrics, GOOD)).await;
                world.ledger.count("reloads");
            }
            _ => {
                let lifetime = format!("lifetime = \"{}s\"", 30 + turn % 20);
                put(&path, &original.replace("lifetime = \"30s\"", &lifetime));
                counted(&world, GOOD, watch::metric(&metrics, GOOD)).await;
                world.ledger.count("reloads");
            }
        }
    }
    put(&path, &original);
}
