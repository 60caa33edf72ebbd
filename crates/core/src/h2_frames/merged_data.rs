//! `MergedData`: an HTTP/2 connection whose reader gets fewer and larger DATA frames. It merges
//! small DATA frames and removes empty ones.
//!
//! The boundaries of DATA frames have no meaning (RFC 9113 section 6.1). An empty DATA frame that
//! does not end its stream has no effect. h2 closes a connection after a hundred empty DATA frames,
//! or if about a thousand small DATA frames wait to be read. But many peers send such frames:
//! servers that flush each piece, proxies that forward frames as they arrive, and attackers.
//!
//! This module does not limit the number of frames. The code that uses it must count the frames
//! before they reach this module, and reject too many of them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{DATA, END_STREAM};

/// Length of a frame header in bytes.
const HEADER: usize = 9;
/// Flag of a DATA frame with padding. Such a frame cannot be removed or merged, because its padding
/// uses up space of the flow-control windows (RFC 9113 section 6.1).
const PADDED: u8 = 8;

/// Maximum payload of a merged frame. Every peer accepts this size (RFC 9113 section 6.5.2: the
/// initial value of SETTINGS_MAX_FRAME_SIZE).
const MAX_PAYLOAD: usize = 16_384;

/// Finds the frames that can be removed or merged.
#[derive(Debug)]
struct Filter {
    /// The first bytes of a frame header that is not complete yet.
    held: [u8; HEADER],
    /// Number of bytes in `held`.
    have: usize,
    /// Number of bytes that must be skipped until the next frame header.
    skip: usize,
}

/// A DATA frame whose header is in the reader's buffer, where it can be changed. The next DATA
/// frame may be merged into this frame.
struct Open {
    /// Position of the frame header in the buffer.
    at: usize,
    stream: [u8; 4],
    /// Length of the frame's payload in bytes.
    length: usize,
}

impl Filter {
    /// Moves the bytes that the reader should get to the front of `bytes`, and returns their
    /// number. `bytes` must begin with the bytes in `held`. If `bytes` ends within a frame header,
    /// the part of this header is stored in `held`.
    fn keep(&mut self, bytes: &mut [u8]) -> usize {
        let mut kept = 0;
        let mut at = 0;
        let mut open: Option<Open> = None;
        self.have = 0;
        loop {
            let passed = self.skip.min(bytes.len() - at);
            copy_down(bytes, at, kept, passed);
            self.skip -= passed;
            at += passed;
            kept += passed;
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(header) = rest.first_chunk::<HEADER>().copied() else {
                if let Some(held) = self.held.get_mut(..rest.len()) {
                    held.copy_from_slice(rest);
                    self.have = rest.len();
                }
                return kept;
            };
            if is_needless(&header) {
                at += HEADER;
                continue;
            }
            let length = payload_length(&header);
            let [_, _, _, kind, flags, stream @ ..] = header;
            let is_plain = kind == DATA && flags & !END_STREAM == 0;
            match &mut open {
                Some(first)
                    if is_plain
                        && first.stream == stream
                        && first.length + length <= MAX_PAYLOAD =>
                {
                    first.length += length;
                    extend(bytes, first, flags);
                    at += HEADER;
                    self.skip = length;
                }
                _ => {
                    open = is_plain.then_some(Open {
                        at: kept,
                        stream,
                        length,
                    });
                    self.skip = HEADER.saturating_add(length);
                }
            }
            if flags & END_STREAM != 0 {
                open = None;
            }
        }
    }
}

/// Writes the new length of a merged frame into its header. Also writes the flags of the last frame
/// that was merged into it.
fn extend(bytes: &mut [u8], frame: &Open, flags: u8) {
    let [_, a, b, c] = u32::try_from(frame.length)
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    if let Some(header) = bytes.get_mut(frame.at..frame.at + 5) {
        header.copy_from_slice(&[a, b, c, DATA, flags]);
    }
}

/// Moves `count` bytes within `bytes`, from position `from` to position `to`. `to` must not be
/// greater than `from`.
fn copy_down(bytes: &mut [u8], from: usize, to: usize, count: usize) {
    // If no frame was removed or merged before, the positions are equal, and no byte must be moved.
    // This is the usual case.
    if from != to {
        bytes.copy_within(from..from + count, to);
    }
}

