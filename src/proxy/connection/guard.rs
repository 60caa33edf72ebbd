//! `ConnectionGuard`: a connection's slot, and its place in the load of its worker.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::OwnedSemaphorePermit;

use crate::telemetry::metrics::Metrics;

/// Occupies a connection slot until its last clone is dropped. Streams, bodies and
/// tunnels hold clones, so that whatever outlives the connection's task still counts as a
/// connection.
#[derive(Clone)]
pub(crate) struct ConnectionGuard(
    #[expect(dead_code, reason = "held for its drop")] Arc<ConnectionSlot>,
);

struct ConnectionSlot {
    _slot: OwnedSemaphorePermit,
    load: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl ConnectionGuard {
    /// Counts a connection in the metrics and in the `load` of its worker.
    pub(crate) fn new(
        slot: OwnedSemaphorePermit,
        load: Arc<AtomicUsize>,
        metrics: Arc<Metrics>,
    ) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        metrics.connection_opened();
        Self(Arc::new(ConnectionSlot {
            _slot: slot,
            load,
            metrics,
        }))
    }
}

impl fmt::Debug for ConnectionGuard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ConnectionGuard")
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
        self.metrics.connection_closed();
    }
}
