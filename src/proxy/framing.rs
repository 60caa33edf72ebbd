//! The framing guard: follows HTTP/1.1 message boundaries on the raw bytes.
//!
//! It sits under hyper's HTTP/1.1 server and refuses what hyper would normalise
//! or let pass, because two parsers that disagree about where a message ends are
//! how requests are smuggled (RFC 9112 section 11.2). This file is the pure state
//! machine; [`super::guarded_io`] puts it under a connection.

use std::ops::Range;

use memchr::memchr;

use crate::reason::ReasonCode;

/// Most header fields of one request.
pub const MAX_FIELDS: usize = 100;
/// Most bytes of a chunk's size line, extensions included.
const MAX_CHUNK_LINE: usize = 256;
/// Most bytes of a request's trailer section.
const MAX_TRAILERS: usize = 8 * 1024;
/// Empty lines tolerated before a request line (RFC 9112 section 2.2).
const MAX_LEADING_LINES: usize = 2;

/// Why bytes are not a request this gateway takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// The reason code.
    pub reason: ReasonCode,
    /// What exactly.
    pub detail: &'static str,
}

const fn malformed(detail: &'static str) -> Violation {
    Violation {
        reason: ReasonCode::MalformedRequest,
        detail,
    }
}

const fn too_large(detail: &'static str) -> Violation {
    Violation {
        reason: ReasonCode::TooLarge,
        detail,
    }
}

/// How a request's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
}

/// Follows one connection's messages.
#[derive(Debug)]
pub struct FramingMachine {
    state: State,
    /// The unfinished head, chunk line or trailer section.
    held: Vec<u8>,
    /// How much of `held` has been searched for its end.
    searched: usize,
    trailer_bytes: usize,
    max_head: usize,
    heads: u64,
}

/// What may be passed on after an input.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// A head that earlier inputs had begun, to be passed on first.
    pub released: Option<Vec<u8>>,
    /// The part of the input to pass on after that.
    pub pass: Range<usize>,
    /// The rest of the input is refused.
    pub violation: Option<Violation>,
}

impl FramingMachine {
    /// A machine for a new connection; heads have at most `max_head` bytes.
    #[must_use]
    pub const fn new(max_head: usize) -> Self {
        Self {
            state: State::Head,
            held: Vec::new(),
            searched: 0,
            trailer_bytes: 0,
            max_head,
            heads: 0,
        }
    }

    /// How many complete heads have been passed on.
    #[must_use]
    pub const fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether a request's head has begun and is not complete.
    #[must_use]
    pub fn is_inside_head(&self) -> bool {
        self.state == State::Head && !self.held.is_empty()
    }

    /// Whether the next byte belongs to a request's head.
    #[must_use]
    pub fn is_at_head(&self) -> bool {
        self.state == State::Head
    }

    /// Takes the next bytes of the connection.
    ///
    /// A head is passed on when it is complete and accepted, never in part: the
    /// beginning of an incomplete one is kept back.
    pub fn advance(&mut self, input: &[u8]) -> Step {
        let mut step = Step {
            released: None,
            pass: 0..0,
            violation: None,
        };
        while let Some(rest) = input.get(step.pass.end..).filter(|rest| !rest.is_empty()) {
            match self.step(rest) {
                Ok(Advance::Pass(count)) => step.pass.end += count,
                // Only what earlier inputs began is released, so this happens
                // before anything else of an input is passed on.
                Ok(Advance::Release(head, count)) => {
                    step.released = Some(head);
                    step.pass = count..count;
                }
                Ok(Advance::Hold) => break,
                Err(violation) => {
                    step.violation = Some(violation);
                    break;
                }
            }
        }
        step
    }

