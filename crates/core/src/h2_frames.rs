//! `FrameScanner`: finds the frames in the bytes of an HTTP/2 connection (RFC 9113 section 4.1). It
//! reads a few fields of these frames. The gateway needs these fields, but the HTTP library does
//! not report them. [`merged_data`] merges small DATA frames into larger frames.

#[cfg(any(test, feature = "testing"))]
pub mod fixture;
pub mod merged_data;

/// Length of the client's connection preface in bytes (RFC 9113 section 3.4).
pub const PREFACE: u32 = 24;
/// Length of a frame header in bytes.
const HEADER: usize = 9;

/// Type of frames with content (RFC 9113 section 6.1).
pub const DATA: u8 = 0;
/// Type of frames with a head or trailers (section 6.2).
pub const HEADERS: u8 = 1;
/// Type of frames that reset a stream (section 6.4).
pub const RST_STREAM: u8 = 3;
/// Type of frames with a peer's settings (section 6.5).
pub const SETTINGS: u8 = 4;
/// Type of frames that end a connection (section 6.8).
pub const GOAWAY: u8 = 7;
/// Type of frames that enlarge a flow-control window (section 6.9).
pub const WINDOW_UPDATE: u8 = 8;
/// Flag of the last DATA or HEADERS frame that a peer sends on a stream.
pub const END_STREAM: u8 = 1;
/// Flag of a SETTINGS frame that only acknowledges the other peer's settings.
pub const ACK: u8 = 1;

/// Identifiers of the settings SETTINGS_HEADER_TABLE_SIZE, SETTINGS_INITIAL_WINDOW_SIZE and
/// SETTINGS_MAX_HEADER_LIST_SIZE (RFC 9113 section 6.5.2), and SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC
/// 8441 section 3).
const HEADER_TABLE_SIZE: u16 = 1;
const INITIAL_WINDOW: u16 = 4;
const MAX_HEADER_LIST_SIZE: u16 = 6;
const ENABLE_CONNECT_PROTOCOL: u16 = 8;
/// Length of one setting in bytes.
pub const SETTING: usize = 6;

/// The frame scanner for one direction of a connection.
#[derive(Debug)]
pub struct FrameScanner {
    header: [u8; HEADER],
    /// Number of bytes of `header` that were read.
    have: usize,
    /// Number of bytes to skip: the preface, or the rest of a frame's payload.
    skip: u32,
    /// The part of the current frame's payload that the scanner keeps to read fields.
    payload: Payload,
    /// The settings that were read from the current SETTINGS frame.
    settings: Settings,
}

/// The settings in one SETTINGS frame. A setting that the frame does not contain is `None`. If a
/// setting occurs several times in the frame, the last value is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// Maximum size of the table of the peer's HPACK decoder.
    pub header_table_size: Option<u32>,
    /// The initial window of each stream in bytes.
    pub initial_window: Option<u32>,
    /// Maximum size of a head that the peer accepts. The size is computed as in RFC 9113 section
    /// 6.5.2.
    pub max_header_list_size: Option<u32>,
    /// Whether extended CONNECT is allowed.
    pub connect_protocol: Option<bool>,
}

/// The first bytes of a frame's payload. In a SETTINGS frame, these are the bytes of the setting
/// that is being read.
#[derive(Debug)]
struct Payload {
    bytes: [u8; 8],
    have: usize,
    want: usize,
}

/// The values that the scanner has read from one frame's header and payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The frame's type.
    pub kind: u8,
    /// The frame's flags.
    pub flags: u8,
    /// The identifier of the frame's stream. 0 means that the frame is about the whole connection.
    pub stream: u32,
    /// Length of the payload in bytes.
    pub length: u32,
    /// The error code in an RST_STREAM or GOAWAY frame. 0 in other frames.
    pub code: u32,
    /// In a WINDOW_UPDATE frame, the increment of the window. In a SETTINGS frame, the initial
    /// window of streams. `None` if the frame sets neither of these values.
    pub window: Option<u32>,
    /// The values that a SETTINGS frame sets.
    pub settings: Settings,
}

impl FrameScanner {
    /// Creates the scanner for one direction of a connection. The first frame begins after `skip`
    /// bytes.
    #[must_use]
    pub const fn new(skip: u32) -> Self {
        Self {
            header: [0; HEADER],
            have: 0,
            skip,
            payload: Payload {
                bytes: [0; 8],
                have: 0,
                want: 0,
            },
            settings: Settings {
                header_table_size: None,
                initial_window: None,
                max_header_list_size: None,
                connect_protocol: None,
            },
        }
    }

    /// Returns the number of bytes before the next frame. Returns `None` within a frame header,
    /// because the length of that frame is not known.
    #[must_use]
    pub fn until_next_frame(&self) -> Option<u32> {
        (self.have == 0).then_some(self.skip)
    }

