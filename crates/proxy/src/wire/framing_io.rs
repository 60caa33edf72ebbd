//! `FramingIo`: puts the framing guard between a connection and hyper's HTTP/1.1 server.
//!
//! Bytes of accepted messages pass without a copy. The beginning of an incomplete head is held
//! back. If a head is rejected, hyper reads a replacement request that the gateway makes. hyper
//! then sends the refusal as an ordinary response, after the responses to earlier pipelined
//! requests. The handler recognizes the replacement by its position on the connection.
//!
//! If a caller ends its requests with `close_notify`, hyper reads this end only when the caller has
//! all responses. Otherwise hyper would abandon the response in progress.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::framing::FramingMachine;
use super::half_close::{Awaited, Check, HalfClose, PROBE, PeerSocket};
use super::head::FramingError;
use crate::reason::ReasonCode;

/// The request that hyper reads in place of a rejected request. Its content is never used.
const REPLACEMENT: &[u8] = b"GET / HTTP/1.1\r\nhost: refused.invalid\r\nconnection: close\r\n\r\n";

/// Maximum number of bytes at the end of the last response that are held, so that they can be sent
/// together with `close_notify`.
const MAX_HELD: usize = 4 * 1024;

/// The state that the `FramingIo` of a connection shares with the task that runs hyper's HTTP
/// server on it.
#[derive(Debug, Default)]
pub(crate) struct FramingState {
    /// The position of the first rejected request, and its error.
    refused: OnceLock<(u64, FramingError)>,
    /// The response in progress is a 101, so no more HTTP is read.
    switching: AtomicBool,
    /// The last read found no bytes, and no request was incomplete.
    waiting_for_request: AtomicBool,
    /// Bytes were written, but not flushed yet.
    unflushed: AtomicBool,
    /// The last write or flush was pending.
    pending_write: AtomicBool,
    /// The connection closes after the response in progress.
    closing: AtomicBool,
    /// Bytes in `FramingIo::held` wait to be sent together with `close_notify`, because they may be
    /// the end of the last response.
    holding: AtomicBool,
    /// Number of requests whose complete response was given to hyper, or that have no response.
    answered: AtomicU64,
    /// The request in progress is HTTP/1.1 and has no response yet, so an interim response may be
    /// sent.
    allows_interim: AtomicBool,
    /// The response in progress was given to hyper, but not all of it.
    responding: AtomicBool,
}

impl FramingState {
    /// Returns the error if the request at this position was rejected. Positions start at 0.
    pub(crate) fn error_of(&self, position: u64) -> Option<FramingError> {
        self.refused
            .get()
            .filter(|(refused, _)| *refused == position)
            .map(|(_, error)| *error)
    }

    /// Stops reading, because the response in progress is a 101. What the caller sends after a 101
    /// is not HTTP.
    pub(crate) fn set_switching(&self) {
        self.switching.store(true, Ordering::Relaxed);
    }

