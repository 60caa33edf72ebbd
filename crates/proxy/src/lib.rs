//! The path of a request, from the listening socket to its response.
//!
//! The top-level files, in the order in which a connection uses them:
//!
//! - `listener`: accepts connections and dispatches them to workers
//! - `handshake`: performs the TLS handshake on an accepted socket and verifies the caller
//! - `handshake_failure`: records failed handshakes and closes their connections
//! - `http1`, `http2`: serve one connection with hyper
//! - `handler`: responds to one request, stage by stage
//!
//! The folders, from the highest layer to the lowest. A folder imports only from lower folders:
//!
//! - `gateway_routes`: responds to requests for the gateway itself
//! - `response`: makes responses and sends their bodies to the caller
//! - `forward`: sends a permitted request to its upstream
//! - `stages`: checks and decisions before a request is forwarded
//! - `connection`: the state of a connection, its requests and their bodies
//! - `wire`: framing, header fields, HTTP/2 frames and sockets
//! - `task`: helpers that box and poll futures
//!
//! `tests/architecture` checks these layers, and that files do not import each other in a cycle.

use countersign_core::{
    assertion, authn, clock, connection_slots, crypto, h2_frames, identity, now_or_later, policy,
    reason, route, snapshot, telemetry, tls, trust, upstream,
};

pub mod connection;
mod forward;
mod gateway_routes;
mod handler;
mod handshake;
mod handshake_failure;
mod http1;
mod http2;
pub mod listener;
mod response;
pub mod stages;
mod task;
pub mod wire;
