//! What the gateway answers about itself: the public and the operators' listener,
//! and the operators' private socket.
//!
//! The public listener, and the operators' one on loopback, are read-only and name
//! no callers. `public` has the answers, `server` the connections and the operators'
//! extra check, `idle` says which of them nothing goes on on, `readiness` the state of the
//! process. Only `operations`, behind the private
//! `socket` or the certificates of `operators`, can change what the gateway does, by
//! asking others: `reload` carries the question, `actions` writes down who asked.

mod actions;
mod denials;
mod idle;
mod operations;
mod operators;
pub mod public;
pub mod readiness;
mod reasons;
mod reload;
mod revocation;
pub mod server;
mod socket;
mod tokens;

pub use denials::Denial;
pub use operations::{Operations, admin_router, socket_router};
pub use operators::OperatorAccess;
pub use public::{ControlState, Offered, router};
pub use readiness::{Problem, ProblemCode, Readiness, Severity, Stage};
pub use reload::{
    NobodyReloads, ReloadOutcome, ReloadQueue, ReloadRequests, ReloadWaiters, reload_channel,
};
pub use server::{
    ListenerTls, Serving, following_config, operators_router, serve, serve_on_socket,
    serve_operators, server_only_config,
};
pub use socket::{AdminSocket, ServedSocket, SocketError};
pub use tokens::Purge;
