//! Bounds on interim answers (RFC 9110 section 15.2), of which a service could send any
//! number before its answer.
//!
//! Both libraries below pass over them by themselves, as fast as they come and for as
//! long as they do, so that it is the connection that has to end. One in HTTP/1.1 is
//! bounded by what it reads before an answer; one in h2 carries the answers of many, and
//! is bounded by the heads that it reads for what was asked.

use std::io;

use super::overheard::Overheard;

/// What reading fails with when there are too many.
pub const FLOOD: io::ErrorKind = io::ErrorKind::QuotaExceeded;

pub(super) fn flood() -> io::Error {
    io::Error::new(FLOOD, "the service sends interim answers without end")
}

/// Heads that do not end their stream, which a connection may have more of than its
/// requests ask for; what each new request adds; and what can be saved up.
const FIRST: u32 = 100;
const EACH: u32 = 8;
const MOST: u32 = 10_000;

/// A frame's header (RFC 9113 section 4.1).
const HEADER: usize = 9;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
/// Of a stream's identifier; to be ignored.
const RESERVED: u32 = 1 << 31;

/// Counts the heads that a service sends in h2.
#[derive(Debug)]
struct Heads {
    header: [u8; HEADER],
    have: usize,
    /// Octets of the present frame to pass over.
    skip: usize,
    /// Of the newest stream that was answered.
    newest: u32,
    credit: u32,
}

impl Heads {
    const fn new() -> Self {
        Self {
            header: [0; HEADER],
            have: 0,
            skip: 0,
            newest: 0,
            credit: FIRST,
        }
    }

    /// Takes the octets that come next. Whether they are not too much.
    fn pass(&mut self, mut octets: &[u8]) -> bool {
        loop {
            let skipped = self.skip.min(octets.len());
            self.skip -= skipped;
            octets = octets.get(skipped..).unwrap_or_default();
            if octets.is_empty() {
                return true;
            }
            let (now, rest) = octets.split_at(octets.len().min(HEADER - self.have));
            if let Some(places) = self.header.get_mut(self.have..self.have + now.len()) {
                places.copy_from_slice(now);
            }
            self.have += now.len();
            octets = rest;
            if self.have == HEADER {
                self.have = 0;
                let [a, b, c, kind, flags, stream @ ..] = self.header;
                self.skip = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
                let stream = u32::from_be_bytes(stream) & !RESERVED;
                if kind == HEADERS && flags & END_STREAM == 0 && !self.head(stream) {
                    return false;
                }
            }
        }
    }

    /// Counts a head of a stream that goes on. Streams are numbered by twos.
    fn head(&mut self, stream: u32) -> bool {
        let new = stream.saturating_sub(self.newest).div_ceil(2);
        self.newest = self.newest.max(stream);
        let credit = self.credit.saturating_add(new.saturating_mul(EACH));
        self.credit = credit.min(MOST).saturating_sub(1);
        self.credit > 0
    }
}

/// A connection in h2 that fails when its service sends too many heads.
pub(super) fn metered<S>(
    connection: S,
) -> Overheard<S, impl FnMut(&[u8]) -> io::Result<()> + Send + Unpin + 'static> {
    let mut heads = Heads::new();
    Overheard::new(connection, move |octets| match heads.pass(octets) {
        true => Ok(()),
        false => Err(flood()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, length: u8) -> Vec<u8> {
        let mut octets = vec![0, 0, length, kind, flags];
        octets.extend(stream.to_be_bytes());
        octets.extend(vec![0xff; usize::from(length)]);
        octets
    }

    /// How many of these frames pass.
    fn passes(heads: &mut Heads, frame: &[u8], most: usize) -> usize {
        (0..most).take_while(|_| heads.pass(frame)).count()
    }

    #[test]
    fn a_flood_ends_however_it_is_cut() {
        let interim = frame(HEADERS, 4, 1, 20);
        let whole = passes(&mut Heads::new(), &interim, 1000);
        assert_eq!(whole, 107);
        for size in 1..40 {
            let mut heads = Heads::new();
            let flood = interim.repeat(200);
            let passed = flood.chunks(size).take_while(|part| heads.pass(part));
            // It ends with the header of the one that is too much.
            let end = whole * interim.len() + HEADER;
            assert_eq!(passed.count(), (end - 1) / size, "{size}");
        }
    }

    #[test]
    fn answers_never_are_a_flood() {
        let mut heads = Heads::new();
        // Each with some interim answers, in content, and with trailers.
        for request in 0..10_000 {
            let stream = 2 * request + 1;
            for _ in 0..7 {
                assert!(heads.pass(&frame(HEADERS, 4, stream, 9)));
            }
            assert!(heads.pass(&frame(0, 0, stream, 200)));
            assert!(heads.pass(&frame(HEADERS, 4 | END_STREAM, stream, 9)));
        }
        // The newest of many is answered first, the others afterwards.
        let mut heads = Heads::new();
        for request in (0..1000).rev() {
            for _ in 0..4 {
                assert!(heads.pass(&frame(HEADERS, 4, 2 * request + 1, 9)));
            }
        }
        // What was saved up is bounded.
        for request in 1000..20_000 {
            assert!(heads.pass(&frame(HEADERS, 4, 2 * request + 1, 9)));
        }
        let interim = frame(HEADERS, 4, 39_999, 9);
        assert!(passes(&mut heads, &interim, 20_000) < 10_000);
    }

    #[test]
    fn what_is_in_frames_is_not_taken_for_frames() {
        let mut content = frame(0, 0, 1, 255);
        let inner = frame(HEADERS, 4, 1, 0).repeat(28);
        let length = content.len();
        content[9..9 + inner.len()].copy_from_slice(&inner);
        assert_eq!(content.len(), length);
        assert_eq!(passes(&mut Heads::new(), &content, 1000), 1000);
    }
}
