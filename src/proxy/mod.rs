//! The request path: accept, handshake, framing, handler, forward, respond.
//!
//! [`listener`] accepts and hands connections to workers; `connection` drives
//! one of them; `handler` answers one request, stage by stage.

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