fn payload_length(header: &[u8; HEADER]) -> usize {
    let [a, b, c, ..] = *header;
    usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX)
}

fn is_needless(header: &[u8; HEADER]) -> bool {
    let [.., kind, flags, _, _, _, _] = *header;
    kind == DATA && flags & (END_STREAM | PADDED) == 0 && payload_length(header) == 0
}

/// A connection that merges small DATA frames for its reader, and removes empty ones.
#[derive(Debug)]
pub struct MergedData<S> {
    inner: S,
    filter: Filter,
    /// A complete frame header that does not fit into the reader's buffer.
    late: [u8; HEADER],
    /// Number of bytes of `late` that the reader has not received.
    late_left: usize,
}

impl<S> MergedData<S> {
    /// Creates a connection that reads from `inner`. In `inner`, the first frame begins after
    /// `skip` bytes.
    pub fn new(inner: S, skip: u32) -> Self {
        Self {
            inner,
            filter: Filter {
                held: [0; HEADER],
                have: 0,
                skip: usize::try_from(skip).unwrap_or(usize::MAX),
            },
            late: [0; HEADER],
            late_left: 0,
        }
    }

    /// Copies bytes of `late` to the reader's buffer.
    fn give_late(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = self.late_left.min(buffer.remaining());
        let from = HEADER - self.late_left;
        buffer.put_slice(self.late.get(from..from + count).unwrap_or_default());
        self.late_left -= count;
    }
}

