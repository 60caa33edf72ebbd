//! Starts and stops the gateway. Only this file connects the parts.
//!
//! Order of the start:
//!
//! - Bind every address first. If that fails, nothing else has been started.
//! - Start the audit log, the workers, the servers of the control plane, and then the acceptor.
//!
//! Order of the stop:
//!
//! - Set the stage to draining, and close the listener.
//! - Let connections finish, end the control plane, and write out the audit log.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::control_plane::{ControlParts, ControlPlane};
use super::crl_refresh::CrlRefresher;
use super::error::AppError;
use super::listeners::{Addresses, Listeners};
use super::reload::announce::announce;
use super::reload::reloader::{ReloadParts, Reloader};
use super::{denials, freshness, health};
use crate::admin::{self, Problem, ProblemCode, Readiness, ReloadQueue};
use crate::config::Loaded;
use crate::connection_slots::{ConnectionSlots, SlotLimits};
use crate::descriptors::{self, DescriptorPlan};
use crate::proxy::connection::worker::Shared;
use crate::proxy::listener::Workers;
use crate::snapshot::{AuditDestination, Settings, Snapshot};
use crate::telemetry::audit::AuditWriter;
use crate::telemetry::chains::ChainKeeper;
use crate::telemetry::eviction_log::EvictionLog;
use crate::telemetry::metrics::Metrics;
use crate::upstream;

/// Maximum time that the process waits at its end for threads that still use a disk.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves requests until a signal to stop arrives. Calls `ready` after all listeners are open.
///
/// # Errors
/// If the audit log cannot be opened, or the operating system refuses to start threads.
pub fn serve(
    loaded: Loaded,
    listeners: Listeners,
    ready: impl FnOnce(&Addresses) -> Result<(), AppError>,
) -> Result<(), AppError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(run(loaded, listeners, ready));
    // After this timeout, threads that hang in a file system are not joined.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    outcome
}

async fn run(
    loaded: Loaded,
    listeners: Listeners,
    ready: impl FnOnce(&Addresses) -> Result<(), AppError>,
) -> Result<(), AppError> {
    let Loaded {
        settings,
        snapshot,
        warnings,
        running,
        ..
    } = loaded;
    announce(&snapshot, &warnings);
    make_deny_list(&snapshot)?;
    let audit = open_audit(&settings)?;
    let mut signals = Signals::new()?;
    let (stop, stopping) = watch::channel(false);
    let (abort, aborting) = watch::channel(false);
    let changed = Arc::new(watch::Sender::new(0));
    let count = worker_count(&settings);
    let descriptors = divide_descriptors(count);
    let readiness = Arc::new(Readiness::default());
    report_descriptors(&descriptors, snapshot.limits.connections, &readiness);
    let connections = descriptors.connections_of(snapshot.limits.connections);
    let slots = ConnectionSlots::new(SlotLimits {
        total: connections,
        pending: connections,
    });
    prepare(&snapshot).await?;
    let signals_end = (stopping, aborting);
    let shared = share(snapshot, &settings, connections, &changed, signals_end)?;
    let shared = Arc::new(shared);
    let workers = Workers::start(&shared, &audit, count)?;
    let (reloads, reload_queue) = admin::reload_channel();
    let (drain, mut drained) = watch::channel(false);
    let addresses = listeners.addresses();
    let control = ControlPlane::start(ControlParts {
        shared: &shared,
        readiness: &readiness,
        settings: &settings,
        public: listeners.public,
        admin: listeners.admin,
        socket: listeners.socket,
        addresses: &addresses,
        audit: &audit,
        reloads,
        descriptors,
        drain,
    })?;
    let reloader = Reloader::new(ReloadParts {
        settings,
        running,
        snapshot: Arc::clone(&shared.snapshot),
        changed: Arc::clone(&changed),
        readiness: Arc::clone(&readiness),
        metrics: Arc::clone(&shared.metrics),
    });
    let background = in_background(reloader, reload_queue, &shared, &readiness, changed);

    let listener = listeners.listener;
    tracing::info!(address = %addresses.listener, workers = count, "listening for callers");
    let (accept_stop, accept_stopping) = watch::channel(false);
    let accepting = tokio::spawn(async move {
        workers.accept(listener, slots, accept_stopping).await;
        workers
    });
    readiness.set_ready();
    ready(&addresses)?;

    tokio::select! {
        () = signals.stop() => {}
        // Operators request a drain over the private socket, or over the operators' listener with a
        // certificate. If the gateway has neither of them, `wait_for` returns an error, and only
        // signals stop the gateway.
        Ok(_) = drained.wait_for(|drain| *drain) => {}
    }
    let _ = accept_stop.send(true);
    let _ = stop.send(true);
    // Set after the stop signals were sent, so that `/readyz` never reports draining before the
    // gateway has begun to stop.
    readiness.set_draining();
    tracing::info!("stopping: connections may finish");
    let Ok(workers) = accepting.await else {
        return Err(io::Error::other("the acceptor panicked").into());
    };
    join(workers, &mut signals, &abort).await;
    drop(background);
    control.end().await;
    drop(audit);
    Ok(())
}

