//! Frames for unit tests of this crate and of the crates that use it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests use this, but a crate above is no test of this one"
)]

/// Returns a frame as bytes (RFC 9113 section 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(content.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(content);
    bytes
}
