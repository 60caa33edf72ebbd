//! `ConnectionGuard`: keeps a connection's slot, and counts the connection in the load of its
//! worker.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::caller_connections::CallerConnection;
use crate::connection_slots::ConnectionSlot;
use crate::telemetry::metrics::Metrics;

/// Keeps a connection slot until the last clone of this guard is dropped. Streams, bodies and
/// tunnels own clones, because they may outlive the connection's task. The slot must stay in use
/// until they end.
#[derive(Clone)]
pub(crate) struct ConnectionGuard(Arc<OpenConnection>);

struct OpenConnection {
    slot: ConnectionSlot,
    load: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
    /// Counts the connection in its caller's limit. Empty until the handshake is complete.
    of_caller: OnceLock<CallerConnection>,
}

impl ConnectionGuard {
    /// Counts a connection in the metrics and in `load`, the connection count of its worker.
    pub(crate) fn new(slot: ConnectionSlot, load: Arc<AtomicUsize>, metrics: Arc<Metrics>) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        metrics.connection_opened();
        Self(Arc::new(OpenConnection {
            slot,
            load,
            metrics,
            of_caller: OnceLock::new(),
        }))
    }

    /// Counts the connection in its caller's limit until the last clone of the guard is dropped.
    pub(crate) fn set_caller(&self, connection: CallerConnection) {
        let _ = self.0.of_caller.set(connection);
    }

    /// Returns the slot that the connection occupies.
    pub(crate) fn slot(&self) -> &ConnectionSlot {
        &self.0.slot
    }
}

impl fmt::Debug for ConnectionGuard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ConnectionGuard")
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
        self.metrics.connection_closed();
    }
}
