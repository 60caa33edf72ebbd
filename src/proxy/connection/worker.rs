//! `Shared` and `Worker`: what all connections share, and those of one thread.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::caller_connections::CallerConnections;
use super::handshake_turns::HandshakeTurns;
use super::request_body::RequestBody;
use super::trust_broadcast::TrustBroadcast;
use crate::policy::share::Places;
use crate::proxy::wire::buffer_budget::BufferBudget;
use crate::snapshot::Snapshot;
use crate::telemetry::audit::AuditSink;
use crate::telemetry::chains::ChainKeeper;
use crate::telemetry::eviction_log::EvictionLog;
use crate::telemetry::handshake_sources::HandshakeSources;
use crate::telemetry::metrics::Metrics;
use crate::upstream::pool::PoolShard;

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    /// The state that decides about requests.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The memory of bodies that are read whole.
    pub buffer_budget: Arc<BufferBudget>,
    /// The tunnels of all callers.
    pub tunnels: Arc<Places>,
    /// The connections of all callers.
    pub caller_connections: Arc<CallerConnections>,
    /// Most connections that there can be: what is configured, or what the process has
    /// descriptors for.
    pub max_connections: usize,
    /// Keeps the chains that callers present, if the configuration asks for it.
    pub chains: Option<ChainKeeper>,
    /// Connections that yielded to others before their handshake was complete.
    pub evictions: EvictionLog,
    /// Where handshakes come from.
    pub handshake_sources: Arc<HandshakeSources>,
    /// Counts up after a new snapshot was put in place or its deny list changed.
    pub changes: watch::Receiver<u64>,
    /// Becomes true when connections should drain.
    pub stopping: watch::Receiver<bool>,
    /// Becomes true when connections must end at once.
    pub aborting: watch::Receiver<bool>,
}

/// What the connections of one worker share.
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

    /// Subscribes a connection to changes of trust that are put in service from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.trust_broadcast.subscribe()
    }

    /// Passes changes of trust on to the subscribed connections, as long as the worker's
    /// runtime lasts.
    pub(crate) async fn broadcast_trust_changes(&self) {
        self.trust_broadcast.run(self.shared.changes.clone()).await;
    }

    /// Records a connection that ended by a panic.
    pub(crate) fn record_panic(&self, ended: Result<(), tokio::task::JoinError>) {
        if ended.is_err_and(|error| error.is_panic()) {
            record_panic(&self.shared.metrics);
        }
    }
}

/// Counts a connection, or one stream of it, that ended by a fault of the gateway.
pub(crate) fn record_panic(metrics: &Metrics) {
    metrics.panicked();
    tracing::error!("a connection ended by a panic; please report this");
}
