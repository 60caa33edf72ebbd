//! `ReadTap`: a connection whose bytes are inspected when they are read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection that passes all received bytes to `observe`. If `observe` returns an error, the
/// read fails with this error.
#[derive(Debug)]
pub(super) struct ReadTap<S, F> {
    inner: S,
    observe: F,
}

impl<S, F: FnMut(&[u8]) -> io::Result<()>> ReadTap<S, F> {
    pub(super) const fn new(inner: S, observe: F) -> Self {
        Self { inner, observe }
    }
}

impl<S, F> AsyncRead for ReadTap<S, F>
where
    S: AsyncRead + Unpin,
    F: FnMut(&[u8]) -> io::Result<()> + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        Poll::Ready((self.observe)(
            buffer.filled().get(before..).unwrap_or_default(),
        ))
    }
}

impl<S: AsyncWrite + Unpin, F: Unpin> AsyncWrite for ReadTap<S, F> {
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
