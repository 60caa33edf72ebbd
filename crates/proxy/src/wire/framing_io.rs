//! `FramingIo`: puts the framing guard between a connection and hyper's HTTP/1.1 server.
//!
//! Bytes of accepted messages pass without a copy. The beginning of an incomplete head is
//! held back. A refused head is replaced by a request that the gateway makes. hyper then
//! sends the refusal as an ordinary response, after the responses to earlier pipelined
//! requests. The handler recognizes the replacement by its position on the connection.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::framing::FramingMachine;
use super::head::FramingError;
use crate::reason::ReasonCode;

/// The request that replaces a refused one. Its content is never read.
const REPLACEMENT: &[u8] = b"GET / HTTP/1.1\r\nhost: refused.invalid\r\nconnection: close\r\n\r\n";

/// Maximum number of bytes of a response that are held until the connection closes.
const MAX_HELD: usize = 4 * 1024;

/// The state that the framing guard and the HTTP server of a connection share.
#[derive(Debug, Default)]
pub(crate) struct FramingState {
    /// The position of the first refused request, and its error.
    refused: OnceLock<(u64, FramingError)>,
    switching: AtomicBool,
    /// The last read was between two requests, and no bytes were available.
    waiting_for_request: AtomicBool,
    /// Bytes were written that are not flushed yet.
    unflushed: AtomicBool,
    /// The last write or flush was pending.
    pending_write: AtomicBool,
    /// The connection will be closed after the response in progress.
    closing: AtomicBool,
    /// Bytes are held because they may be the end of that response.
    holding: AtomicBool,
}

impl FramingState {
    /// Returns the error if the request at this position (counted from 0) was refused.
    pub(crate) fn error_of(&self, position: u64) -> Option<FramingError> {
        self.refused
            .get()
            .filter(|(refused, _)| *refused == position)
            .map(|(_, error)| *error)
    }

    /// Stops reading. The response in progress is a 101, after which the caller does not
    /// send HTTP.
    pub(crate) fn set_switching(&self) {
        self.switching.store(true, Ordering::Relaxed);
    }

    /// Allows the end of the response in progress to be held. It is the last response of
    /// the connection, and its end can be sent together with `close_notify`.
    pub(crate) fn set_closing(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Makes the next flush send the held bytes, because the response continues. Returns
    /// whether bytes were held.
    pub(crate) fn release_held(&self) -> bool {
        self.holding.swap(false, Ordering::Relaxed)
    }

    /// Whether a write or flush of hyper is pending. If the rest of a request is unwanted,
    /// hyper ends without waiting for the write, and the end of the response would be
    /// lost.
    pub(crate) fn has_pending_write(&self) -> bool {
        self.pending_write.load(Ordering::Relaxed)
    }

    fn is_switching(&self) -> bool {
        self.switching.load(Ordering::Relaxed)
    }

    /// Whether the caller has begun no further request and all written bytes were flushed.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting_for_request.load(Ordering::Relaxed) && !self.unflushed.load(Ordering::Relaxed)
    }

    /// Whether a request of the connection was refused.
    pub(crate) fn has_error(&self) -> bool {
        self.refused.get().is_some()
    }
}

/// A connection whose reads the framing guard checks.
pub(crate) struct FramingIo<S> {
    inner: S,
    machine: FramingMachine,
    /// Bytes that are delivered before more is read.
    queued: Vec<u8>,
    /// How many bytes of `queued` were delivered.
    delivered: usize,
    body_error: Option<FramingError>,
    /// Bytes of the connection's last response that are held.
    held: Vec<u8>,
    /// The bytes that the handshake left in the socket's buffer were flushed.
    handshake_flushed: bool,
    state: Arc<FramingState>,
    head_timeout: Duration,
    /// The timer that runs while a head is incomplete.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> FramingIo<S> {
    pub(crate) fn new(
        inner: S,
        max_head: usize,
        head_timeout: Duration,
        state: Arc<FramingState>,
    ) -> Self {
        Self {
            inner,
            machine: FramingMachine::new(max_head),
            queued: Vec::new(),
            delivered: 0,
            body_error: None,
            held: Vec::new(),
            handshake_flushed: false,
            state,
            head_timeout,
            deadline: None,
        }
    }

    /// Whether all bytes that were read belong to complete requests.
    pub(crate) fn is_between_requests(&self) -> bool {
        self.machine.is_at_head()
            && !self.machine.is_inside_head()
            && self.queued.is_empty()
            && !self.state.has_error()
    }

    pub(crate) const fn inner(&self) -> &S {
        &self.inner
    }

    /// Returns the connection, and the bytes that must still be written to it.
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

    /// Checks the bytes of `buffer` from `before` on.
    fn check_input(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let input = buffer.filled().get(before..).unwrap_or_default();
        let in_head = self.machine.is_at_head();
        let step = self.machine.advance(input);
        // The usual case: everything passes in place.
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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for FramingIo<S> {
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
            // Nothing is read after a refused request, because the connection closes after
            // its response.
            if this.state.has_error() || this.state.is_switching() {
                return Poll::Pending;
            }
            let before = buffer.filled().len();
            match Pin::new(&mut this.inner).poll_read(context, buffer) {
                Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                    this.check_input(buffer, before);
                    // If bytes passed before a refused head, its replacement follows with
                    // the next read.
                    if buffer.filled().len() > before {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(outcome) => return Poll::Ready(outcome),
                Poll::Pending => {
                    // Before the first request there is no response with which the bytes
                    // of the handshake could be sent.
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
    /// Writes the held bytes.
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
        // If nothing was written, nothing is flushed: bytes that the handshake left in the
        // socket's buffer are sent together with the first response.
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
            ready!(this.poll_held(context))?;
            // From here on, the response is written and flushed like any other.
            this.state.holding.store(false, Ordering::Relaxed);
        }
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

    /// A connection that accepts all bytes, and counts how often it is flushed.
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
        let io = FramingIo::new(Taking::default(), 1000, timeout, Arc::clone(&state));
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
        // The poll has ended, but the response has not.
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
