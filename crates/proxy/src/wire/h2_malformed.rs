//! `MalformedResponder`: responds to the requests over HTTP/2 that h2 resets because they are
//! malformed.
//!
//! h2 resets the stream of a malformed request, and no handler sees the request. The caller would
//! not learn the reason. RFC 9113 section 8.1.1 allows a response before the reset.
//! `MalformedResponder` therefore replaces the reset by a response, if no response has begun on the
//! stream. It does not change the bytes that h2 receives.
//!
//! If the caller is still sending the request, the reset is sent later. Some callers lose a
//! response that arrives together with a reset.
//!
//! The response has no content, because h2 does not know of this response. The content would count
//! in the caller's flow-control windows, but not in h2's copies of these windows.

use std::collections::VecDeque;
use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, HeaderName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::refusal::{REASON, REQUEST_ID};
use crate::h2_frames::{
    ACK, DATA, END_STREAM, Frame, FrameScanner, HEADERS, PREFACE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE,
};
use crate::reason::ReasonCode;

/// The type of PRIORITY frames (RFC 9113 section 6.3).
const PRIORITY: u8 = 2;
/// Length of a frame header, and of an RST_STREAM frame.
const HEADER: usize = 9;
const RESET: usize = HEADER + 4;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
/// The status of the response, and its encoding: entry 12 of the static table (RFC 7541 appendix
/// A).
pub(crate) const STATUS: u16 = 400;
const STATUS_FIELD: u8 = 0x80 | 12;
/// Initial size of an HPACK table in bytes. h2 never uses a larger table.
const TABLE_SIZE: u32 = 4096;
/// Maximum time in which the rest of a request may arrive after the response. The stream is then
/// reset. The time is shorter than the second for which h2 ignores frames of a stream that it has
/// reset.
const REST_TIMEOUT: Duration = Duration::from_millis(900);
/// The maximum number of remembered streams is the limit of concurrent streams plus this number.
/// The additional streams are those whose resets h2 has not yet written.
const MORE_STREAMS: u32 = 64;

/// A stream on which the caller has sent a head, and the gateway has sent nothing.
#[derive(Debug, Clone, Copy)]
struct OpenStream {
    id: u32,
    /// Whether the request has ended.
    is_whole: bool,
    /// Whether the caller has sent another frame for which h2 resets a stream: a further HEADERS
    /// frame, or a WINDOW_UPDATE frame with the increment 0. The head itself may then be
    /// well-formed.
    has_other_fault: bool,
}

/// The streams on which the gateway has sent nothing, the oldest first.
#[derive(Debug)]
struct OpenStreams {
    streams: VecDeque<OpenStream>,
    last: u32,
    max: usize,
}

impl OpenStreams {
    fn find(&mut self, id: u32) -> Option<&mut OpenStream> {
        self.streams.iter_mut().rev().find(|open| open.id == id)
    }

    fn forget(&mut self, id: u32) -> Option<OpenStream> {
        let at = self.streams.iter().position(|open| open.id == id)?;
        self.streams.remove(at)
    }

    fn received(&mut self, frame: Frame) {
        let ends = frame.flags & END_STREAM != 0;
        match frame.kind {
            HEADERS if frame.stream > self.last => {
                self.last = frame.stream;
                // After its GOAWAY, h2 ignores further heads and sends nothing on their streams.
                // These streams would stay in the list, so the oldest stream is dropped.
                if self.streams.len() >= self.max {
                    self.streams.pop_front();
                }
                self.streams.push_back(OpenStream {
                    id: frame.stream,
                    is_whole: ends,
                    has_other_fault: false,
                });
            }
            HEADERS | DATA => {
                if let Some(open) = self.find(frame.stream) {
                    open.is_whole |= ends;
                    open.has_other_fault |= frame.kind == HEADERS;
                }
            }
            // h2 resets a stream also if a PRIORITY frame makes it depend on itself. The request may
            // be in progress then.
            PRIORITY => {
                if let Some(open) = self.find(frame.stream) {
                    open.has_other_fault = true;
                }
            }
            WINDOW_UPDATE if frame.window == Some(0) => {
                if let Some(open) = self.find(frame.stream) {
                    open.has_other_fault = true;
                }
            }
            RST_STREAM => {
                self.forget(frame.stream);
            }
            _ => {}
        }
    }

