//! `Shared`: the state that all connections share. `Worker`: the state that the connections of one
//! worker thread share.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::caller_connections::CallerConnections;
use super::handshake_turns::HandshakeTurns;
use super::request_body::RequestBody;
use super::trust_broadcast::TrustBroadcast;
use crate::policy::share::Places;
use crate::snapshot::Snapshot;
use crate::telemetry::audit::AuditSink;
use crate::telemetry::chains::ChainKeeper;
use crate::telemetry::eviction_log::EvictionLog;
use crate::telemetry::handshake_sources::HandshakeSources;
use crate::telemetry::metrics::Metrics;
use crate::upstream::pool::PoolShard;
use crate::wire::buffer_budget::BufferBudget;

/// The state that all connections of the process share.
#[derive(Debug)]
pub struct Shared {
    /// The snapshot under which requests are decided.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// The metrics of the process.
    pub metrics: Arc<Metrics>,
    /// Limits the memory that buffered bodies use.
    pub buffer_budget: Arc<BufferBudget>,
    /// Counts the open tunnels of each caller.
    pub tunnels: Arc<Places>,
    /// Counts the open connections of each caller.
    pub caller_connections: Arc<CallerConnections>,
    /// Maximum number of connections. This is the configured number, or less if the process has too
    /// few file descriptors.
    pub max_connections: usize,
    /// Stores the chains that callers present, if this is configured.
    pub chains: Option<ChainKeeper>,
    /// Records connections that were evicted before their handshake was complete.
    pub evictions: EvictionLog,
    /// Counts handshakes by address, to detect a load balancer that hides its clients' addresses.
    pub handshake_sources: Arc<HandshakeSources>,
    /// Incremented after a new snapshot was put in service or the deny list has changed.
    pub changes: watch::Receiver<u64>,
    /// Becomes `true` when all connections should drain, because the gateway stops.
    pub stopping: watch::Receiver<bool>,
    /// Becomes `true` when all connections must end immediately.
    pub aborting: watch::Receiver<bool>,
}

/// The state that the connections of one worker thread share.
#[derive(Debug)]
pub(crate) struct Worker {
    shared: Arc<Shared>,
    pool: Arc<PoolShard<RequestBody>>,
    audit: AuditSink,
    trust_broadcast: TrustBroadcast,
    handshake_turns: HandshakeTurns,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, audit: AuditSink) -> Self {
        Self {
            shared,
            pool: Arc::default(),
            audit,
            trust_broadcast: TrustBroadcast::default(),
            handshake_turns: HandshakeTurns::default(),
        }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) const fn pool(&self) -> &Arc<PoolShard<RequestBody>> {
        &self.pool
    }

    pub(crate) const fn audit(&self) -> &AuditSink {
        &self.audit
    }

    pub(crate) const fn handshake_turns(&self) -> &HandshakeTurns {
        &self.handshake_turns
    }

    /// Subscribes a connection to later changes of trust.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.trust_broadcast.subscribe()
    }

    /// Notifies the subscribed connections of changes of trust until the worker's runtime ends.
    pub(crate) async fn broadcast_trust_changes(&self) {
        self.trust_broadcast.run(self.shared.changes.clone()).await;
    }

    /// Counts a panic if the task of a connection ended by a panic.
    pub(crate) fn record_panic(&self, ended: Result<(), tokio::task::JoinError>) {
        if ended.is_err_and(|error| error.is_panic()) {
            record_panic(&self.shared.metrics);
        }
    }
}

/// Counts and logs a panic in the task of a connection or stream.
pub(crate) fn record_panic(metrics: &Metrics) {
    metrics.panicked();
    tracing::error!("a connection ended by a panic; please report this");
}
