//! What passes on connections, and the rules for it. Nothing here knows of connections or
//! requests.
//!
//! HTTP/1.1 framing:
//! - `head`: the grammar of a message's lines
//! - `framing`: the framing guard, which tracks message boundaries on the raw bytes
//! - `framing_io`: the framing guard under hyper's server
//! - `response_framing`: accepts a service's response only if its end is unambiguous
//!
//! HTTP/2:
//! - `h2_monitor`: counts frames, and limits those without content
//! - `h2_stall`: how long a caller may take nothing of its response
//! - `write_coalescing`: sends what a connection writes in one poll together
//!
//! Header fields:
//! - `headers`: which fields pass the gateway
//! - `target`: the grammar of host and path
//! - `forwarded_headers`: what a service is told of its caller's connection
//! - `trace_context`: continues or begins a trace
//! - `expect_continue`: `Expect: 100-continue`, end to end
//!
//! Sockets:
//! - `socket`: the TCP side of a caller's connection
//! - `proxy_protocol`: the PROXY header of a load balancer
//! - `tls_close`: closes a caller's TLS connection
//!
//! Requests on their way:
//! - `upload_progress`: how far a body is on its way to the service
//! - `buffer_budget`: the memory of bodies that are read whole
//! - `refusal`: why a request is not served

pub mod buffer_budget;
pub(crate) mod expect_continue;
pub(crate) mod forwarded_headers;
pub mod framing;
pub(crate) mod framing_io;
pub(crate) mod h2_monitor;
pub(crate) mod h2_stall;
pub mod head;
pub mod headers;
pub mod proxy_protocol;
pub(crate) mod refusal;
pub(crate) mod response_framing;
pub(crate) mod socket;
pub mod target;
pub(crate) mod tls_close;
pub(crate) mod trace_context;
pub(crate) mod upload_progress;
pub(crate) mod write_coalescing;