    /// Records that the response in progress is the last one of the connection. `FramingIo` then
    /// holds the end of this response, so that it can be sent together with `close_notify`.
    pub(crate) fn set_closing(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Makes the next flush send the held bytes. Called if hyper has not finished the response, so
    /// that the held bytes cannot be the end of the response. Returns whether bytes were held.
    pub(crate) fn release_held(&self) -> bool {
        self.holding.swap(false, Ordering::Relaxed)
    }

    /// Returns whether the last write or flush was pending. If hyper does not need the rest of a
    /// request, hyper ends without waiting for a pending write. The end of the response would then
    /// be lost.
    pub(crate) fn has_pending_write(&self) -> bool {
        self.pending_write.load(Ordering::Relaxed)
    }

    /// Records that a request has begun.
    pub(crate) fn begin_request(&self, is_http_11: bool) {
        self.allows_interim.store(is_http_11, Ordering::Relaxed);
    }

    /// Records that a response is given to hyper.
    pub(crate) fn begin_response(&self) {
        self.allows_interim.store(false, Ordering::Relaxed);
        self.responding.store(true, Ordering::Relaxed);
    }

    /// Records that hyper has the complete response, or that the request gets no response.
    pub(crate) fn end_response(&self) {
        self.allows_interim.store(false, Ordering::Relaxed);
        self.responding.store(false, Ordering::Relaxed);
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns what a caller that has sent `close_notify` waits for. `max_silence` is the maximum
    /// time that a response may pause.
    fn awaited(&self, max_silence: Duration) -> Awaited {
        // A probe must not be sent within a response, and bytes that are not flushed may be part of
        // a response.
        let unflushed = self.unflushed.load(Ordering::Relaxed);
        if self.responding.load(Ordering::Relaxed) {
            match self.has_pending_write() {
                true => Awaited::Unwritten,
                false => Awaited::Rest(max_silence),
            }
        } else {
            let allows_interim = self.allows_interim.load(Ordering::Relaxed);
            Awaited::Response {
                may_probe: allows_interim && !unflushed,
            }
        }
    }

    fn is_switching(&self) -> bool {
        self.switching.load(Ordering::Relaxed)
    }

    /// Returns whether the caller has begun no further request and all written bytes are flushed.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting_for_request.load(Ordering::Relaxed) && !self.unflushed.load(Ordering::Relaxed)
    }

    /// Returns whether a request of the connection was rejected.
    pub(crate) fn has_error(&self) -> bool {
        self.refused.get().is_some()
    }
}

/// A connection that passes all bytes that are read through the framing guard.
pub(crate) struct FramingIo<S> {
    inner: S,
    machine: FramingMachine,
    /// Bytes that hyper reads before further bytes of the connection: a released head, or the
    /// replacement of a rejected request.
    queued: Vec<u8>,
    /// Number of bytes of `queued` that hyper has read.
    delivered: usize,
    /// The framing error in a request's body. All further reads return this error.
    body_error: Option<FramingError>,
    /// The end of the connection's last response. hyper has written these bytes, but they wait to
    /// be sent together with `close_notify`.
    held: Vec<u8>,
    /// True if the bytes that the TLS handshake left in the write buffer were flushed.
    handshake_flushed: bool,
    state: Arc<FramingState>,
    /// Timeout for a request's head, from its first byte to its end.
    head_timeout: Duration,
    /// The timer that runs while a head is incomplete.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Number of requests whose responses were written and flushed.
    settled: u64,
    /// Set if the caller has sent `close_notify` and does not have all responses.
    half_close: Option<Box<HalfClose>>,
    /// Maximum time that a response may pause if its caller has sent `close_notify`.
    max_silence: Duration,
}

impl<S> FramingIo<S> {
    /// Creates the framing guard of a connection. `max_silence` is the maximum time that a response
    /// may pause if its caller has sent `close_notify`.
    pub(crate) fn new(
        inner: S,
        machine: FramingMachine,
        head_timeout: Duration,
        max_silence: Duration,
        state: Arc<FramingState>,
    ) -> Self {
        Self {
            inner,
            machine,
            queued: Vec::new(),
            delivered: 0,
            body_error: None,
            held: Vec::new(),
            handshake_flushed: false,
            state,
            head_timeout,
            deadline: None,
            settled: 0,
            half_close: None,
            max_silence,
        }
    }

    /// Returns whether all bytes that were read belong to complete requests.
    pub(crate) fn is_between_requests(&self) -> bool {
        self.machine.is_at_head()
            && !self.machine.is_inside_head()
            && self.queued.is_empty()
            && !self.state.has_error()
    }

    /// Returns whether all requests that have begun are complete, and the caller does not have all
    /// responses. Ignores a further request whose head is incomplete.
    fn owes_response(&self) -> bool {
        self.machine.is_at_head() && self.settled < self.machine.heads()
    }

    pub(crate) const fn inner(&self) -> &S {
        &self.inner
    }

    /// Returns the connection, and the bytes in `held`, which must still be written to it.
    pub(crate) fn into_parts(self) -> (S, Vec<u8>) {
        (self.inner, self.held)
    }

    fn deliver(&mut self, buffer: &mut ReadBuf<'_>) {
        let rest = self.queued.get(self.delivered..).unwrap_or_default();
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(rest.get(..count).unwrap_or_default());
        self.delivered += count;
        if self.delivered >= self.queued.len() {
            self.queued = Vec::new();
            self.delivered = 0;
        }
    }

