//! `CallerSocket`: the TCP side of a caller's connection.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// An unencrypted fatal `certificate_required` alert in a TLS 1.2 record.
const REQUIRED_TLS12: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 116];
/// The same as `handshake_failure`.
const FAILURE_TLS12: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 40];

/// What a peer may still send once the last word has been sent to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lingering {
    time: Duration,
    octets: u64,
}

impl Lingering {
    /// Of a peer nobody knows.
    pub(crate) const STRANGER: Self = Self {
        time: Duration::from_secs(1),
        octets: 64 << 10,
    };
    /// Of a caller, who may be in the middle of a body that was answered early.
    pub(crate) const CALLER: Self = Self {
        time: Duration::from_secs(2),
        octets: 16 << 20,
    };
}

/// A caller's TCP connection.
///
/// rustls answers a missing certificate with alert 116 in TLS 1.2 too, where
/// only 40 `handshake_failure` exists (RFC 5246 section 7.4.6). Alerts are not
/// encrypted before a TLS 1.2 handshake ends, and always are in TLS 1.3, so that
/// very record is exchanged here.
///
/// A peer that does not read what is sent to it is given up on, so that it cannot
/// hold its slot and a service's connection for ever.
#[derive(Debug)]
pub(crate) struct CallerSocket {
    stream: TcpStream,
    longest_stall: Duration,
    /// Runs while nothing can be written.
    stall: Option<Pin<Box<Sleep>>>,
    /// The peer has been told that nothing more will come.
    shut_down: bool,
}

impl CallerSocket {
    pub(crate) const fn new(stream: TcpStream, longest_stall: Duration) -> Self {
        Self {
            stream,
            longest_stall,
            stall: None,
            shut_down: false,
        }
    }

    /// Passes on the outcome of a write, unless it has been pending for too long.
    fn bound_stall(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let longest = self.longest_stall;
        let stall = self
            .stall
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(longest)));
        ready!(stall.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer does not read what is sent to it",
        )))
    }

    /// Closes so that the peer can read what was sent last: closing a socket
    /// with unread input would reset the connection and discard it.
    pub(crate) async fn linger(mut self, lingering: Lingering) {
        if !self.shut_down && self.stream.shutdown().await.is_err() {
            return;
        }
        let mut rest = (&mut self.stream).take(lingering.octets);
        let mut sink = [0_u8; 4096];
        let drain = async { while matches!(rest.read(&mut sink).await, Ok(count) if count > 0) {} };
        let _ = tokio::time::timeout(lingering.time, drain).await;
    }

    /// Waits until the peer has sent something, or nothing more will come.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.stream.readable().await
    }

    /// The first byte the peer sent, without taking it.
    pub(crate) async fn peek(&self) -> io::Result<Option<u8>> {
        let mut first = [0_u8; 1];
        let count = self.stream.peek(&mut first).await?;
        Ok(first.first().copied().filter(|_| count > 0))
    }
}

fn exchanged(bytes: &[u8]) -> &[u8] {
    if bytes == REQUIRED_TLS12 {
        &FAILURE_TLS12
    } else {
        bytes
    }
}

impl AsyncRead for CallerSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for CallerSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, exchanged(bytes));
        self.bound_stall(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut_down = ready!(Pin::new(&mut self.stream).poll_shutdown(context));
        self.shut_down = shut_down.is_ok();
        Poll::Ready(shut_down)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = slices {
            return self.poll_write(context, only);
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.bound_stall(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
