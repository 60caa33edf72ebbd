//! Settings of HTTP/2 connections, including those of tunnels.

use std::time::Duration;

/// Maximum size of a response's head in bytes.
pub(in crate::upstream::connection) const MAX_RESPONSE_HEAD: u32 = 64 * 1024;
/// Number of bytes that a service may send before the gateway has read them: on one stream, and on
/// a whole connection. While a caller does not read its response, that many bytes stay in memory.
pub(in crate::upstream::connection) const STREAM_WINDOW: u32 = 64 * 1024;
pub(in crate::upstream::connection) const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// If a busy connection receives no data for this time, the gateway sends a PING.
pub(in crate::upstream::connection) const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Maximum time until the service responds to a PING.
pub(in crate::upstream::connection) const PING_TIMEOUT: Duration = Duration::from_secs(10);
