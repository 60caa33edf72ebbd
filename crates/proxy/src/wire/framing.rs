//! The framing guard: tracks HTTP/1.1 message boundaries on the raw bytes.
//!
//! The framing guard runs below hyper's HTTP/1.1 server, and rejects ambiguous input that hyper
//! would normalize or accept. If two parsers disagree about the end of a message, a caller can
//! smuggle requests (RFC 9112 section 11.2). This file contains only the state machine.
//! `framing_io` connects the state machine to a connection, and [`super::head`] checks lines.

use std::ops::Range;

use memchr::memchr;

use super::head::{
    Framing, FramingError, MAX_FIELDS, check_head, chunk_size, field, find_head_end,
    is_framing_name, malformed, too_large,
};

/// Maximum size of a chunk's size line in bytes, including extensions.
const MAX_CHUNK_LINE: usize = 256;
/// Maximum size of a request's trailer section in bytes.
const MAX_TRAILERS: usize = 8 * 1024;

/// The part of a message that the next byte belongs to. The numbers are the bytes that remain of
/// this part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
}

/// The framing state machine of one connection.
#[derive(Debug)]
pub struct FramingMachine {
    state: State,
    /// The beginning of an incomplete head, chunk line or trailer line.
    held: Vec<u8>,
    /// Number of bytes at the start of `held` that were searched for the end of the head without
    /// success.
    searched: usize,
    trailer_bytes: usize,
    max_head: usize,
    max_fields: usize,
    heads: u64,
}

/// The result of one call of [`FramingMachine::advance`].
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// A complete head that began in an earlier input. The reader receives it before the bytes of
    /// `pass`.
    pub released: Option<Vec<u8>>,
    /// The part of the input that the reader receives.
    pub pass: Range<usize>,
    /// The reason why the machine rejects the bytes after `pass`. `None` if it rejects none.
    pub error: Option<FramingError>,
}

impl FramingMachine {
    /// Creates the machine for a new connection. `max_head` is the maximum size of a head in bytes.
    #[must_use]
    pub const fn new(max_head: usize) -> Self {
        Self {
            state: State::Head,
            held: Vec::new(),
            searched: 0,
            trailer_bytes: 0,
            max_head,
            max_fields: MAX_FIELDS,
            heads: 0,
        }
    }

    /// Sets the maximum number of header fields of a request.
    #[must_use]
    pub const fn max_fields(mut self, max_fields: usize) -> Self {
        self.max_fields = max_fields;
        self
    }

    /// Returns the number of complete heads that were accepted.
    #[must_use]
    pub const fn heads(&self) -> u64 {
        self.heads
    }

    /// Returns whether a request's head has begun but is not complete.
    #[must_use]
    pub fn is_inside_head(&self) -> bool {
        self.state == State::Head && !self.held.is_empty()
    }

    /// Returns whether the next byte belongs to a request's head, including the first byte of a
    /// head.
    #[must_use]
    pub fn is_at_head(&self) -> bool {
        self.state == State::Head
    }

    /// Processes the next bytes of the connection.
    ///
    /// A head is passed on only when it is complete and accepted. Until then, the machine holds
    /// back the beginning of the head.
    pub fn advance(&mut self, input: &[u8]) -> Step {
        let mut step = Step {
            released: None,
            pass: 0..0,
            error: None,
        };
        while let Some(rest) = input.get(step.pass.end..).filter(|rest| !rest.is_empty()) {
            match self.step(rest) {
                Ok(Advance::Pass(count)) => step.pass.end += count,
                // Only a head that began in an earlier input is released. The end of such a head
                // comes before all other parts of this input, so no byte of this input was passed
                // on before.
                Ok(Advance::Release(head, count)) => {
                    step.released = Some(head);
                    step.pass = count..count;
                }
                Ok(Advance::Hold) => break,
                Err(error) => {
                    step.error = Some(error);
                    break;
                }
            }
        }
        step
    }

    fn step(&mut self, rest: &[u8]) -> Result<Advance, FramingError> {
        match self.state {
            State::Head => self.head(rest),
            State::Length(left) => {
                let taken = take(rest.len(), left);
                self.state = match left - taken {
                    0 => State::Head,
                    left => State::Length(left),
                };
                Ok(Advance::Pass(to_usize(taken)))
            }
            State::ChunkData(left) => {
                let taken = take(rest.len(), left);
                self.state = match left - taken {
                    0 => State::ChunkEnd,
                    left => State::ChunkData(left),
                };
                Ok(Advance::Pass(to_usize(taken)))
            }
            State::ChunkSize => self.chunk_size(rest),
            State::ChunkEnd => self.chunk_end(rest),
            State::Trailers => self.trailers(rest),
        }
    }

