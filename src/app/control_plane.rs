//! Runs the control plane beside the workers: the public listener, the operators' listener, the
//! operators' private socket, and the handler of SIGHUP.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::error::AppError;
use super::listeners::Addresses;
use crate::admin::{
    self, AdminSocket, ControlState, ListenerTls, Offered, Operations, OperatorAccess, Readiness,
    ReloadRequests, Serving,
};
use crate::descriptors::DescriptorPlan;
use crate::proxy::connection::worker::Shared;
use crate::snapshot::Settings;
use crate::telemetry::audit::AuditWriter;

/// The interval at which the gateway looks for new problems.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(5);

/// The inputs of [`ControlPlane::start`].
pub(super) struct ControlParts<'a> {
    pub(super) shared: &'a Shared,
    pub(super) readiness: &'a Arc<Readiness>,
    pub(super) settings: &'a Settings,
    pub(super) public: Option<std::net::TcpListener>,
    pub(super) admin: Option<std::net::TcpListener>,
    pub(super) socket: Option<AdminSocket>,
    pub(super) addresses: &'a Addresses,
    pub(super) audit: &'a AuditWriter,
    pub(super) reloads: ReloadRequests,
    pub(super) descriptors: DescriptorPlan,
    /// Set to true when an operator requests a drain. The gateway then stops as it does on a
    /// signal.
    pub(super) drain: watch::Sender<bool>,
}

/// The running servers of the control plane.
pub(super) struct ControlPlane {
    servers: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl ControlPlane {
    pub(super) fn start(parts: ControlParts<'_>) -> Result<Self, AppError> {
        let shared = parts.shared;
        let state = Arc::new(
            ControlState::new(
                Arc::clone(&shared.snapshot),
                Arc::clone(parts.readiness),
                Arc::clone(&shared.metrics),
                Arc::clone(&shared.handshake_sources),
            )
            .with_audit(Arc::clone(parts.audit.health())),
        );
        let (stop, stopping) = watch::channel(false);
        let serving = Serving {
            stopping: stopping.clone(),
            share: parts.descriptors.control,
            snapshot: Arc::clone(&shared.snapshot),
        };
        let mut servers = JoinSet::new();
        if let (Some(socket), Some(public)) = (parts.public, &parts.settings.public) {
            let tls = if public.tls.is_some() {
                let snapshot = Arc::clone(&parts.shared.snapshot);
                ListenerTls::On(admin::following_config(snapshot).map_err(io::Error::other)?)
            } else {
                ListenerTls::Off
            };
            let router = admin::router(Arc::clone(&state), Offered::from(public));
            let socket = TcpListener::from_std(socket)?;
            tracing::info!(address = %socket.local_addr()?, "listening for services: keys and health");
            servers.spawn(admin::serve(socket, router, tls, serving.clone()));
        }
        servers.spawn(observe(Arc::clone(&state), stopping.clone()));
        let operations = Arc::new(Operations::new(
            Arc::clone(&state),
            parts.reloads.clone(),
            parts.drain,
            serde_json::to_value(parts.addresses).map_err(io::Error::other)?,
            parts.descriptors,
        ));
        if let (Some(socket), Some(settings)) = (parts.admin, &parts.settings.admin) {
            let socket = TcpListener::from_std(socket)?;
            let address = socket.local_addr()?;
            if settings.operators.is_empty() {
                tracing::info!(%address, "listening on loopback, for reading only");
                let router = admin::operators_router(state, address.port());
                let serving = admin::serve(socket, router, ListenerTls::Off, serving.clone());
                servers.spawn(serving);
            } else {
                tracing::info!(%address, "listening for operators with certificates");
                let access = Arc::new(OperatorAccess::new(
                    Arc::clone(&shared.snapshot),
                    shared.changes.clone(),
                    parts.audit.sink(),
                ));
                let router = admin::admin_router(Arc::clone(&operations), parts.audit.sink());
                let serving = admin::serve_operators(socket, router, access, serving.clone());
                servers.spawn(serving);
            }
        }
        if let Some(socket) = parts.socket {
            tracing::info!(socket = %socket.path().display(), "listening for this machine's operator");
            let router = admin::socket_router(operations, parts.audit.sink());
            let serving = admin::serve_on_socket(socket.into_served()?, router, serving.clone());
            servers.spawn(serving);
        }
        servers.spawn(reload_on_signal(parts.reloads, stopping)?);
        Ok(Self { servers, stop })
    }

    /// Stops the servers and waits until they have ended.
    pub(super) async fn end(mut self) {
        let _ = self.stop.send(true);
        while self.servers.join_next().await.is_some() {}
    }
}

/// Records at intervals which problems exist, so that each problem is reported with the time at
/// which it began.
async fn observe(state: Arc<ControlState>, mut stopping: watch::Receiver<bool>) {
    loop {
        state.observe();
        let stopped = stopping.wait_for(|stopping| *stopping);
        if tokio::time::timeout(OBSERVE_INTERVAL, stopped)
            .await
            .is_ok()
        {
            return;
        }
    }
}

/// Requests a reload for each SIGHUP. Several signals in a short time cause one reload.
fn reload_on_signal(
    reloads: ReloadRequests,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                received = hangup.recv() => match received {
                    Some(()) => reloads.notify(),
                    None => return,
                },
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
        }
    })
}
