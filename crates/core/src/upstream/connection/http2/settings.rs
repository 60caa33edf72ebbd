//! Settings of HTTP/2 connections, including those of tunnels.

use std::time::Duration;

/// Most bytes of a response's head.
pub(in crate::upstream::connection) const MAX_RESPONSE_HEAD: u32 = 64 * 1024;
/// Bytes that a service may send on a stream, and on a whole connection, before they are read.
/// They stay in memory if the caller does not read its response.
pub(in crate::upstream::connection) const STREAM_WINDOW: u32 = 64 * 1024;
pub(in crate::upstream::connection) const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// How long a busy connection may be silent before it gets a PING.
pub(in crate::upstream::connection) const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long the service may take to respond to the PING.
pub(in crate::upstream::connection) const PING_TIMEOUT: Duration = Duration::from_secs(10);
