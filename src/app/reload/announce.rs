//! Logs what operators should know about a configuration that comes into service.

use crate::snapshot::Snapshot;

/// Logs the warnings of a configuration, and the alarms of its trust domains, for example about
/// expired roots.
pub(in crate::app) fn announce(snapshot: &Snapshot, warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    for alarm in snapshot.bundles.iter().flat_map(|bundle| bundle.alarms()) {
        tracing::error!("{alarm}");
    }
}
