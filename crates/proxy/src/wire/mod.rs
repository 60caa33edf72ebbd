//! The bytes and messages on connections, and the rules for them. No file in this folder depends on
//! the state of a connection or a request.
//!
//! HTTP/1.1 framing:
//! - `head`: the grammar of a message's lines
//! - `framing`: the framing guard, which tracks message boundaries on the raw bytes
//! - `framing_io`: puts the framing guard below hyper's server
//! - `half_close`: callers that have sent `close_notify` and wait for responses
//! - `response_framing`: accepts a service's response only if its end is unambiguous
//!
//! HTTP/2:
//! - `h2_head`: checks of a request head that h2 does not make
//! - `h2_malformed`: responds to malformed requests, which h2 itself only resets
//! - `h2_monitor`: counts frames, and limits frames without content
//! - `h2_stall`: limits the time in which a caller takes no part of its response
//! - `write_coalescing`: collects the bytes that a connection writes in one poll, and sends them
//!   together
//!
//! Header fields:
//! - `headers`: decides which fields the gateway forwards
//! - `target`: the grammar of the host
//! - `path`: the grammar of the path, and the forms that only some routes accept
//! - `path_readings`: selects the route, and refuses paths that a service could read as one of another
//!   route
//! - `trace_context`: continues or begins a trace
//! - `expect_continue`: `Expect: 100-continue` from the caller to the service
//!
//! Sockets:
//! - `socket`: the TCP socket of a caller's connection
//! - `proxy_protocol`: reads the PROXY header of a load balancer
//! - `tls_close`: closes a caller's TLS connection
//!
//! Requests in progress:
//! - `upload_progress`: tracks how much of a request body was sent to the service
//! - `buffer_budget`: limits the memory of buffered bodies
//! - `refusal`: the reason why a request is not served

pub mod buffer_budget;
pub(crate) mod expect_continue;
pub mod framing;
pub(crate) mod framing_io;
pub(crate) mod h2_head;
pub(crate) mod h2_malformed;
pub(crate) mod h2_monitor;
pub(crate) mod h2_stall;
pub(crate) mod half_close;
pub mod head;
pub mod headers;
pub mod path;
pub mod path_readings;
pub mod proxy_protocol;
pub mod refusal;
pub(crate) mod response_framing;
pub(crate) mod socket;
pub mod target;
pub(crate) mod tls_close;
pub(crate) mod trace_context;
pub(crate) mod upload_progress;
pub(crate) mod write_coalescing;
