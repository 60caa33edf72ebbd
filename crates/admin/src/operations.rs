//! `Operations`: the changes that operators can make: reload, drain, change the deny list, remove
//! tokens from the cache.
//!
//! In the control plane, only these operations change the gateway. Other modules implement the
//! changes. The socket and `operator_access` decide which peers may connect.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;
use tokio::sync::watch;

use super::actions::done;
use super::deny_writes::DenyWrites;
use super::reload::ReloadRequests;
use super::responses::respond_json;
use super::state::ControlState;
use crate::clock;
use crate::descriptors::DescriptorPlan;
use crate::snapshot::Snapshot;
use crate::trust::DenyList;

/// The parts of the gateway that operators' requests read and change.
#[derive(Debug)]
pub struct Operations {
    state: Arc<ControlState>,
    reloads: ReloadRequests,
    drain: watch::Sender<bool>,
    /// The gateway's addresses and paths, as `status` shows them.
    pub(super) addresses: serde_json::Value,
    pub(super) descriptors: DescriptorPlan,
    pub(super) started: Instant,
    pub(super) started_at: u64,
    pub(super) deny_writes: DenyWrites,
}

impl Operations {
    /// Creates the operations. `drain` is set to true when an operator asks the process to end.
    #[must_use]
    pub fn new(
        state: Arc<ControlState>,
        reloads: ReloadRequests,
        drain: watch::Sender<bool>,
        addresses: serde_json::Value,
        descriptors: DescriptorPlan,
    ) -> Self {
        Self {
            state,
            reloads,
            drain,
            addresses,
            descriptors,
            started: Instant::now(),
            started_at: clock::unix_now(),
            deny_writes: DenyWrites::default(),
        }
    }

    pub(super) const fn state(&self) -> &Arc<ControlState> {
        &self.state
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.state.snapshot()
    }

    pub(super) fn deny_list(&self) -> Option<Arc<DenyList>> {
        self.state.snapshot().deny_list.clone()
    }
}

pub(super) async fn reload(State(operations): State<Arc<Operations>>) -> Response {
    match operations.reloads.ask().await {
        Ok(Ok(generation)) => done(
            respond_json(
                StatusCode::OK,
                &json!({ "reloaded": true, "generation": generation }),
            ),
            format!("generation {generation} is in service"),
        ),
        Ok(Err(why)) => done(
            respond_json(
                StatusCode::UNPROCESSABLE_ENTITY,
                &json!({ "reloaded": false, "error": why }),
            ),
            why,
        ),
        Err(error) => respond_json(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({ "reloaded": false, "error": error.to_string() }),
        ),
    }
}

pub(super) async fn drain(State(operations): State<Arc<Operations>>) -> Response {
    operations.drain.send_replace(true);
    let connections = operations.state.metrics().open_connections();
    done(
        respond_json(
            StatusCode::ACCEPTED,
            &json!({ "draining": true, "connections": connections }),
        ),
        format!("draining; {connections} connections are open"),
    )
}
