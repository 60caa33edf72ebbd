//! Settings of connections in HTTP/2, those of tunnels too.

use std::time::Duration;

/// Most bytes of a response's head.
pub(in crate::upstream::connection) const MAX_RESPONSE_HEAD: u32 = 64 * 1024;
/// Bytes of a stream, and of a whole connection, that a service may send before they are
/// read. They stay in memory if the caller does not take its response.
pub(in crate::upstream::connection) const STREAM_WINDOW: u32 = 64 * 1024;
pub(in crate::upstream::connection) const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// How long a busy connection may be silent before it gets a PING.
pub(in crate::upstream::connection) const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long the service may take to respond to the PING.
pub(in crate::upstream::connection) const PING_TIMEOUT: Duration = Duration::from_secs(10);