impl<S: AsyncRead + Unpin> MergedData<S> {
    /// Reads the rest of a frame header that does not fit into the reader's buffer. Returns `true`
    /// if the connection has ended.
    fn poll_header(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.filter.have < HEADER {
            let mut header = ReadBuf::new(
                self.filter
                    .held
                    .get_mut(self.filter.have..)
                    .unwrap_or_default(),
            );
            ready!(Pin::new(&mut self.inner).poll_read(context, &mut header))?;
            match header.filled().len() {
                0 => return Poll::Ready(Ok(true)),
                count => self.filter.have += count,
            }
        }
        self.filter.have = 0;
        if !is_needless(&self.filter.held) {
            self.late = self.filter.held;
            self.late_left = HEADER;
            self.filter.skip = payload_length(&self.late);
        }
        Poll::Ready(Ok(false))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MergedData<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let start = buffer.filled().len();
        while buffer.remaining() > 0 {
            if this.late_left > 0 {
                this.give_late(buffer);
                return Poll::Ready(Ok(()));
            }
            let have = this.filter.have;
            if have > 0 && buffer.remaining() <= have {
                if ready!(this.poll_header(context))? {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            buffer.put_slice(this.filter.held.get(..have).unwrap_or_default());
            let polled = Pin::new(&mut this.inner).poll_read(context, buffer);
            let bytes = buffer.filled_mut().get_mut(start..).unwrap_or_default();
            let has_read = polled.is_ready() && bytes.len() > have;
            if !has_read {
                // No byte was read, so the bytes of `held` are taken out of the buffer again. If
                // the connection has ended, they are never delivered, because they are an
                // incomplete frame header.
                buffer.set_filled(start);
                return polled;
            }
            let kept = this.filter.keep(bytes);
            buffer.set_filled(start + kept);
            if kept > 0 || matches!(polled, Poll::Ready(Err(_))) {
                return polled;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MergedData<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;

    use super::super::fixture::frame;
    use super::*;

    /// A connection that returns its bytes in pieces. `sizes` are the sizes of the pieces in turn.
    struct Pieces {
        bytes: Vec<u8>,
        at: usize,
        sizes: Vec<usize>,
        turn: usize,
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let size = self.sizes[self.turn % self.sizes.len()];
            self.turn += 1;
            let size = size.min(buffer.remaining()).min(self.bytes.len() - self.at);
            buffer.put_slice(&self.bytes[self.at..self.at + size]);
            self.at += size;
            Poll::Ready(Ok(()))
        }
    }

    /// Reads all bytes into buffers of `room` bytes.
    fn read(bytes: Vec<u8>, skip: u32, sizes: Vec<usize>, room: usize) -> Vec<u8> {
        let pieces = Pieces {
            bytes,
            at: 0,
            sizes,
            turn: 0,
        };
        let mut connection = MergedData::new(pieces, skip);
        let mut context = Context::from_waker(Waker::noop());
        let mut read = Vec::new();
        loop {
            let mut bytes = vec![0; room];
            let mut buffer = ReadBuf::new(&mut bytes);
            let polled = Pin::new(&mut connection).poll_read(&mut context, &mut buffer);
            assert!(matches!(polled, Poll::Ready(Ok(()))));
            if buffer.filled().is_empty() {
                return read;
            }
            read.extend_from_slice(buffer.filled());
        }
    }

    /// Returns the frames in a form that does not depend on the sizes of DATA frames: successive
    /// DATA frames of one stream are joined, and empty DATA frames are left out. All other frames
    /// are unchanged.
    fn meaning(bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
        let mut all: Vec<(u8, u8, u32, Vec<u8>)> = Vec::new();
        let mut rest = bytes;
        while let Some(header) = rest.first_chunk::<HEADER>() {
            let length = payload_length(header);
            let [_, _, _, kind, flags, a, b, c, d] = *header;
            let stream = u32::from_be_bytes([a, b, c, d]);
            let payload = rest[HEADER..HEADER + length].to_vec();
            rest = &rest[HEADER + length..];
            let plain = kind == DATA && flags & !END_STREAM == 0;
            match all.last_mut() {
                _ if is_needless(header) => {}
                Some((DATA, 0, last, content)) if plain && *last == stream => {
                    content.extend(payload);
                    all.last_mut().unwrap().1 = flags;
                }
                _ => all.push((kind, flags, stream, payload)),
            }
        }
        assert!(rest.is_empty());
        all
    }

    proptest! {
        /// The content and all other frames stay unchanged, for all ways of splitting the bytes
        /// into reads.
        #[test]
        fn only_the_cut_of_content_changes(
            frames in prop::collection::vec(
                (prop_oneof![3 => Just(DATA), 1 => 0_u8..10], prop_oneof![6 => Just(0), 1 => Just(END_STREAM), 1 => Just(PADDED), 1 => Just(4)], 0_u32..3, prop_oneof![Just(Vec::new()), prop::collection::vec(any::<u8>(), 0..24)]),
                0..24,
            ),
            sizes in prop::collection::vec(1_usize..90, 1..6),
            room in 1_usize..90,
            skip in 0_u32..30,
        ) {
            let preface = vec![0; skip as usize];
            let mut sent = preface.clone();
            for (kind, flags, stream, content) in &frames {
                sent.extend(frame(*kind, *flags, *stream, content));
            }
            let read = read(sent.clone(), skip, sizes, room);
            let (before, after) = (&sent[preface.len()..], &read[preface.len()..]);
            prop_assert_eq!(meaning(before), meaning(after));
            prop_assert!(after.len() <= before.len());
        }
    }

    #[test]
    fn small_frames_of_one_stream_become_one() {
        let small = |stream, end| frame(DATA, u8::from(end), stream, b"0123456789");
        let sent = [small(1, false).repeat(3), small(3, true), small(1, true)].concat();
        let expected = [
            frame(DATA, 0, 1, &b"0123456789".repeat(3)),
            small(3, true),
            small(1, true),
        ];
        assert_eq!(read(sent, 0, vec![4096], 4096), expected.concat());
        // A merged frame does not exceed `MAX_PAYLOAD`.
        let large = frame(DATA, 0, 1, &[7; 9_000]);
        let read = read(large.repeat(3), 0, vec![1 << 16], 1 << 16);
        assert_eq!(read, large.repeat(3));
    }

    #[test]
    fn nothing_is_read_where_nothing_comes() {
        assert!(read(Vec::new(), 0, vec![9], 64).is_empty());
        // An incomplete frame header is not delivered to the reader.
        assert!(read(frame(DATA, 0, 1, b"content")[..8].to_vec(), 0, vec![3], 64).is_empty());
    }
}
