//! `CoalescingIo`: collects all bytes that an HTTP/2 connection writes in one poll, and sends them
//! together.
//!
//! h2 flushes after each DATA frame that it does not copy. Without `CoalescingIo`, each response
//! would therefore cost a system call and a TLS record, even if many responses are ready at the
//! same time. `CoalescingIo` buffers the frames until the poll ends.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Maximum number of buffered bytes. It is also the maximum content of one TLS record.
const MAX_BUFFERED: usize = 16 * 1024;
/// Size in bytes from which a write is not buffered, because a copy would cost too much.
const LARGE: usize = 4 * 1024;

struct Inner<S> {
    stream: S,
    buffered: Vec<u8>,
    /// Number of bytes of `buffered` that were written to the stream.
    taken: usize,
    /// The error of the last attempt to send the buffered bytes. `None` if this attempt did not
    /// fail.
    failed: Option<io::ErrorKind>,
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    /// Writes the buffered bytes to the stream.
    fn poll_write_buffered(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(kind) = self.failed {
            return Poll::Ready(Err(kind.into()));
        }
        while self.taken < self.buffered.len() {
            let rest = self.buffered.get(self.taken..).unwrap_or_default();
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.taken += count;
        }
        self.taken = 0;
        self.buffered = Vec::new();
        Poll::Ready(Ok(()))
    }

    /// Writes the buffered bytes to the stream and flushes the stream.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_buffered(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if length >= LARGE || self.buffered.len() + length > MAX_BUFFERED {
            ready!(self.poll_write_buffered(context))?;
        }
        if length >= LARGE {
            return Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        }
        if self.buffered.capacity() == 0 {
            self.buffered.reserve(LARGE);
        }
        for slice in slices {
            self.buffered.extend_from_slice(slice);
        }
        Poll::Ready(Ok(length))
    }
}

/// A stream that buffers writes until [`SendEachPoll`] sends them.
pub(crate) struct CoalescingIo<S>(Arc<Mutex<Inner<S>>>);

impl<S> CoalescingIo<S> {
    fn inner(&self) -> MutexGuard<'_, Inner<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CoalescingIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CoalescingIo<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        match inner.failed {
            Some(kind) => Poll::Ready(Err(kind.into())),
            // `SendEachPoll` sends the buffered bytes after the poll.
            None if !inner.buffered.is_empty() => Poll::Ready(Ok(())),
            None => Pin::new(&mut inner.stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        ready!(inner.poll_write_buffered(context))?;
        Pin::new(&mut inner.stream).poll_shutdown(context)
    }
}

/// The second handle to the buffer of a [`CoalescingIo`]. [`SendEachPoll`] uses it to send the
/// buffered bytes.
pub(crate) struct CoalescedWrites<S>(Arc<Mutex<Inner<S>>>);

impl<S> CoalescedWrites<S> {
    /// Returns the stream. Bytes that are still buffered are lost. Returns `None` if the
    /// `CoalescingIo` was not dropped before.
    pub(crate) fn into_stream(self) -> Option<S> {
        let inner = Arc::try_unwrap(self.0).ok()?.into_inner();
        Some(inner.unwrap_or_else(PoisonError::into_inner).stream)
    }
}

/// Wraps a stream so that it buffers its writes.
pub(crate) fn coalescing<S>(stream: S) -> (CoalescingIo<S>, CoalescedWrites<S>) {
    let inner = Arc::new(Mutex::new(Inner {
        stream,
        buffered: Vec::new(),
        taken: 0,
        failed: None,
    }));
    (CoalescingIo(Arc::clone(&inner)), CoalescedWrites(inner))
}

/// Drives an HTTP/2 connection over a [`CoalescingIo`]. After each poll, sends the bytes that the
/// connection has written.
pub(crate) struct SendEachPoll<'a, C, S> {
    connection: C,
    writes: &'a CoalescedWrites<S>,
}

impl<'a, C, S> SendEachPoll<'a, C, S> {
    pub(crate) const fn new(connection: C, writes: &'a CoalescedWrites<S>) -> Self {
        Self { connection, writes }
    }

    pub(crate) const fn connection(&mut self) -> &mut C {
        &mut self.connection
    }
}

impl<C: Future + Unpin, S: AsyncWrite + Unpin> Future for SendEachPoll<'_, C, S> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<C::Output> {
        loop {
            let polled = Pin::new(&mut self.connection).poll(context);
            let mut inner = (self.writes.0.lock()).unwrap_or_else(PoisonError::into_inner);
            let sent = inner.poll_send(context);
            match (polled, sent) {
                // Sending failed. The error is stored and the connection is polled again, so that
                // the next flush of the connection returns the error.
                (Poll::Pending, Poll::Ready(Err(error))) if inner.failed.is_none() => {
                    inner.failed = Some(error.kind());
                }
                (polled, _) => return polled,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Returns the pieces that a peer receives. Each of `writes` is followed by a flush. The peer
    /// has a receive buffer of `room` bytes.
    async fn pieces(room: usize, writes: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let (ours, mut theirs) = tokio::io::duplex(room);
        let (mut stream, buffered) = coalescing(ours);
        let connection = Box::pin(async move {
            for bytes in writes {
                stream.write_all(&bytes).await.unwrap();
                stream.flush().await.unwrap();
            }
            tokio::task::yield_now().await;
            stream.shutdown().await.unwrap();
        });
        let reading = async move {
            let mut pieces = Vec::new();
            let mut piece = vec![0; 1 << 20];
            loop {
                let count = theirs.read(&mut piece).await.unwrap();
                if count == 0 {
                    return pieces;
                }
                pieces.push(piece[..count].to_vec());
            }
        };
        tokio::join!(SendEachPoll::new(connection, &buffered), reading).1
    }

    #[tokio::test]
    async fn what_is_written_in_one_poll_goes_out_together() {
        let writes = vec![b"one".to_vec(), b"two".to_vec(), b"three".to_vec()];
        assert_eq!(pieces(1 << 20, writes).await, [b"onetwothree".to_vec()]);
    }

    #[tokio::test]
    async fn nothing_is_lost_or_out_of_order_however_little_room_there_is() {
        let writes: Vec<_> = (0..60_usize)
            .map(|index| vec![u8::try_from(index).unwrap(); index * 331 % 9000])
            .collect();
        let whole = writes.concat();
        for room in [1, 100, 5000, 1 << 20] {
            assert_eq!(pieces(room, writes.clone()).await.concat(), whole, "{room}");
        }
    }

    #[tokio::test]
    async fn a_connection_learns_that_nothing_can_be_sent() {
        let (ours, theirs) = tokio::io::duplex(16);
        let (mut stream, buffered) = coalescing(ours);
        drop(theirs);
        let connection = Box::pin(async move {
            stream.write_all(b"kept").await.unwrap();
            poll_fn(|context| Pin::new(&mut stream).poll_flush(context))
                .await
                .unwrap();
            // The second flush reports the error to the connection.
            poll_fn(|context| match Pin::new(&mut stream).poll_flush(context) {
                Poll::Ready(Ok(())) => Poll::Pending,
                other => other,
            })
            .await
            .unwrap_err()
            .kind()
        });
        let kind = SendEachPoll::new(connection, &buffered).await;
        assert_eq!(kind, io::ErrorKind::BrokenPipe);
    }
}