    /// Returns the stream, if a response must replace a reset of this stream.
    fn malformed(&self, id: u32) -> Option<OpenStream> {
        let mut streams = self.streams.iter();
        let open = streams.find(|open| open.id == id)?;
        (!open.has_other_fault).then_some(*open)
    }
}

/// The size of the table in the caller's HPACK decoder. If the table becomes smaller, the next
/// field block must begin with the new size (RFC 7541 section 4.2).
#[derive(Debug, Default)]
struct TableUpdate {
    /// The smallest size in SETTINGS frames of the caller that h2 has not acknowledged.
    announced: Option<u32>,
    /// The smallest acknowledged size, if no field block has begun with it yet.
    due: Option<u32>,
}

impl TableUpdate {
    fn received(&mut self, frame: Frame) {
        if let (SETTINGS, Some(size)) = (frame.kind, frame.settings.header_table_size) {
            self.announced = smaller(self.announced, size);
        }
    }

    fn sent(&mut self, frame: Frame) {
        match frame.kind {
            SETTINGS if frame.flags & ACK != 0 => {
                if let Some(size) = self.announced.take().filter(|size| *size < TABLE_SIZE) {
                    self.due = smaller(self.due, size);
                }
            }
            // The block that h2 has sent begins with this size.
            HEADERS => self.due = None,
            _ => {}
        }
    }
}

fn smaller(size: Option<u32>, other: u32) -> Option<u32> {
    Some(size.map_or(other, |size| size.min(other)))
}

