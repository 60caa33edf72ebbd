//! Settings of HTTP/2 connections, including those of tunnels.

use std::time::Duration;

/// h2's limit for the head of a response is this number of bytes larger than the gateway's limit.
/// If a head is only slightly too large, the gateway can then name the limit. h2 itself reports a
/// larger head as a protocol error.
pub(in crate::upstream::connection) const HEAD_SLACK: u32 = 64 * 1024;
/// Number of bytes that a service may send before the gateway has read them: on one stream, and on
/// a whole connection. While a caller does not read its response, that many bytes stay in memory.
pub(in crate::upstream::connection) const STREAM_WINDOW: u32 = 64 * 1024;
pub(in crate::upstream::connection) const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// If a busy connection receives no data for this time, the gateway sends a PING.
pub(in crate::upstream::connection) const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Maximum time until the service responds to a PING.
pub(in crate::upstream::connection) const PING_TIMEOUT: Duration = Duration::from_secs(10);
