//! What passes on a connection: framing, header fields, frames, sockets.

pub mod buffer_budget;
pub(crate) mod expect_continue;
pub(crate) mod forwarded_headers;
pub mod framing;
pub(crate) mod framing_io;
pub(crate) mod h2_frames;
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