    /// Reads the next bytes of the connection. Calls `each` for every frame whose fields these
    /// bytes complete.
    pub fn advance(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            if self.payload.have < self.payload.want {
                let Some((byte, rest)) = bytes.split_first() else {
                    return;
                };
                if let Some(place) = self.payload.bytes.get_mut(self.payload.have) {
                    *place = *byte;
                }
                self.payload.have += 1;
                self.skip = self.skip.saturating_sub(1);
                bytes = rest;
                if self.payload.have == self.payload.want && self.is_whole() {
                    each(self.frame());
                }
                continue;
            }
            if self.skip > 0 {
                let available = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                let step = self.skip.min(available);
                self.skip -= step;
                bytes = bytes
                    .get(usize::try_from(step).unwrap_or(usize::MAX)..)
                    .unwrap_or_default();
                continue;
            }
            let count = bytes.len().min(HEADER - self.have);
            let (now, rest) = bytes.split_at(count);
            if let Some(places) = self.header.get_mut(self.have..self.have + count) {
                places.copy_from_slice(now);
            }
            self.have += count;
            bytes = rest;
            if self.have == HEADER {
                self.have = 0;
                self.settings = Settings::default();
                self.payload.have = 0;
                let frame = self.frame();
                self.skip = frame.length;
                self.payload.want = match frame.kind {
                    RST_STREAM | WINDOW_UPDATE if frame.length >= 4 => 4,
                    SETTINGS if frame.length >= 6 => SETTING,
                    GOAWAY if frame.length >= 8 => 8,
                    _ => 0,
                };
                if self.payload.want == 0 {
                    each(frame);
                }
            }
        }
    }

    /// Returns whether all needed fields of the frame were read. In a SETTINGS frame, stores the
    /// setting that was read. If the frame has a further setting, prepares to read this setting and
    /// returns `false`.
    fn is_whole(&mut self) -> bool {
        let [_, _, _, kind, ..] = self.header;
        if kind != SETTINGS {
            return true;
        }
        let [a, b, c, d, e, f, ..] = self.payload.bytes;
        let value = u32::from_be_bytes([c, d, e, f]);
        match u16::from_be_bytes([a, b]) {
            HEADER_TABLE_SIZE => self.settings.header_table_size = Some(value),
            INITIAL_WINDOW => self.settings.initial_window = Some(value),
            MAX_HEADER_LIST_SIZE => self.settings.max_header_list_size = Some(value),
            ENABLE_CONNECT_PROTOCOL => self.settings.connect_protocol = Some(value == 1),
            _ => {}
        }
        let more = usize::try_from(self.skip).is_ok_and(|left| left >= SETTING);
        if more {
            self.payload.have = 0;
        }
        !more
    }

    fn frame(&self) -> Frame {
        let [a, b, c, kind, flags, d, e, f, g] = self.header;
        let [.., h, i, j, k] = self.payload.bytes;
        let [l, m, n, o, ..] = self.payload.bytes;
        Frame {
            kind,
            flags,
            length: u32::from_be_bytes([0, a, b, c]),
            stream: u32::from_be_bytes([d & 0x7f, e, f, g]),
            code: match kind {
                RST_STREAM => u32::from_be_bytes([l, m, n, o]),
                GOAWAY => u32::from_be_bytes([h, i, j, k]),
                _ => 0,
            },
            window: match kind {
                WINDOW_UPDATE if self.payload.have >= 4 => {
                    Some(u32::from_be_bytes([l & 0x7f, m, n, o]))
                }
                _ => self.settings.initial_window,
            },
            settings: self.settings,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::fixture::frame;
    use super::*;

    proptest! {
        /// The scanner finds the same frames for all ways of splitting the bytes into reads.
        #[test]
        fn frames_are_found_in_any_pieces(
            frames in prop::collection::vec((0_u8..10, any::<u8>(), 0_u32..0x7fff_ffff, prop::collection::vec(prop_oneof![Just(0), Just(4), any::<u8>()], 0..24)), 0..12),
            size in 1_usize..40,
            preface: bool,
        ) {
            let skip = if preface { PREFACE } else { 0 };
            let mut bytes = vec![0; skip as usize];
            for (kind, flags, stream, content) in &frames {
                bytes.extend(frame(*kind, *flags, *stream, content));
            }
            let mut scan = FrameScanner::new(skip);
            let mut found = Vec::new();
            for piece in bytes.chunks(size) {
                scan.advance(piece, |frame| found.push(frame));
            }
            prop_assert_eq!(found.len(), frames.len());
            for (found, (kind, flags, stream, content)) in found.iter().zip(&frames) {
                prop_assert_eq!((found.kind, found.flags, found.stream), (*kind, *flags, *stream));
                prop_assert_eq!(found.length as usize, content.len());
                let code = |from: usize| {
                    content.get(from..from + 4).map(|code| u32::from_be_bytes(code.try_into().unwrap()))
                };
                let setting = |setting: &[u8]| {
                    (setting[..2] == [0, 4]).then(|| u32::from_be_bytes(setting[2..].try_into().unwrap()))
                };
                let window = match *kind {
                    SETTINGS => content.chunks_exact(SETTING).filter_map(setting).next_back(),
                    WINDOW_UPDATE if content.len() >= 4 => code(0).map(|more| more & 0x7fff_ffff),
                    _ => None,
                };
                prop_assert_eq!(found.window, window);
                match *kind {
                    RST_STREAM if content.len() >= 4 => prop_assert_eq!(Some(found.code), code(0)),
                    GOAWAY if content.len() >= 8 => prop_assert_eq!(Some(found.code), code(4)),
                    _ => {}
                }
            }
        }
    }
}