    fn head(&mut self, rest: &[u8]) -> Result<Advance, FramingError> {
        if self.held.is_empty() {
            // In the usual case the whole head is in one read, and no byte is copied.
            return match find_head_end(rest, 0)? {
                Some(end) => {
                    self.accept_head(rest.get(..end).unwrap_or_default())?;
                    Ok(Advance::Pass(end))
                }
                None => {
                    self.hold(rest)?;
                    Ok(Advance::Hold)
                }
            };
        }
        let before = self.held.len();
        // Holds at most one byte more than the limit, which is enough to reject the head.
        let wanted = self.max_head.saturating_sub(before) + 1;
        self.held
            .extend_from_slice(rest.get(..wanted.min(rest.len())).unwrap_or_default());
        match find_head_end(&self.held, self.searched)? {
            Some(end) => {
                let mut head = std::mem::take(&mut self.held);
                head.truncate(end);
                self.searched = 0;
                self.accept_head(&head)?;
                Ok(Advance::Release(head, end.saturating_sub(before)))
            }
            None => {
                self.check_held()?;
                Ok(Advance::Hold)
            }
        }
    }

    fn hold(&mut self, bytes: &[u8]) -> Result<(), FramingError> {
        let wanted = self.max_head + 1;
        self.held
            .extend_from_slice(bytes.get(..wanted.min(bytes.len())).unwrap_or_default());
        self.check_held()
    }

    fn check_held(&mut self) -> Result<(), FramingError> {
        if self.held.len() > self.max_head {
            return Err(too_large("the request's head is larger than allowed"));
        }
        // The CRLFCRLF that ends the head may be split over two inputs.
        self.searched = self.held.len().saturating_sub(3);
        Ok(())
    }

    fn accept_head(&mut self, head: &[u8]) -> Result<(), FramingError> {
        if head.len() > self.max_head {
            return Err(too_large("the request's head is larger than allowed"));
        }
        self.state = match check_head(head, self.max_fields)? {
            Framing::Length(0) => State::Head,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
        };
        self.heads += 1;
        self.trailer_bytes = 0;
        Ok(())
    }

    /// Reads a chunk's size line. The bytes of the line are passed on as they arrive. `held` keeps
    /// a copy, from which the size is parsed when the line is complete.
    fn chunk_size(&mut self, rest: &[u8]) -> Result<Advance, FramingError> {
        let (count, complete) = self.collect_line(rest, MAX_CHUNK_LINE)?;
        if complete {
            let size = chunk_size(&self.held)?;
            self.held.clear();
            self.state = match size {
                0 => State::Trailers,
                size => State::ChunkData(size),
            };
        }
        Ok(Advance::Pass(count))
    }

    fn chunk_end(&mut self, rest: &[u8]) -> Result<Advance, FramingError> {
        let (count, complete) = self.collect_line(rest, 2)?;
        if complete {
            if self.held != b"\r\n" {
                return Err(malformed("a chunk is longer than its size says"));
            }
            self.held.clear();
            self.state = State::ChunkSize;
        }
        Ok(Advance::Pass(count))
    }

    fn trailers(&mut self, rest: &[u8]) -> Result<Advance, FramingError> {
        let (count, complete) = self.collect_line(rest, MAX_TRAILERS)?;
        self.trailer_bytes += count;
        if self.trailer_bytes > MAX_TRAILERS {
            return Err(too_large("the trailer section is larger than allowed"));
        }
        if complete {
            let line = self.held.strip_suffix(b"\r\n").unwrap_or(&self.held);
            if line.is_empty() {
                self.state = State::Head;
            } else {
                let (name, _) = field(line)?;
                if is_framing_name(name) || name.eq_ignore_ascii_case(b"host") {
                    return Err(malformed(
                        "a trailer field would change the message's framing",
                    ));
                }
            }
            self.held.clear();
        }
        Ok(Advance::Pass(count))
    }

    /// Copies bytes to `held`, up to and including the next line feed. Returns the number of bytes,
    /// and whether the line is complete.
    fn collect_line(
        &mut self,
        rest: &[u8],
        max_bytes: usize,
    ) -> Result<(usize, bool), FramingError> {
        let (count, complete) = match memchr(b'\n', rest) {
            Some(position) => (position + 1, true),
            None => (rest.len(), false),
        };
        if self.held.len() + count > max_bytes {
            return Err(malformed("a line of the chunked body is too long"));
        }
        self.held
            .extend_from_slice(rest.get(..count).unwrap_or_default());
        if complete && !self.held.ends_with(b"\r\n") {
            return Err(malformed("a line of the chunked body ends without CR"));
        }
        Ok((count, complete))
    }
}

enum Advance {
    /// Pass on this number of bytes.
    Pass(usize),
    /// Pass on this head. The number counts the bytes of the current input that belong to the head.
    Release(Vec<u8>, usize),
    /// Hold back the rest of the input, until the head is complete.
    Hold,
}

fn take(available: usize, wanted: u64) -> u64 {
    u64::try_from(available).unwrap_or(u64::MAX).min(wanted)
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
