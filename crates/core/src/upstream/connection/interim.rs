//! Limits on interim responses (RFC 9110 section 15.2). A service could send any number of them
//! before its response.
//!
//! hyper and h2 skip interim responses without a limit, so the gateway has to end the connection.
//! In HTTP/1.1 the gateway limits the number of bytes before a response (`http1`). An h2 connection
//! carries the responses to many requests, so the gateway limits the number of heads per request
//! instead.

use std::io;

use super::read_tap::ReadTap;
use crate::h2_frames::{END_STREAM, Frame, FrameScanner, HEADERS};

/// The error kind of a read that fails because there were too many interim responses.
pub const FLOOD: io::ErrorKind = io::ErrorKind::QuotaExceeded;

pub(super) fn flood() -> io::Error {
    io::Error::new(FLOOD, "the service sends interim responses without end")
}

/// Limits on heads that do not end their stream. Each such head costs one credit. A connection
/// starts with `FIRST_HEADS` credits, each new request adds `HEADS_EACH`, and the maximum is
/// `MAX_HEADS`.
const FIRST_HEADS: u32 = 100;
const HEADS_EACH: u32 = 8;
const MAX_HEADS: u32 = 10_000;

/// Limits the heads that a service sends on an h2 connection.
#[derive(Debug)]
pub(super) struct Heads {
    /// The identifier of the newest stream that has received a head.
    newest: u32,
    credit: u32,
}

impl Heads {
    pub(super) const fn new() -> Self {
        Self {
            newest: 0,
            credit: FIRST_HEADS,
        }
    }

    /// Counts a frame if it is a head that does not end its stream. Returns false if the service
    /// has sent too many of these.
    pub(super) fn pass(&mut self, frame: &Frame) -> bool {
        frame.kind != HEADERS || frame.flags & END_STREAM != 0 || self.head(frame.stream)
    }

    /// Counts a head that does not end its stream. Returns false if the credit is used up. Stream
    /// identifiers of successive requests differ by two.
    fn head(&mut self, stream: u32) -> bool {
        let new = stream.saturating_sub(self.newest).div_ceil(2);
        self.newest = self.newest.max(stream);
        let credit = self.credit.saturating_add(new.saturating_mul(HEADS_EACH));
        self.credit = credit.min(MAX_HEADS).saturating_sub(1);
        self.credit > 0
    }
}

/// Wraps an h2 connection. Reading fails if the service sends too many heads ([`Heads`]).
pub(super) fn metered<S>(
    connection: S,
) -> ReadTap<S, impl FnMut(&[u8]) -> io::Result<()> + Send + Unpin + 'static> {
    let mut heads = Heads::new();
    let mut scanner = FrameScanner::new(0);
    ReadTap::new(connection, move |bytes| {
        let mut passes = true;
        scanner.advance(bytes, |frame| passes &= heads.pass(&frame));
        match passes {
            true => Ok(()),
            false => Err(flood()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32) -> Frame {
        let mut found = None;
        let bytes = crate::h2_frames::fixture::frame(kind, flags, stream, &[]);
        FrameScanner::new(0).advance(&bytes, |frame| found = Some(frame));
        found.unwrap()
    }

    /// Returns how many times in a row `frame` is accepted, at most `max`.
    fn passes(heads: &mut Heads, frame: &Frame, max: usize) -> usize {
        (0..max).take_while(|_| heads.pass(frame)).count()
    }

    #[test]
    fn a_flood_ends() {
        let interim = frame(HEADERS, 4, 1);
        assert_eq!(passes(&mut Heads::new(), &interim, 1000), 107);
    }

    #[test]
    fn answers_never_are_a_flood() {
        let mut heads = Heads::new();
        // It is no flood if each of 10,000 requests gets seven interim responses, a response with a
        // body, and trailers.
        for request in 0..10_000 {
            let stream = 2 * request + 1;
            for _ in 0..7 {
                assert!(heads.pass(&frame(HEADERS, 4, stream)));
            }
            assert!(heads.pass(&frame(0, 0, stream)));
            assert!(heads.pass(&frame(HEADERS, 4 | END_STREAM, stream)));
        }
        // It is no flood if 1,000 requests get their heads in reverse order, beginning with the
        // newest request.
        let mut heads = Heads::new();
        for request in (0..1000).rev() {
            for _ in 0..4 {
                assert!(heads.pass(&frame(HEADERS, 4, 2 * request + 1)));
            }
        }
        // 19,000 requests with one head each earn the maximum credit. This credit does not allow
        // 20,000 interim responses.
        for request in 1000..20_000 {
            assert!(heads.pass(&frame(HEADERS, 4, 2 * request + 1)));
        }
        let interim = frame(HEADERS, 4, 39_999);
        assert!(passes(&mut heads, &interim, 20_000) < 10_000);
    }
}
