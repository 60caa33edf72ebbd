//! Keeps health checks running for the endpoints of the newest snapshot.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::snapshot::Snapshot;
use crate::telemetry::metrics::Metrics;
use crate::upstream::active_health;

/// Runs health checks until the process ends. Each new snapshot restarts all checks. Endpoints that
/// are in the old and in the new snapshot keep their results.
pub(super) async fn run(
    snapshot: Arc<ArcSwap<Snapshot>>,
    mut changes: watch::Receiver<u64>,
    metrics: Arc<Metrics>,
) {
    loop {
        changes.mark_unchanged();
        let current = snapshot.load_full();
        let mut checks = JoinSet::new();
        for upstream in &current.upstreams {
            if upstream.config().health_check.is_some() {
                for index in 0..upstream.config().endpoints.len() {
                    let check =
                        active_health::check(Arc::clone(upstream), index, Arc::clone(&metrics));
                    checks.spawn(check);
                }
            }
        }
        let generation = current.generation;
        drop(current);
        // The counter `changes` also counts changes of the deny list. The checks need no restart
        // for these changes.
        while snapshot.load().generation == generation {
            if changes.changed().await.is_err() {
                return;
            }
        }
        // Waits until the old checks have ended, so that an old check cannot overwrite the result
        // of a new one.
        checks.shutdown().await;
    }
}
