//! `Overheard`: a connection whose octets somebody else looks at as they are read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection that tells `hear` what it reads, and fails where that says so.
#[derive(Debug)]
pub(super) struct Overheard<S, F> {
    inner: S,
    hear: F,
}

impl<S, F: FnMut(&[u8]) -> io::Result<()>> Overheard<S, F> {
    pub(super) const fn new(inner: S, hear: F) -> Self {
        Self { inner, hear }
    }
}

impl<S, F> AsyncRead for Overheard<S, F>
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
        Poll::Ready((self.hear)(
            buffer.filled().get(before..).unwrap_or_default(),
        ))
    }
}

impl<S: AsyncWrite + Unpin, F: Unpin> AsyncWrite for Overheard<S, F> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, octets)
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
