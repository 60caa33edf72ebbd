//! The control plane: reports the gateway's state, and lets operators change it.
//!
//! The public listener and the operators' loopback listener are read-only, and their responses name
//! no callers. Only `operations` can change the gateway's behaviour. Operators reach it through the
//! private socket, or with an operator's certificate.
//!
//! - `server`: the listeners, which accept connections and serve a router on them
//! - `operator_access`: admits operators by their certificates
//! - `host_check`: refuses requests of foreign web pages
//! - `idle_connections`: tracks which connections of the public listener are idle
//! - `connection`: serves HTTP on one connection
//! - `socket`: the operators' private socket
//! - `routes`: the requests that operators can make
//! - `status`, `revocation`: the state of the process and of revocation
//! - `deny_entries`, `tokens`: change the deny list; remove tokens from the cache
//! - `operations`: the changes that operators can make
//! - `deny_writes`: limits the changes of the deny list that wait for a disk
//! - `reload`: requests a reload and reports its outcome
//! - `actions`: records each change that an operator requests
//! - `public`: documents that all listeners serve
//! - `reasons`: pages about reason codes
//! - `state`: the state that responses report
//! - `readiness`: the stage of the process, and its problems
//! - `responses`: responses in plain text, HTML and JSON

use countersign_core::{
    assertion, clock, connection_slots, crypto, descriptors, identity, policy, reason, snapshot,
    telemetry, tls, trust, upstream,
};

mod actions;
mod connection;
mod deny_entries;
mod deny_writes;
mod host_check;
mod idle_connections;
mod operations;
mod operator_access;
pub mod public;
pub mod readiness;
mod reasons;
mod reload;
mod responses;
mod revocation;
mod routes;
pub mod server;
mod socket;
mod state;
mod status;
mod tokens;

pub use deny_entries::NewDenyEntry;
pub use operations::Operations;
pub use operator_access::OperatorAccess;
pub use public::{Offered, router};
pub use readiness::{Problem, ProblemCode, Readiness, Severity, Stage};
pub use reload::{
    ReloadOutcome, ReloadQueue, ReloadRequests, ReloadUnavailable, ReloadWaiters, reload_channel,
};
pub use routes::{admin_router, socket_router};
pub use server::{
    ListenerTls, Serving, following_config, operators_router, serve, serve_on_socket,
    serve_operators, server_only_config,
};
pub use socket::{AdminSocket, ServedSocket, SocketError};
pub use state::ControlState;
pub use tokens::Purge;
