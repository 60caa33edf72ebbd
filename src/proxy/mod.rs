//! The request path: accept, handshake, framing, handler, forward, respond.
//!
//! [`listener`] accepts and hands connections to workers; `connection` drives
//! one of them; `handler` answers one request, stage by stage.

mod account;
mod active;
mod admission;
mod answer;
mod attempts;
mod body;
mod boxed;
mod caller_assertions;
mod connection;
mod continued;
pub(crate) mod decide;
mod expect;
mod forward;
mod forwarded;
pub mod framing;
mod gathering;
mod guarded_io;
mod h2_delivery;
mod h2_frames;
mod h2_guard;
mod h2_patience;
mod h2_streams;
mod handler;
pub mod headers;
pub mod held;
mod herald;
mod http1;
mod http2;
mod lifetime;
pub mod listener;
mod outcome;
mod outgoing;
pub mod proxy_protocol;
mod quiet;
mod refused_handshake;
mod request_body;
mod resource;
mod respond;
mod socket;
pub mod target;
mod throttle;
mod trace;
mod tunnel;
mod turn;
mod upgrade;
mod upload;
mod whoami;
