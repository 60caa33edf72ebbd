//! Compares the gateway's scanner of HTTP/2 frames with the simple parser of the testkit. Both
//! must find the same frames, for all sizes of reads.

use countersign_core::h2_frames::{self, FrameScanner};
use countersign_testkit::http2::{Frame, frames};

const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// Returns the frames that the scanner finds if the bytes arrive in pieces of `piece` bytes.
fn scan(octets: &[u8], piece: usize) -> Vec<h2_frames::Frame> {
    let mut scan = FrameScanner::new(0);
    let mut found = Vec::new();
    for octets in octets.chunks(piece) {
        scan.advance(octets, |frame| found.push(frame));
    }
    found
}

fn number(payload: &[u8], at: usize) -> Option<u32> {
    let octets = payload.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_be_bytes(octets))
}

/// Returns the value of SETTINGS_INITIAL_WINDOW_SIZE. If it occurs several times, the last one
/// counts.
fn initial_window(payload: &[u8]) -> Option<u32> {
    payload
        .chunks_exact(6)
        .filter(|setting| setting[..2] == [0, 4])
        .filter_map(|setting| number(setting, 2))
        .next_back()
}

fn check(found: &h2_frames::Frame, frame: &Frame) {
    assert_eq!(found.kind, frame.kind);
    assert_eq!(found.flags, frame.flags);
    assert_eq!(found.stream, frame.stream & 0x7fff_ffff);
    assert_eq!(usize::try_from(found.length), Ok(frame.payload.len()));
    let code = match frame.kind {
        RST_STREAM => number(&frame.payload, 0),
        GOAWAY => number(&frame.payload, 4),
        _ => None,
    };
    if let Some(code) = code {
        assert_eq!(found.code, code, "{frame:?}");
    }
    let window = match frame.kind {
        WINDOW_UPDATE => number(&frame.payload, 0).map(|more| more & 0x7fff_ffff),
        SETTINGS => initial_window(&frame.payload),
        _ => None,
    };
    assert_eq!(found.window, window, "{frame:?}");
}

/// The first byte of the input is the size of the pieces. The other bytes are what a peer sends
/// after its connection preface.
pub fn http2(data: &[u8]) {
    let Some((piece, octets)) = data.split_first() else {
        return;
    };
    let whole = frames(octets);
    let found = scan(octets, 1 + usize::from(*piece));
    // The scanner may report the last frame before all of its bytes have arrived. The simple
    // parser does not.
    assert!(
        found.len() == whole.len() || found.len() == whole.len() + 1,
        "{found:?} and {whole:?}"
    );
    for (found, frame) in found.iter().zip(&whole) {
        check(found, frame);
    }
    for piece in [1, octets.len().max(1)] {
        assert_eq!(scan(octets, piece), found, "pieces of {piece}");
    }
}
