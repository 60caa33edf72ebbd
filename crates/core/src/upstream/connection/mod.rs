//! One connection to an endpoint.
//!
//! - `connect`: opens a connection: TCP, TLS, HTTP
//! - `dedicated_h2`: a connection in h2 that carries one tunnel and nothing else
//! - `http1`: drives a connection in HTTP/1.1
//! - `http2`: the client side of HTTP/2
//! - `body`: the body of a response, over HTTP/1.1 or HTTP/2
//! - `interim`: limits on interim responses
//! - `read_tap`: a connection whose bytes are inspected when they are read
//! - `addresses`: looks up host names of endpoints
//! - `resources`: the slot and the descriptor that a connection holds until it is closed
//! - `error`: why there is no connection or no response

pub(super) mod addresses;
pub(super) mod body;
pub(super) mod connect;
pub(super) mod dedicated_h2;
pub(super) mod error;
pub(super) mod http1;
pub(super) mod http2;
pub(super) mod interim;
mod read_tap;
mod resources;