    fn refuse_head(&mut self, error: FramingError) {
        if self
            .state
            .refused
            .set((self.machine.heads(), error))
            .is_ok()
        {
            self.queued.extend_from_slice(REPLACEMENT);
        }
        self.deadline = None;
    }

    /// Runs the framing guard on the bytes in `buffer` after position `before`.
    fn check_input(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let input = buffer.filled().get(before..).unwrap_or_default();
        let in_head = self.machine.is_at_head();
        let step = self.machine.advance(input);
        // In the usual case all bytes pass, and they stay in `buffer`.
        if step.released.is_none() && step.pass == (0..input.len()) && step.error.is_none() {
            self.deadline = None;
            return;
        }
        if let Some(head) = step.released {
            self.queued = head;
            self.queued
                .extend_from_slice(input.get(step.pass).unwrap_or_default());
            buffer.set_filled(before);
        } else {
            buffer.set_filled(before + step.pass.end);
        }
        match step.error {
            Some(error) if self.machine.is_at_head() => self.refuse_head(error),
            Some(error) => self.body_error = Some(error),
            None if self.machine.is_inside_head() => {
                if self.deadline.is_none() || !in_head {
                    self.deadline = Some(Box::pin(tokio::time::sleep(self.head_timeout)));
                }
            }
            None => self.deadline = None,
        }
    }
}

impl<S: AsyncWrite + PeerSocket + Unpin> FramingIo<S> {
    /// Waits until the caller has all responses. After that, hyper reads the end of the input.
    fn poll_half_closed(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(half_close) = &mut self.half_close
            && self.settled < self.machine.heads()
        {
            let awaited = self.state.awaited(self.max_silence);
            let check = ready!(half_close.poll_check(context, awaited));
            if let Some(error) = self.inner.socket_error() {
                return Poll::Ready(Err(error));
            }
            match check {
                Check::Probe => self.probe(context)?,
                Check::Look => {}
                Check::Silent => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends the probe. If only a part of it can be written now, the rest is written before the
    /// response.
    fn probe(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        self.state.unflushed.store(true, Ordering::Relaxed);
        self.held.extend_from_slice(PROBE);
        let _ = self.flush_all(context)?;
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + PeerSocket + Unpin> AsyncRead for FramingIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        this.state
            .waiting_for_request
            .store(false, Ordering::Relaxed);
        loop {
            if !this.queued.is_empty() {
                this.deliver(buffer);
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = this.body_error {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
            // No bytes are read after a rejected request, because the connection closes after its
            // response.
            if this.state.has_error() || this.state.is_switching() {
                return Poll::Pending;
            }
            if this.half_close.is_some() {
                return this.poll_half_closed(context);
            }
            let before = buffer.filled().len();
            match Pin::new(&mut this.inner).poll_read(context, buffer) {
                Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                    this.check_input(buffer, before);
                    // If no byte was added to `buffer`, the loop continues. It then delivers a
                    // released head or the replacement of a rejected head, or reads more bytes.
                    if buffer.filled().len() > before {
                        return Poll::Ready(Ok(()));
                    }
                }
                // The caller has sent `close_notify`. The end of a connection without it is an
                // error, because the caller is gone.
                Poll::Ready(Ok(())) if this.owes_response() => {
                    this.half_close = Some(Box::new(HalfClose::new()));
                }
                Poll::Ready(outcome) => return Poll::Ready(outcome),
                Poll::Pending => {
                    // Usually the first response also flushes the handshake's bytes. Before the
                    // first request there is no such response, so they are flushed here.
                    if !this.handshake_flushed && this.machine.heads() == 0 {
                        this.handshake_flushed =
                            Pin::new(&mut this.inner).poll_flush(context)?.is_ready();
                    }
                    let Some(deadline) = &mut this.deadline else {
                        let between = this.is_between_requests();
                        this.state
                            .waiting_for_request
                            .store(between, Ordering::Relaxed);
                        return Poll::Pending;
                    };
                    ready!(deadline.as_mut().poll(context));
                    this.refuse_head(FramingError {
                        reason: ReasonCode::Timeout,
                        detail: "the request's head took too long to arrive",
                    });
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> FramingIo<S> {
    /// Writes the bytes in `held` to the connection.
    fn poll_held(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let count = ready!(Pin::new(&mut self.inner).poll_write(context, &self.held))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.drain(..count.min(self.held.len()));
        }
        Poll::Ready(Ok(()))
    }

    fn flush_all(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Flushes only if bytes were written since the last flush. Therefore the bytes that the TLS
        // handshake left in the write buffer are sent together with the first response.
        if self.state.holding.load(Ordering::Relaxed)
            || !self.state.unflushed.load(Ordering::Relaxed)
        {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_held(context))?;
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        if flushed.is_ready() {
            self.state.unflushed.store(false, Ordering::Relaxed);
        }
        flushed
    }

    fn write_some(
        &mut self,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self;
        this.state.unflushed.store(true, Ordering::Relaxed);
        if this.state.closing.load(Ordering::Relaxed) {
            let length = slices.iter().map(|slice| slice.len()).sum::<usize>();
            if this.held.len() + length <= MAX_HELD {
                this.state.holding.store(true, Ordering::Relaxed);
                for slice in slices {
                    this.held.extend_from_slice(slice);
                }
                return Poll::Ready(Ok(length));
            }
        }
        // The end of the response is too long to be held, or `held` has the rest of a probe.
        // Everything is written and flushed as usual.
        ready!(this.poll_held(context))?;
        this.state.holding.store(false, Ordering::Relaxed);
        Pin::new(&mut this.inner).poll_write_vectored(context, slices)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FramingIo<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.flush_all(context);
        self.state
            .pending_write
            .store(flushed.is_pending(), Ordering::Relaxed);
        match (&flushed, &mut self.half_close) {
            (Poll::Pending, Some(half_close)) => half_close.record_write(),
            (Poll::Ready(Ok(())), _) => {
                // hyper flushes only after it has written all bytes that it has.
                let answered = self.state.answered.load(Ordering::Relaxed);
                let before = std::mem::replace(&mut self.settled, answered);
                if before < answered && self.half_close.is_some() && !self.owes_response() {
                    context.waker().wake_by_ref();
                }
            }
            _ => {}
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.write_some(context, slices);
        self.state
            .pending_write
            .store(written.is_pending(), Ordering::Relaxed);
        if let Some(half_close) = &mut self.half_close {
            half_close.record_write();
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// A connection that accepts all bytes, and counts the flushes.
    #[derive(Default)]
    struct Taking {
        bytes: Vec<u8>,
        flushes: usize,
    }

    impl AsyncWrite for Taking {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.bytes.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn guarded() -> (FramingIo<Taking>, Arc<FramingState>) {
        let state = Arc::new(FramingState::default());
        let timeout = Duration::from_secs(1);
        let io = FramingIo::new(
            Taking::default(),
            FramingMachine::new(1000),
            timeout,
            timeout,
            Arc::clone(&state),
        );
        (io, state)
    }

    #[tokio::test]
    async fn only_the_end_of_the_last_response_is_held() {
        let (mut io, state) = guarded();
        io.write_all(b"one answer ").await.unwrap();
        io.flush().await.unwrap();
        assert_eq!(
            (&io.inner.bytes[..], io.inner.flushes),
            (&b"one answer "[..], 1)
        );
        state.set_closing();
        io.write_all(b"the last").await.unwrap();
        io.flush().await.unwrap();
        assert_eq!(io.inner.flushes, 1);
        // A poll of hyper has ended, but the response is not complete, so the held bytes must be
        // sent.
        assert!(state.release_held());
        io.flush().await.unwrap();
        assert_eq!(
            (&io.inner.bytes[11..], io.inner.flushes),
            (&b"the last"[..], 2)
        );
        io.write_all(b"end").await.unwrap();
        io.flush().await.unwrap();
        let (inner, rest) = io.into_parts();
        assert_eq!((inner.bytes.len(), &rest[..]), (19, &b"end"[..]));
    }

    #[tokio::test]
    async fn what_is_too_much_to_hold_is_flushed_as_usual() {
        let (mut io, state) = guarded();
        state.set_closing();
        io.write_all(b"head").await.unwrap();
        io.flush().await.unwrap();
        io.write_all(&[b'x'; MAX_HELD]).await.unwrap();
        io.flush().await.unwrap();
        assert_eq!((io.inner.bytes.len(), io.inner.flushes), (4 + MAX_HELD, 1));
        assert!(io.held.is_empty());
    }
}
