//! Where the frames of an h2 connection begin and end, and what of them matters to
//! those who follow a connection without speaking h2 (RFC 9113 section 4.1).

/// The client's connection preface (RFC 9113 section 3.4).
pub(super) const PREFACE: u32 = 24;
const HEADER: usize = 9;

/// Frame types (RFC 9113 section 6), and the flag of a stream's last frame.
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const END_STREAM: u8 = 1;

/// SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113 section 6.5.2), and the octets of one setting.
const INITIAL_WINDOW: u16 = 4;
const SETTING: usize = 6;

/// One direction: where its frames begin and end.
#[derive(Debug)]
pub(super) struct FrameScanner {
    header: [u8; HEADER],
    have: usize,
    /// Octets to pass over.
    skip: u32,
    /// The octets of the content of a frame that is looked into: its first ones, or one
    /// setting after the other.
    inside: Payload,
    /// The window that a SETTINGS frame gives to streams.
    window: Option<u32>,
}

#[derive(Debug)]
struct Payload {
    octets: [u8; 8],
    have: usize,
    want: usize,
}

/// A frame whose header, and as much of its content as matters, has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) length: u32,
    /// RST_STREAM and GOAWAY: the error code.
    pub(super) code: u32,
    /// WINDOW_UPDATE: what is added; SETTINGS: the window of streams, where it is said.
    pub(super) window: Option<u32>,
}

impl FrameScanner {
    /// Of a direction that begins with so many octets of something else.
    pub(super) const fn new(skip: u32) -> Self {
        Self {
            header: [0; HEADER],
            have: 0,
            skip,
            inside: Payload {
                octets: [0; 8],
                have: 0,
                want: 0,
            },
            window: None,
        }
    }

    /// Takes the octets that come next, and gives `each` frame that they complete.
    pub(super) fn advance(&mut self, mut octets: &[u8], mut each: impl FnMut(Frame)) {
        while !octets.is_empty() {
            if self.inside.have < self.inside.want {
                let Some((octet, rest)) = octets.split_first() else {
                    return;
                };
                if let Some(place) = self.inside.octets.get_mut(self.inside.have) {
                    *place = *octet;
                }
                self.inside.have += 1;
                self.skip = self.skip.saturating_sub(1);
                octets = rest;
                if self.inside.have == self.inside.want && self.is_whole() {
                    each(self.frame());
                }
                continue;
            }
            if self.skip > 0 {
                let available = u32::try_from(octets.len()).unwrap_or(u32::MAX);
                let step = self.skip.min(available);
                self.skip -= step;
                octets = octets
                    .get(usize::try_from(step).unwrap_or(usize::MAX)..)
                    .unwrap_or_default();
                continue;
            }
            let count = octets.len().min(HEADER - self.have);
            let (now, rest) = octets.split_at(count);
            if let Some(places) = self.header.get_mut(self.have..self.have + count) {
                places.copy_from_slice(now);
            }
            self.have += count;
            octets = rest;
            if self.have == HEADER {
                self.have = 0;
                self.window = None;
                self.inside.have = 0;
                let frame = self.frame();
                self.skip = frame.length;
                self.inside.want = match frame.kind {
                    RST_STREAM | WINDOW_UPDATE if frame.length >= 4 => 4,
                    SETTINGS if frame.length >= 6 => SETTING,
                    GOAWAY if frame.length >= 8 => 8,
                    _ => 0,
                };
                if self.inside.want == 0 {
                    each(frame);
                }
            }
        }
    }

    /// Whether everything that matters of a frame has passed.
    fn is_whole(&mut self) -> bool {
        let [_, _, _, kind, ..] = self.header;
        if kind != SETTINGS {
            return true;
        }
        let [a, b, c, d, e, f, ..] = self.inside.octets;
        if u16::from_be_bytes([a, b]) == INITIAL_WINDOW {
            self.window = Some(u32::from_be_bytes([c, d, e, f]));
        }
        let more = usize::try_from(self.skip).is_ok_and(|left| left >= SETTING);
        if more {
            self.inside.have = 0;
        }
        !more
    }

    fn frame(&self) -> Frame {
        let [a, b, c, kind, flags, d, e, f, g] = self.header;
        let [.., h, i, j, k] = self.inside.octets;
        let [l, m, n, o, ..] = self.inside.octets;
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
                WINDOW_UPDATE if self.inside.have >= 4 => {
                    Some(u32::from_be_bytes([l & 0x7f, m, n, o]))
                }
                _ => self.window,
            },
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
        let mut octets = u32::try_from(content.len()).unwrap().to_be_bytes()[1..].to_vec();
        octets.extend([kind, flags]);
        octets.extend(stream.to_be_bytes());
        octets.extend(content);
        octets
    }

    proptest! {
        /// Wherever reads begin and end, the same frames are seen.
        #[test]
        fn frames_are_found_in_any_pieces(
            frames in prop::collection::vec((0_u8..10, any::<u8>(), 0_u32..0x7fff_ffff, prop::collection::vec(prop_oneof![Just(0), Just(4), any::<u8>()], 0..24)), 0..12),
            size in 1_usize..40,
            preface: bool,
        ) {
            let skip = if preface { PREFACE } else { 0 };
            let mut octets = vec![0; skip as usize];
            for (kind, flags, stream, content) in &frames {
                octets.extend(frame(*kind, *flags, *stream, content));
            }
            let mut scan = FrameScanner::new(skip);
            let mut found = Vec::new();
            for piece in octets.chunks(size) {
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
