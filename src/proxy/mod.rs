//! The path of a request, from the listening socket to its response.
//!
//! On top, in the order of a connection's life:
//!
//! - `listener`: accepts connections and dispatches them to workers
//! - `handshake`: from an accepted socket to a connection whose caller is verified
//! - `handshake_failure`: records and closes connections whose handshake fails
//! - `http1`, `http2`: serve one connection by hyper
//! - `handler`: responds to one request, stage by stage
//!
//! Below, from top to bottom; a folder imports only from those after it:
//!
//! - `response`: how a request ends, and the bodies of responses
//! - `forward`: attempts to send a request to its upstream
//! - `stages`: what decides about a request before it is forwarded
//! - `connection`: the state of a connection, its requests and their bodies
//! - `wire`: framing, header fields, frames and sockets
//! - `task`: how futures are placed and polled
//!
//! A test checks these layers, and that no files import each other in a circle.

pub mod connection;
mod forward;
mod handler;
mod handshake;
mod handshake_failure;
mod http1;
mod http2;
pub mod listener;
mod response;
pub(crate) mod stages;
mod task;
pub mod wire;
