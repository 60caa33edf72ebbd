//! The request path: accept, handshake, framing, handler, forward, respond.
//!
//! [`listener`] accepts and hands connections to workers; `connection` drives
//! one of them; `handler` answers one request, stage by stage.

mod active;
mod body;
mod caller_assertions;
mod connection;
pub(crate) mod decide;
mod forward;
pub mod framing;
mod guarded_io;
mod handler;
pub mod headers;
mod lifetime;
pub mod listener;
mod refused_handshake;
mod respond;
mod socket;
pub mod target;
mod upgrade;
mod whoami;
