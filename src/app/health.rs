//! Keeps health checks running for the endpoints of the newest snapshot.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::snapshot::Snapshot;
use crate::telemetry::metrics::Metrics;
use crate::upstream::active_health;

/// Runs checks for ever. With every new snapshot the checks begin again. Endpoints that stay
/// keep their results, and nothing is left of endpoints that are gone.
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
        // `changes` also counts changes of the deny list, which do not concern the checks.
        while snapshot.load().generation == generation {
            if changes.changed().await.is_err() {
                return;
            }
        }
        // Ends all checks and waits until they have ended. Otherwise an old check could
        // overwrite the result of a new one.
        checks.shutdown().await;
    }
}