/// Raises the limit of file descriptors as far as the system allows. Divides the descriptors among
/// the parts of the gateway.
fn divide_descriptors(workers: usize) -> DescriptorPlan {
    let plan = DescriptorPlan::divide(descriptors::raise_limit(), workers);
    descriptors::keep_spares();
    upstream::limit_connections(plan.services);
    plan
}

fn report_descriptors(plan: &DescriptorPlan, configured: usize, readiness: &Readiness) {
    if plan.connections_of(configured) == configured {
        return;
    }
    let detail = format!(
        "the system allows this process {} descriptors: at most {} connections of callers at \
         once, not the {configured} of [limits] connections, and {} to services; allow {} \
         descriptors (systemd: LimitNOFILE, shell: ulimit -n), or set connections = {}",
        plan.limit,
        plan.connections,
        plan.services,
        plan.limit_for(configured),
        plan.connections
    );
    tracing::warn!("{detail}");
    let problem = Problem::new(ProblemCode::DescriptorsLow, &detail).command("ulimit -Hn");
    readiness.raise("", problem);
}

fn share(
    snapshot: Snapshot,
    settings: &Settings,
    max_connections: usize,
    changed: &watch::Sender<u64>,
    (stopping, aborting): (watch::Receiver<bool>, watch::Receiver<bool>),
) -> Result<Shared, AppError> {
    let chains = match &settings.audit_chains {
        None => None,
        Some(path) => Some(ChainKeeper::start(path).map_err(|error| AppError::Chains {
            path: path.clone(),
            error,
        })?),
    };
    let metrics = Arc::new(Metrics::default());
    snapshot.meter(&metrics);
    Ok(Shared {
        snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
        metrics,
        buffer_budget: Arc::default(),
        tunnels: Arc::default(),
        caller_connections: Arc::default(),
        max_connections,
        evictions: EvictionLog::default(),
        handshake_sources: Arc::default(),
        changes: changed.subscribe(),
        stopping,
        aborting,
        chains,
    })
}

/// Starts the background tasks of the control plane. They end when the returned value is dropped.
fn in_background(
    reloader: Reloader,
    queue: ReloadQueue,
    shared: &Shared,
    readiness: &Arc<Readiness>,
    changed: Arc<watch::Sender<u64>>,
) -> JoinSet<()> {
    let mut background = JoinSet::new();
    let crl_refresher = CrlRefresher {
        snapshot: Arc::clone(&shared.snapshot),
        material: reloader.material_requests(),
        readiness: Arc::clone(readiness),
        metrics: Arc::clone(&shared.metrics),
        changes: changed.subscribe(),
    };
    background.spawn(reloader.run(queue));
    background.spawn(crl_refresher.run());
    background.spawn(health::run(
        Arc::clone(&shared.snapshot),
        changed.subscribe(),
        Arc::clone(&shared.metrics),
    ));
    background.spawn(freshness::watch(
        Arc::clone(&shared.snapshot),
        Arc::clone(&shared.metrics),
    ));
    background.spawn(denials::follow(Arc::clone(&shared.snapshot), changed));
    background
}

/// Returns the number of worker threads: the configured number, or one for each core.
#[must_use]
pub fn worker_count(settings: &Settings) -> usize {
    settings
        .workers
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// Starts to fetch the keys of token issuers. Waits for the keys of issuers that have
/// `required_at_start`.
async fn prepare(snapshot: &Snapshot) -> Result<(), AppError> {
    snapshot.start(&tokio::runtime::Handle::current());
    for issuer in &snapshot.token_issuers {
        let name = issuer.name().to_owned();
        let prepared = issuer.prepare().await;
        prepared.map_err(|error| AppError::TokenIssuer { name, error })?;
    }
    Ok(())
}

/// Waits until all connections have finished. A second signal closes them immediately.
async fn join(workers: Workers, signals: &mut Signals, abort: &watch::Sender<bool>) {
    let mut draining = tokio::task::spawn_blocking(move || workers.join());
    tokio::select! {
        _ = &mut draining => tracing::info!("stopped"),
        () = signals.stop() => {
            tracing::warn!("stopping at once by a second signal");
            let _ = abort.send(true);
            // Also waits after the connections were closed, so that the audit lines of their
            // requests are written.
            let _ = draining.await;
        }
    }
}

/// Creates the deny list's file if it does not exist.
fn make_deny_list(snapshot: &Snapshot) -> Result<(), AppError> {
    if let Some(list) = &snapshot.deny_list
        && list.create_if_missing()?
    {
        tracing::warn!(file = %list.path().display(), "there was no deny list; made an empty one");
    }
    Ok(())
}

fn open_audit(settings: &Settings) -> Result<AuditWriter, AppError> {
    match &settings.audit {
        AuditDestination::Stdout => Ok(AuditWriter::to_stdout()?),
        AuditDestination::File(path) => {
            AuditWriter::to_file(path).map_err(|error| AppError::Audit {
                path: path.clone(),
                error,
            })
        }
    }
}

/// The signals that stop the process.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
