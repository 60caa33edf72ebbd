//! `ConnectionGuard`: what a connection takes of its gateway and its worker.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::OwnedSemaphorePermit;

use crate::telemetry::metrics::Metrics;

/// A connection's slot and its place among its worker's connections; freed with
/// the last clone, so that streams and bodies keep it as long as they last.
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
    /// Counts a connection that was accepted by `slot` for a worker with this `load`.
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
