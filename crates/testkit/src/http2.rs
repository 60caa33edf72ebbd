//! Single HTTP/2 frames (RFC 9113), for requests that no library would send.
//!
//! Header blocks contain only literals without indexing and without Huffman coding. Therefore a
//! test controls every byte.

/// Returns the connection preface of a client with an empty SETTINGS frame.
#[must_use]
pub fn preface() -> Vec<u8> {
    let mut octets = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    octets.extend(frame(4, 0, 0, &[]));
    octets
}

/// Returns a frame with any type, flags and payload.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut octets = length.to_be_bytes()[1..].to_vec();
    octets.extend([kind, flags]);
    octets.extend(stream.to_be_bytes());
    octets.extend_from_slice(payload);
    octets
}

/// Returns a HEADERS frame with these fields in this order, including pseudo-headers.
#[must_use]
pub fn headers(stream: u32, end_stream: bool, fields: &[(&str, &str)]) -> Vec<u8> {
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        literal(&mut block, name);
        literal(&mut block, value);
    }
    let flags = END_HEADERS | if end_stream { END_STREAM } else { 0 };
    frame(1, flags, stream, &block)
}

/// Returns a DATA frame.
#[must_use]
pub fn data(stream: u32, end_stream: bool, payload: &[u8]) -> Vec<u8> {
    frame(0, u8::from(end_stream), stream, payload)
}

/// Appends an HPACK string literal (RFC 7541 section 5.2) without Huffman coding.
fn literal(block: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    if length < 127 {
        block.push(u8::try_from(length).unwrap_or_default());
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push(u8::try_from(length % 128).unwrap_or_default() | 128);
            length /= 128;
        }
        block.push(u8::try_from(length).unwrap_or_default());
    }
    block.extend_from_slice(text.as_bytes());
}

/// A frame in the bytes that a test received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The frame type: 0 DATA, 1 HEADERS, 3 RST_STREAM, 7 GOAWAY.
    pub kind: u8,
    /// The flags of the frame.
    pub flags: u8,
    /// The stream identifier.
    pub stream: u32,
    /// The payload without the frame header.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Returns whether the frame begins a response with status 200. Encoders send this status as
    /// entry 8 of the static HPACK table, which is the byte 0x88.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.kind == 1 && self.payload.first() == Some(&0x88)
    }
}

/// Splits received bytes into frames. An incomplete last frame is left out.
#[must_use]
pub fn frames(mut octets: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let [a, b, c, kind, flags, s0, s1, s2, s3, rest @ ..] = octets {
        let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap_or(usize::MAX);
        let Some(payload) = rest.get(..length) else {
            break;
        };
        frames.push(Frame {
            kind: *kind,
            flags: *flags,
            stream: u32::from_be_bytes([s0 & 0x7f, *s1, *s2, *s3]),
            payload: payload.to_vec(),
        });
        octets = &rest[length..];
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written() {
        let mut octets = headers(1, true, &[(":status", "200"), ("long", &"x".repeat(300))]);
        octets.extend(data(1, true, b"ab"));
        octets.extend([0, 0, 9]);
        let read = frames(&octets);
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].kind, read[0].flags, read[0].stream), (1, 5, 1));
        assert_eq!(read[1].payload, b"ab");
    }
}