/// The streams that are reset later, because their requests have not ended. They are few, because
/// h2 ends a connection that has many malformed requests.
#[derive(Debug, Default)]
struct LateResets {
    /// The streams and the times of their resets. The stream that is reset next comes first.
    streams: VecDeque<(u32, Instant)>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl LateResets {
    fn add(&mut self, stream: u32) {
        let due = Instant::now() + REST_TIMEOUT;
        self.streams.push_back((stream, due));
    }

    /// Handles a frame from the caller. If the frame ends the request, the reset is due now,
    /// because some callers notice the end of the stream only when they receive another frame. If
    /// the frame resets the stream, the gateway sends no reset.
    fn received(&mut self, frame: Frame) {
        let late = |(stream, _): &(u32, Instant)| *stream == frame.stream;
        match frame.kind {
            DATA | HEADERS if frame.flags & END_STREAM != 0 && self.streams.iter().any(late) => {
                self.forget(frame.stream);
                self.streams.push_front((frame.stream, Instant::now()));
            }
            RST_STREAM => self.forget(frame.stream),
            _ => {}
        }
    }

    fn forget(&mut self, id: u32) {
        if !self.streams.is_empty() {
            self.streams.retain(|(stream, _)| *stream != id);
        }
    }

    /// Resolves with a stream when it must be reset. Stays pending if no stream must be reset.
    fn poll_due(&mut self, context: &mut Context<'_>) -> Poll<u32> {
        let Some((stream, due)) = self.streams.front().copied() else {
            self.timer = None;
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(context).map(|()| stream)
    }
}

/// A malformed request to which the gateway responds.
pub(crate) struct RefusedRequest {
    pub(crate) request_id: Arc<str>,
    /// Called when the response has been written completely.
    pub(crate) when_written: Box<dyn FnOnce() + Send>,
}

/// Frames of the gateway that are not written completely. They are no part of h2's output.
struct PendingFrames {
    bytes: Vec<u8>,
    written: usize,
    when_written: Option<Box<dyn FnOnce() + Send>>,
}

/// A connection on which malformed requests get a response.
pub(crate) struct MalformedResponder<S, F> {
    inner: S,
    incoming: FrameScanner,
    outgoing: FrameScanner,
    open: OpenStreams,
    table: TableUpdate,
    /// Whether the next frame that h2 writes is a CONTINUATION frame. No other frame may be written
    /// before it (RFC 9113 section 6.2).
    in_field_block: bool,
    pending: Option<PendingFrames>,
    late: LateResets,
    record: F,
}

impl<S, F: FnMut() -> RefusedRequest> MalformedResponder<S, F> {
    /// Wraps a connection. `max_streams` is the maximum number of concurrent streams. `record` is
    /// called for each malformed request, and records it.
    pub(crate) fn new(inner: S, max_streams: u32, record: F) -> Self {
        let max = max_streams.saturating_add(MORE_STREAMS);
        Self {
            inner,
            incoming: FrameScanner::new(PREFACE),
            outgoing: FrameScanner::new(0),
            open: OpenStreams {
                streams: VecDeque::new(),
                last: 0,
                max: usize::try_from(max).unwrap_or(usize::MAX),
            },
            table: TableUpdate::default(),
            in_field_block: false,
            pending: None,
            late: LateResets::default(),
            record,
        }
    }

    fn received(&mut self, bytes: &[u8]) {
        let (open, table, late) = (&mut self.open, &mut self.table, &mut self.late);
        self.incoming.advance(bytes, |frame| {
            open.received(frame);
            table.received(frame);
            late.received(frame);
        });
    }

    fn sent(&mut self, bytes: &[u8]) {
        let (open, table, late) = (&mut self.open, &mut self.table, &mut self.late);
        let in_field_block = &mut self.in_field_block;
        self.outgoing.advance(bytes, |frame| {
            if matches!(frame.kind, HEADERS | RST_STREAM) {
                open.forget(frame.stream);
                late.forget(frame.stream);
            }
            if matches!(frame.kind, HEADERS | CONTINUATION) {
                *in_field_block = frame.flags & END_HEADERS == 0;
            }
            table.sent(frame);
        });
    }

    /// Determines how the beginning of `bytes`, which h2 wants to write, must be handled.
    fn next_part(&self, bytes: &[u8]) -> Part {
        if self.open.streams.is_empty() {
            return Part::All;
        }
        let Some(before) = self.outgoing.until_next_frame() else {
            // The last write ended within a frame header.
            return Part::Only(1);
        };
        let mut at = usize::try_from(before).unwrap_or(usize::MAX);
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            // h2 writes each RST_STREAM frame from one buffer.
            if let Some(id) = protocol_error(rest)
                && let Some(open) = self.open.malformed(id)
            {
                return match at {
                    0 => Part::Reset(open),
                    _ => Part::Only(at),
                };
            }
            let Some([a, b, c, ..]) = rest.first_chunk::<HEADER>() else {
                return Part::All;
            };
            let length = u32::from_be_bytes([0, *a, *b, *c]);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            at = at.saturating_add(HEADER).saturating_add(length);
        }
    }

    /// Prepares the response that replaces the reset of a stream.
    fn respond(&mut self, open: OpenStream) {
        self.open.forget(open.id);
        let refused = (self.record)();
        let block = field_block(self.table.due.take(), &refused.request_id);
        let mut bytes = Vec::with_capacity(HEADER + block.len() + RESET);
        push_frame(
            &mut bytes,
            HEADERS,
            END_STREAM | END_HEADERS,
            open.id,
            &block,
        );
        if open.is_whole {
            let code = PROTOCOL_ERROR.to_be_bytes();
            push_frame(&mut bytes, RST_STREAM, 0, open.id, &code);
        } else {
            self.late.add(open.id);
        }
        // These bytes are not written by h2, so `sent` is not called for them.
        self.pending = Some(PendingFrames {
            bytes,
            written: 0,
            when_written: Some(refused.when_written),
        });
    }
}

/// How the beginning of the bytes that h2 wants to write must be handled.
#[derive(Debug)]
enum Part {
    All,
    /// Write only this number of bytes.
    Only(usize),
    /// Write a response instead of the RST_STREAM frame at the beginning of the bytes.
    Reset(OpenStream),
}

/// Returns the stream if the bytes begin with an RST_STREAM frame that has the code PROTOCOL_ERROR.
fn protocol_error(bytes: &[u8]) -> Option<u32> {
    let [a, b, c, kind, _, d, e, f, g, code @ ..] = *bytes.first_chunk::<RESET>()?;
    let is_reset = kind == RST_STREAM && [a, b, c] == [0, 0, 4];
    let is_malformed = is_reset && u32::from_be_bytes(code) == PROTOCOL_ERROR;
    is_malformed.then(|| u32::from_be_bytes([d & 0x7f, e, f, g]))
}

/// Encodes the header fields of the response. The fields are literals without indexing, which do
/// not change the table of the caller's decoder (RFC 7541 section 6.2.2).
fn field_block(table_update: Option<u32>, request_id: &str) -> Vec<u8> {
    let mut block = Vec::new();
    if let Some(size) = table_update {
        push_integer(&mut block, 0x20, 5, size);
    }
    block.push(STATUS_FIELD);
    push_field(&mut block, &REASON, ReasonCode::MalformedRequest.as_str());
    push_field(&mut block, &REQUEST_ID, request_id);
    push_field(&mut block, &CACHE_CONTROL, "no-store");
    push_field(&mut block, &CONTENT_LENGTH, "0");
    block
}

fn push_field(block: &mut Vec<u8>, name: &HeaderName, value: &str) {
    block.push(0);
    for text in [name.as_str(), value] {
        push_integer(block, 0, 7, u32::try_from(text.len()).unwrap_or(u32::MAX));
        block.extend_from_slice(text.as_bytes());
    }
}

/// Appends an integer to `block` (RFC 7541 section 5.1). The integer begins in the last `bits` bits
/// of a byte, whose first bits are `pattern`. It may continue in the bytes after that byte.
fn push_integer(block: &mut Vec<u8>, pattern: u8, bits: u32, value: u32) {
    let max = (1_u32 << bits) - 1;
    let low = |value: u32| u8::try_from(value & 0xff).unwrap_or_default();
    if value < max {
        block.push(pattern | low(value));
        return;
    }
    block.push(pattern | low(max));
    let mut rest = value - max;
    while rest >= 0x80 {
        block.push(0x80 | low(rest & 0x7f));
        rest >>= 7;
    }
    block.push(low(rest));
}

fn push_frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, a, b, c] = u32::try_from(payload.len())
        .unwrap_or_default()
        .to_be_bytes();
    bytes.extend([a, b, c, kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
}

impl<S: AsyncRead + AsyncWrite + Unpin, F: FnMut() -> RefusedRequest + Unpin> AsyncRead
    for MalformedResponder<S, F>
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        this.poll_late(context)?;
        ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
        this.received(buffer.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin, F> MalformedResponder<S, F> {
    /// Writes the resets that are due, unless a frame or field block of h2 is incomplete. In that
    /// case, the next write or flush of h2 calls this function again.
    fn poll_late(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while let Poll::Ready(stream) = self.late.poll_due(context) {
            let is_between = self.outgoing.until_next_frame() == Some(0) && !self.in_field_block;
            if !is_between || self.poll_pending(context)?.is_pending() {
                break;
            }
            self.late.streams.pop_front();
            let mut bytes = Vec::new();
            push_frame(&mut bytes, RST_STREAM, 0, stream, &NO_ERROR.to_be_bytes());
            self.pending = Some(PendingFrames {
                bytes,
                written: 0,
                when_written: None,
            });
            let _ = self.poll_pending(context)?;
        }
        Ok(())
    }

    /// Writes the rest of the pending frames.
    fn poll_pending(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(pending) = &mut self.pending {
            let rest = pending.bytes.get(pending.written..).unwrap_or_default();
            let count = ready!(Pin::new(&mut self.inner).poll_write(context, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            pending.written += count;
            if pending.written >= pending.bytes.len()
                && let Some(pending) = self.pending.take()
                && let Some(when_written) = pending.when_written
            {
                when_written();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin, F: FnMut() -> RefusedRequest + Unpin> AsyncWrite
    for MalformedResponder<S, F>
{
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_pending(context))?;
        // h2 writes its control frames in the first slice. The content of DATA frames comes after
        // them.
        let first = slices.iter().find(|slice| !slice.is_empty());
        let first = first.map_or(&[][..], |slice| slice);
        match this.next_part(first) {
            Part::Reset(open) => {
                this.respond(open);
                // If the response cannot be written completely now, the next write or flush writes
                // the rest.
                let _ = this.poll_pending(context)?;
                Poll::Ready(Ok(RESET))
            }
            Part::Only(count) => {
                let part = first.get(..count).unwrap_or(first);
                let count = ready!(Pin::new(&mut this.inner).poll_write(context, part))?;
                this.sent(part.get(..count).unwrap_or_default());
                Poll::Ready(Ok(count))
            }
            Part::All => {
                let written = Pin::new(&mut this.inner).poll_write_vectored(context, slices);
                let count = ready!(written)?;
                let mut left = count;
                for slice in slices {
                    let now = left.min(slice.len());
                    this.sent(slice.get(..now).unwrap_or_default());
                    left -= now;
                }
                Poll::Ready(Ok(count))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_late(context)?;
        ready!(self.poll_pending(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
