//! Puts the framing guard under a connection.
//!
//! Bytes of accepted messages pass without being copied; the beginning of an
//! unfinished head is kept back. A refused head is replaced by a request of our
//! own, so that the refusal gets a proper answer, in its turn behind pipelined
//! requests: the handler recognises it by its position on the connection.

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

/// Stands in for a refused request; its content is never looked at.
const REPLACEMENT: &[u8] = b"GET / HTTP/1.1\r\nhost: refused.invalid\r\nconnection: close\r\n\r\n";

/// Most octets of an answer that wait for the farewell.
const MOST_KEPT: usize = 4 * 1024;

/// What the guard tells the handler of the same connection.
#[derive(Debug, Default)]
pub(crate) struct FramingState {
    refused: OnceLock<(u64, FramingError)>,
    switching: AtomicBool,
    /// Whether the last read found nothing, between two requests.
    waiting: AtomicBool,
    /// Whether something was written that is not flushed.
    unflushed: AtomicBool,
    /// Whether the last write or flush has still to come to its end.
    stuck: AtomicBool,
    /// Whether the caller wants the connection closed after the answer.
    closing: AtomicBool,
    /// Whether the end of such an answer may be among what is kept.
    keeping: AtomicBool,
}

impl FramingState {
    /// The violation, if the request at this position (from 0) was refused.
    pub(crate) fn error_of(&self, position: u64) -> Option<FramingError> {
        self.refused
            .get()
            .filter(|(refused, _)| *refused == position)
            .map(|(_, error)| *error)
    }

    /// The request in progress is answered with 101: what the caller sends from
    /// then on is not for HTTP to read.
    pub(crate) fn switch(&self) {
        self.switching.store(true, Ordering::Relaxed);
    }

    /// The request in progress is the connection's last: what is written of its answer
    /// may wait for the farewell, to be sent with it.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Has the next flush send what is kept, if anything is: the answer goes on.
    pub(crate) fn stop_keeping(&self) -> bool {
        self.keeping.swap(false, Ordering::Relaxed)
    }

    /// Whether hyper has written something that nobody has taken yet. Where the rest of a
    /// request is not wanted it is done all the same, and would drop the end of the answer.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    fn is_switching(&self) -> bool {
        self.switching.load(Ordering::Relaxed)
    }

    /// Whether neither side has anything under way as far as octets tell.
    pub(crate) fn is_resting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) && !self.unflushed.load(Ordering::Relaxed)
    }

    /// Whether any request of the connection was refused.
    pub(crate) fn has_error(&self) -> bool {
        self.refused.get().is_some()
    }
}

