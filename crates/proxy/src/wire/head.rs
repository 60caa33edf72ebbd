//! The grammar of a message's lines: request line, header fields and chunk sizes. Every byte is
//! checked, and errors are never corrected.

use memchr::memchr;

use crate::reason::ReasonCode;

/// Maximum number of header fields of one request, unless another number is configured. hyper has
/// the same default.
pub const MAX_FIELDS: usize = 100;
/// The detail of a refusal because of too many fields.
pub(super) const TOO_MANY_FIELDS: &str = "the request has more header fields than allowed";
/// Maximum number of empty lines before a request line (RFC 9112 section 2.2).
const MAX_LEADING_LINES: usize = 2;

/// The reason why the gateway rejects the bytes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct FramingError {
    /// The reason code.
    pub reason: ReasonCode,
    /// A description of the error for the caller.
    pub detail: &'static str,
}

pub(super) const fn malformed(detail: &'static str) -> FramingError {
    FramingError {
        reason: ReasonCode::MalformedRequest,
        detail,
    }
}

pub(super) const fn too_large(detail: &'static str) -> FramingError {
    FramingError {
        reason: ReasonCode::TooLarge,
        detail,
    }
}

/// How the gateway finds the end of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

/// Checks a complete head, from its first line to its empty line. `max_fields` is the maximum
/// number of header fields. Returns the framing of the body.
pub(super) fn check_head(head: &[u8], max_fields: usize) -> Result<Framing, FramingError> {
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
        fields.add(line, max_fields)?;
        bytes = rest;
    }
    fields.framing(&request)
}

fn next_line(bytes: &[u8]) -> Result<(&[u8], &[u8]), FramingError> {
    let end = memchr(b'\n', bytes).ok_or(malformed("the head ends within a line"))?;
    let (line, rest) = bytes.split_at(end + 1);
    let line = line
        .strip_suffix(b"\r\n")
        .ok_or(malformed("a line of the request's head ends without CR"))?;
    Ok((line, rest))
}

struct RequestLine<'a> {
    is_http_11: bool,
    /// The authority in the absolute form of the request target.
    authority: Option<&'a [u8]>,
}

fn request_line(line: &[u8]) -> Result<RequestLine<'_>, FramingError> {
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
    // The request target is parsed here, because hyper would reject a malformed one later, with a
    // response without a reason code.
    if http::Uri::try_from(target).is_err() {
        return Err(malformed(
            "the request target has characters that must be percent-encoded, or a malformed host",
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
    fn add(&mut self, line: &'a [u8], max_fields: usize) -> Result<(), FramingError> {
        self.count += 1;
        if self.count > max_fields {
            return Err(too_large(TOO_MANY_FIELDS));
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
                let length = content_length(value)
                    .ok_or(malformed("Content-Length is not a plain number"))?;
                if self.length.replace(length).is_some() {
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

    fn framing(&self, request: &RequestLine<'_>) -> Result<Framing, FramingError> {
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

/// Splits a field line into name and value, and checks every byte of both (RFC 9112 section 5).
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), FramingError> {
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

/// Returns whether `name` is Content-Length or Transfer-Encoding, or a spelling that a server might
/// read as one of them.
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

/// Parses one value of Content-Length. Only digits are allowed.
pub(crate) fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(value).ok()?.parse().ok()
}

pub(super) fn chunk_size(line: &[u8]) -> Result<u64, FramingError> {
    let bad = malformed("a chunk's size is not a plain hexadecimal number");
    let line = line.strip_suffix(b"\r\n").unwrap_or(line);
    let (digits, extension) = match memchr(b';', line) {
        Some(position) => line.split_at(position),
        None => (line, &b""[..]),
    };
    if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(bad);
    }
    // RFC 9112 section 7.1.1: the semicolon of a chunk extension must be followed by a name.
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

/// Returns whether a byte may be part of a token (RFC 9110 section 5.6.2).
pub(crate) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
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

/// Returns whether a byte may be part of a host with an optional port. Userinfo is not allowed.
const fn is_authority(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':' | b'[' | b']')
}

/// Returns the position after the empty line that ends a head. Returns `None` if there is no such
/// line yet. The search begins at `from`. Every line must end with CRLF.
pub(super) fn find_head_end(bytes: &[u8], from: usize) -> Result<Option<usize>, FramingError> {
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