    fn step(&mut self, rest: &[u8]) -> Result<Advance, Violation> {
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

    fn head(&mut self, rest: &[u8]) -> Result<Advance, Violation> {
        if self.held.is_empty() {
            // The usual case: the whole head in one read, nothing is copied.
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
        // Enough to find the end; what belongs to the body stays in the input.
        let room = self.max_head.saturating_sub(before) + 1;
        self.held
            .extend_from_slice(rest.get(..room.min(rest.len())).unwrap_or_default());
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

    fn hold(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let room = self.max_head + 1;
        self.held
            .extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
        self.check_held()
    }

    fn check_held(&mut self) -> Result<(), Violation> {
        if self.held.len() > self.max_head {
            return Err(too_large("the request's head is larger than allowed"));
        }
        // A line end may be split between two inputs.
        self.searched = self.held.len().saturating_sub(3);
        Ok(())
    }

    fn accept_head(&mut self, head: &[u8]) -> Result<(), Violation> {
        if head.len() > self.max_head {
            return Err(too_large("the request's head is larger than allowed"));
        }
        self.state = match check_head(head)? {
            Framing::Length(0) => State::Head,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
        };
        self.heads += 1;
        self.trailer_bytes = 0;
        Ok(())
    }

    /// Chunk framing is passed on as it comes; `held` only remembers the line.
    fn chunk_size(&mut self, rest: &[u8]) -> Result<Advance, Violation> {
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

    fn chunk_end(&mut self, rest: &[u8]) -> Result<Advance, Violation> {
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

    fn trailers(&mut self, rest: &[u8]) -> Result<Advance, Violation> {
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

    /// Adds to `held` up to and including the next line end; says how much of
    /// `rest` that took and whether the line is complete.
    fn collect_line(&mut self, rest: &[u8], most: usize) -> Result<(usize, bool), Violation> {
        let (count, complete) = match memchr(b'\n', rest) {
            Some(position) => (position + 1, true),
            None => (rest.len(), false),
        };
        if self.held.len() + count > most {
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
    /// Pass on this many bytes.
    Pass(usize),
    /// Pass on this head, whose last part was this many bytes of the input.
    Release(Vec<u8>, usize),
    /// The rest of the input was kept back.
    Hold,
}

fn take(available: usize, wanted: u64) -> u64 {
    u64::try_from(available).unwrap_or(u64::MAX).min(wanted)
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Position after the empty line that ends a head, searching line ends from
/// `from` on. Every line must end with CRLF.
fn find_head_end(bytes: &[u8], from: usize) -> Result<Option<usize>, Violation> {
    let mut position = from;
    while let Some(found) = memchr(b'\n', bytes.get(position..).unwrap_or_default()) {
        let end = position + found;
        if end == 0 || bytes.get(end - 1) != Some(&b'\r') {
            return Err(malformed("a line of the request's head ends without CR"));
        }
        let empty = end >= 3 && bytes.get(end - 3..end) == Some(b"\r\n\r");
        let leading = end < 2 * MAX_LEADING_LINES
            && bytes
                .get(..=end)
                .is_some_and(|start| start.iter().all(|b| matches!(b, b'\r' | b'\n')));
        if empty && !leading {
            return Ok(Some(end + 1));
        }
        position = end + 1;
    }
    Ok(None)
}

/// Checks a complete head, from its first line to its empty line.
fn check_head(head: &[u8]) -> Result<Framing, Violation> {
    let mut bytes = head;
    let mut leading = 0;
    while let Some(rest) = bytes.strip_prefix(b"\r\n") {
        leading += 1;
        if leading > MAX_LEADING_LINES {
            return Err(malformed("too many empty lines before the request"));
        }
        bytes = rest;
    }
    let (line, mut bytes) = next_line(bytes)?;
    let request = request_line(line)?;
    let mut fields = Fields::default();
    loop {
        let (line, rest) = next_line(bytes)?;
        if line.is_empty() {
            break;
        }
        fields.add(line)?;
        bytes = rest;
    }
    fields.framing(&request)
}

fn next_line(bytes: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    let end = memchr(b'\n', bytes).ok_or(malformed("the head ends within a line"))?;
    let (line, rest) = bytes.split_at(end + 1);
    let line = line
        .strip_suffix(b"\r\n")
        .ok_or(malformed("a line of the request's head ends without CR"))?;
    Ok((line, rest))
}

struct RequestLine<'a> {
    is_http_11: bool,
    /// Authority of an absolute-form target.
    authority: Option<&'a [u8]>,
}

fn request_line(line: &[u8]) -> Result<RequestLine<'_>, Violation> {
    let bad = malformed("the request line is not METHOD SP TARGET SP HTTP/1.1");
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad);
    };
    if method.is_empty() || !method.iter().all(|b| is_token(*b)) {
        return Err(bad);
    }
    let is_http_11 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return Err(malformed("the HTTP version is not 1.1 or 1.0")),
    };
    if target.is_empty()
        || !target
            .iter()
            .all(|b| (0x21..=0x7e).contains(b) && *b != b'#')
    {
        return Err(malformed(
            "the request target has characters it must not have",
        ));
    }
    if method == b"CONNECT" {
        return Err(malformed("CONNECT is not supported"));
    }
    let authority = match target.first() {
        Some(b'/') => None,
        Some(b'*') if target == b"*" && method == b"OPTIONS" => None,
        _ => Some(absolute_authority(target).ok_or(malformed(
            "the request target is neither a path nor an absolute URL",
        ))?),
    };
    Ok(RequestLine {
        is_http_11,
        authority,
    })
}

fn absolute_authority(target: &[u8]) -> Option<&[u8]> {
    let rest = [&b"https://"[..], &b"http://"[..]]
        .iter()
        .find_map(|scheme| {
            target
                .get(..scheme.len())
                .filter(|start| start.eq_ignore_ascii_case(scheme))
                .and_then(|_| target.get(scheme.len()..))
        })?;
    let end = rest
        .iter()
        .position(|b| matches!(b, b'/' | b'?'))
        .unwrap_or(rest.len());
    rest.get(..end).filter(|authority| !authority.is_empty())
}

#[derive(Default)]
struct Fields<'a> {
    count: usize,
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
}

impl<'a> Fields<'a> {
    fn add(&mut self, line: &'a [u8]) -> Result<(), Violation> {
        self.count += 1;
        if self.count > MAX_FIELDS {
            return Err(too_large("the request has too many header fields"));
        }
        let (name, value) = field(line)?;
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                if self.host.replace(value).is_some() {
                    return Err(malformed("the request has more than one Host field"));
                }
                if !value.iter().all(|b| is_authority(*b)) {
                    return Err(malformed("the Host field is not a host"));
                }
            }
            14 if is_framing_name(name) => {
                if !name.eq_ignore_ascii_case(b"content-length") {
                    return Err(malformed("a field name passes for Content-Length"));
                }
                if self.length.replace(content_length(value)?).is_some() {
                    return Err(malformed(
                        "the request has more than one Content-Length field",
                    ));
                }
            }
            17 if is_framing_name(name) => {
                if !name.eq_ignore_ascii_case(b"transfer-encoding") {
                    return Err(malformed("a field name passes for Transfer-Encoding"));
                }
                if self.chunked {
                    return Err(malformed(
                        "the request has more than one Transfer-Encoding field",
                    ));
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(malformed("the transfer coding is not exactly chunked"));
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn framing(&self, request: &RequestLine<'_>) -> Result<Framing, Violation> {
        match (self.host, request.is_http_11) {
            (None, true) => return Err(malformed("the request has no Host field")),
            (Some(b""), _) => return Err(malformed("the Host field is empty")),
            _ => {}
        }
        if let (Some(authority), Some(host)) = (request.authority, self.host)
            && !authority.eq_ignore_ascii_case(host)
        {
            return Err(malformed("Host and request target name different hosts"));
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(malformed(
                "the request has both Content-Length and Transfer-Encoding",
            )),
            (true, None) if !request.is_http_11 => {
                Err(malformed("HTTP/1.0 has no Transfer-Encoding"))
            }
            (true, None) => Ok(Framing::Chunked),
            (false, length) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
}

/// Splits a field line, checking every octet (RFC 9112 section 5).
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(malformed("a header field is folded over two lines"));
    }
    let colon = memchr(b':', line).ok_or(malformed("a header line has no colon"))?;
    let (name, value) = line.split_at(colon);
    if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
        return Err(malformed("a header field's name is not a token"));
    }
    let value = value.get(1..).unwrap_or_default();
    if value
        .iter()
        .any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f)
    {
        return Err(malformed("a header field's value has control characters"));
    }
    Ok((name, value.trim_ascii()))
}

/// Content-Length or Transfer-Encoding, in any spelling that some server might
/// read as such.
#[must_use]
pub fn is_framing_name(name: &[u8]) -> bool {
    let same = |wanted: &[u8]| {
        name.len() == wanted.len()
            && name.iter().zip(wanted).all(|(a, b)| {
                a.eq_ignore_ascii_case(b) || (*b == b'-' && !a.is_ascii_alphanumeric())
            })
    };
    same(b"content-length") || same(b"transfer-encoding")
}

fn content_length(value: &[u8]) -> Result<u64, Violation> {
    let bad = malformed("Content-Length is not a plain number");
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(bad);
    }
    str::from_utf8(value)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or(bad)
}

fn chunk_size(line: &[u8]) -> Result<u64, Violation> {
    let bad = malformed("a chunk's size is not a plain hexadecimal number");
    let line = line.strip_suffix(b"\r\n").unwrap_or(line);
    let (digits, extension) = match memchr(b';', line) {
        Some(position) => line.split_at(position),
        None => (line, &b""[..]),
    };
    if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(bad);
    }
    // RFC 9112 section 7.1.1: a name follows the semicolon.
    if extension
        .strip_prefix(b";")
        .is_some_and(|name| name.trim_ascii().is_empty())
    {
        return Err(malformed("a chunk extension has no name"));
    }
    if extension
        .iter()
        .any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f)
    {
        return Err(malformed("a chunk extension has control characters"));
    }
    str::from_utf8(digits)
        .ok()
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or(bad)
}

/// RFC 9110 section 5.6.2.
const fn is_token(octet: u8) -> bool {
    octet.is_ascii_alphanumeric()
        || matches!(
            octet,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// What a host with an optional port is made of; no userinfo.
const fn is_authority(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b':' | b'[' | b']')
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
