//! Settings of HTTP/2 connections, including those of tunnels.

use std::time::Duration;

/// Maximum number of bytes of a response's head.
pub(in crate::upstream::connection) const MAX_RESPONSE_HEAD: u32 = 64 * 1024;
/// Number of bytes that a service may send before they are read: on one stream, and on a whole
/// connection. If the caller does not read its response, these bytes stay in memory.
pub(in crate::upstream::connection) const STREAM_WINDOW: u32 = 64 * 1024;
pub(in crate::upstream::connection) const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// If a busy connection receives no data for this time, the gateway sends a PING.
pub(in crate::upstream::connection) const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Maximum time until the service responds to the PING.
pub(in crate::upstream::connection) const PING_TIMEOUT: Duration = Duration::from_secs(10);