/// A connection whose reads the guard follows.
pub(crate) struct FramingIo<S> {
    inner: S,
    machine: FramingMachine,
    /// Bytes to be delivered before any further read, and how many were.
    queued: Vec<u8>,
    delivered: usize,
    body_error: Option<FramingError>,
    /// The end of what was written of the connection's last answer.
    kept: Vec<u8>,
    /// Whether what the handshake left to be sent was sent.
    greeted: bool,
    state: Arc<FramingState>,
    head_timeout: Duration,
    /// Runs while a head is incomplete.
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
            kept: Vec::new(),
            greeted: false,
            state,
            head_timeout,
            deadline: None,
        }
    }

    /// Whether nothing was read beyond the requests that were passed on whole.
    pub(crate) fn is_between_requests(&self) -> bool {
        self.machine.is_at_head()
            && !self.machine.is_inside_head()
            && self.queued.is_empty()
            && !self.state.has_error()
    }

    pub(crate) const fn inner(&self) -> &S {
        &self.inner
    }

    /// The connection, and what is still to be written to it.
    pub(crate) fn into_parts(self) -> (S, Vec<u8>) {
        (self.inner, self.kept)
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

    /// Follows what was read into `buffer` beyond `before`.
    fn follow(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let input = buffer.filled().get(before..).unwrap_or_default();
        let in_head = self.machine.is_at_head();
        let step = self.machine.advance(input);
        // The usual case: everything passes, in place.
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
        this.state.waiting.store(false, Ordering::Relaxed);
        loop {
            if !this.queued.is_empty() {
                this.deliver(buffer);
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = this.body_error {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
            // Nothing after a refused request is read: the answer closes.
            if this.state.has_error() || this.state.is_switching() {
                return Poll::Pending;
            }
            let before = buffer.filled().len();
            match Pin::new(&mut this.inner).poll_read(context, buffer) {
                Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                    this.follow(buffer, before);
                    // A refusal follows with the next read.
                    if buffer.filled().len() > before {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(outcome) => return Poll::Ready(outcome),
                Poll::Pending => {
                    // Nobody answers yet with whom it could be sent.
                    if !this.greeted && this.machine.heads() == 0 {
                        this.greeted = Pin::new(&mut this.inner).poll_flush(context)?.is_ready();
                    }
                    let Some(deadline) = &mut this.deadline else {
                        let between = this.is_between_requests();
                        this.state.waiting.store(between, Ordering::Relaxed);
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
    /// Writes what is kept.
    fn poll_kept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            let count = ready!(Pin::new(&mut self.inner).poll_write(context, &self.kept))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.kept.drain(..count.min(self.kept.len()));
        }
        Poll::Ready(Ok(()))
    }

    fn flush_all(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What the handshake left to be sent goes with the first answer.
        if self.state.keeping.load(Ordering::Relaxed)
            || !self.state.unflushed.load(Ordering::Relaxed)
        {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_kept(context))?;
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
            if this.kept.len() + length <= MOST_KEPT {
                this.state.keeping.store(true, Ordering::Relaxed);
                for slice in slices {
                    this.kept.extend_from_slice(slice);
                }
                return Poll::Ready(Ok(length));
            }
            ready!(this.poll_kept(context))?;
            // What follows goes out as it comes, and is flushed as it is elsewhere.
            this.state.keeping.store(false, Ordering::Relaxed);
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
            .stuck
            .store(flushed.is_pending(), Ordering::Relaxed);
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_kept(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.write_some(context, slices);
        self.state
            .stuck
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

    /// A connection that takes everything, and how often it was flushed.
    #[derive(Default)]
    struct Taking {
        octets: Vec<u8>,
        flushes: usize,
    }

    impl AsyncWrite for Taking {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            octets: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.octets.extend_from_slice(octets);
            Poll::Ready(Ok(octets.len()))
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
        let longest = Duration::from_secs(1);
        let io = FramingIo::new(Taking::default(), 1000, longest, Arc::clone(&state));
        (io, state)
    }

    #[tokio::test]
    async fn only_the_end_of_the_last_answer_is_kept() {
        let (mut io, state) = guarded();
        io.write_all(b"one answer ").await.unwrap();
        io.flush().await.unwrap();
        assert_eq!(
            (&io.inner.octets[..], io.inner.flushes),
            (&b"one answer "[..], 1)
        );
        state.close();
        io.write_all(b"the last").await.unwrap();
        io.flush().await.unwrap();
        assert_eq!(io.inner.flushes, 1);
        // The turn is over, and the answer is not.
        assert!(state.stop_keeping());
        io.flush().await.unwrap();
        assert_eq!(
            (&io.inner.octets[11..], io.inner.flushes),
            (&b"the last"[..], 2)
        );
        io.write_all(b"end").await.unwrap();
        io.flush().await.unwrap();
        let (inner, rest) = io.into_parts();
        assert_eq!((inner.octets.len(), &rest[..]), (19, &b"end"[..]));
    }

    #[tokio::test]
    async fn what_is_too_much_to_keep_is_flushed_as_ever() {
        let (mut io, state) = guarded();
        state.close();
        io.write_all(b"head").await.unwrap();
        io.flush().await.unwrap();
        io.write_all(&[b'x'; MOST_KEPT]).await.unwrap();
        io.flush().await.unwrap();
        assert_eq!(
            (io.inner.octets.len(), io.inner.flushes),
            (4 + MOST_KEPT, 1)
        );
        assert!(io.kept.is_empty());
    }
}
