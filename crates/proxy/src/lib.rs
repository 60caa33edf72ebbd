//! The path of a request, from the listening socket to its response.
//!
//! The top-level files, in the order in which a connection uses them:
//!
//! - `listener`: accepts connections and dispatches them to workers
//! - `handshake`: from an accepted socket to a connection whose caller is verified
//! - `handshake_failure`: records and closes connections whose handshake fails
//! - `http1`, `http2`: serve one connection with hyper
//! - `handler`: responds to one request, stage by stage
//!
//! The folders, from the highest layer to the lowest. A folder imports only from those
//! after it:
//!
//! - `gateway_routes`: requests that the gateway responds to itself
//! - `response`: responses and their bodies
//! - `forward`: attempts to send a request to its upstream
//! - `stages`: the decisions about a request before it is forwarded
//! - `connection`: the state of a connection, its requests and their bodies
//! - `wire`: framing, header fields, frames and sockets
//! - `task`: helpers that box and poll futures
//!
//! A test checks these layers, and that there are no import cycles between files.

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
