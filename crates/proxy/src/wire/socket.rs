//! `CallerSocket`: the TCP side of a caller's connection.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::proxy_protocol;

/// An unencrypted fatal `certificate_required` alert in a TLS 1.2 record.
const REQUIRED_TLS12: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 116];
/// The same alert as `handshake_failure`.
const FAILURE_TLS12: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 40];

/// The type of an encrypted record (RFC 8446 section 5.2).
const APPLICATION_DATA: u8 = 0x17;
/// Larger than any encrypted alert, and smaller than any ticket.
const MAX_ALERT: usize = 64;

/// Limits how long, and how much, a peer may still send after the gateway has closed its
/// side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LingerLimits {
    time: Duration,
    pub(crate) bytes: u64,
}

impl LingerLimits {
    /// The limits for a peer without a complete handshake.
    pub(crate) const UNKNOWN_PEER: Self = Self {
        time: Duration::from_secs(1),
        bytes: 64 << 10,
    };
    /// The limits for a caller. It may still be sending the body of a request that was
    /// refused early.
    pub(crate) const CALLER: Self = Self {
        time: Duration::from_secs(2),
        bytes: 16 << 20,
    };
}

/// The protocol of a peer, judged by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SniffedProtocol {
    /// Nothing has been read yet.
    Unread,
    /// The first byte is not that of another protocol.
    Tls,
    /// HTTP without TLS.
    PlainHttp,
    /// A PROXY header from a peer that must not send one.
    ProxyHeader,
}

impl SniffedProtocol {
    const fn of(first: u8) -> Self {
        match first {
            proxy_protocol::FIRST_BYTE => Self::ProxyHeader,
            b'A'..=b'Z' => Self::PlainHttp,
            _ => Self::Tls,
        }
    }
}

/// The progress of the handshake. It is used to recognize a session ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HandshakeProgress {
    /// The gateway has written no flight yet, or a part of it.
    Sending,
    /// The gateway has written a complete flight.
    Sent,
    /// The peer has sent bytes after that flight.
    Answered,
}

/// A caller's TCP connection.
///
/// rustls reports a missing certificate with alert 116 in TLS 1.2 too, although TLS 1.2
/// has only 40 `handshake_failure` for this (RFC 5246 section 7.4.6). This type replaces
/// that alert. It can recognize the record, because alerts are unencrypted until a TLS 1.2
/// handshake ends, and always encrypted in TLS 1.3.
///
/// A peer that does not read is disconnected after a timeout, so that it cannot occupy a
/// slot and a connection to a service for ever.
///
/// The session ticket at the end of a TLS 1.3 handshake (RFC 8446 section 4.6.1) is held
/// until other bytes are sent, which saves one TCP segment for each connection.
#[derive(Debug)]
pub(crate) struct CallerSocket {
    stream: TcpStream,
    stall_timeout: Duration,
    /// The timer that runs while nothing can be written.
    stall: Option<Pin<Box<Sleep>>>,
    sniffed: SniffedProtocol,
    /// None after the handshake.
    handshake: Option<HandshakeProgress>,
    /// The held ticket. It is sent before all other bytes.
    ticket: Vec<u8>,
    /// The gateway has closed its side.
    shut_down: bool,
}

impl CallerSocket {
    pub(crate) const fn new(stream: TcpStream, stall_timeout: Duration) -> Self {
        Self {
            stream,
            stall_timeout,
            stall: None,
            sniffed: SniffedProtocol::Unread,
            handshake: Some(HandshakeProgress::Sending),
            ticket: Vec::new(),
            shut_down: false,
        }
    }

    /// Returns the protocol of the peer. If it is not TLS, the first read fails.
    pub(crate) const fn sniffed(&self) -> SniffedProtocol {
        self.sniffed
    }

    /// Records the end of the handshake. A held ticket is sent with the next write, or
    /// when the connection is flushed.
    pub(crate) const fn end_handshake(&mut self) {
        self.handshake = None;
    }

    /// Whether these bytes are the ticket at the end of the handshake. An encrypted alert
    /// is also an encrypted record, but a shorter one.
    fn is_ticket(&self, bytes: &[u8]) -> bool {
        self.handshake == Some(HandshakeProgress::Answered)
            && bytes.first() == Some(&APPLICATION_DATA)
            && bytes.len() > MAX_ALERT
    }

    /// Records whether all of the flight was written.
    fn record_write(&mut self, written: &Poll<io::Result<usize>>, length: usize) {
        if self.handshake.is_some() {
            self.handshake = Some(match written {
                Poll::Ready(Ok(count)) if *count == length => HandshakeProgress::Sent,
                _ => HandshakeProgress::Sending,
            });
        }
    }

    /// Sends the held ticket together with `slices`. Returns how many bytes of `slices`
    /// were sent.
    fn poll_write_ticket(
        &mut self,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut all = vec![io::IoSlice::new(&self.ticket)];
            all.extend_from_slice(slices);
            let written = Pin::new(&mut self.stream).poll_write_vectored(context, &all);
            let count = ready!(self.limit_stall(context, written))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if let Some(rest) = count.checked_sub(self.ticket.len()) {
                self.ticket = Vec::new();
                return Poll::Ready(Ok(rest));
            }
            self.ticket.drain(..count);
        }
    }

    /// Sends the held ticket, if there is one.
    fn poll_ticket(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.ticket.is_empty() {
            true => Poll::Ready(Ok(())),
            false => self.poll_write_ticket(context, &[]).map_ok(|_| ()),
        }
    }

    /// Returns the outcome of a write, or an error if writes have been pending for too
    /// long.
    fn limit_stall(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let timeout = self.stall_timeout;
        let stall = self
            .stall
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(stall.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer does not read what is sent to it",
        )))
    }

    /// Makes the kernel send all later bytes together with the end of the stream, in one
    /// segment if they fit. The kernel sends them after 200 ms at the latest.
    pub(crate) fn cork(&self) {
        // Linux only: other systems send two segments.
        #[cfg(target_os = "linux")]
        if !self.shut_down {
            let _ = rustix::net::sockopt::set_tcp_cork(&self.stream, true);
        }
    }

    /// Closes the connection so that the peer can read the last bytes. If a socket is
    /// closed while it has unread input, the connection is reset, and the peer loses the
    /// bytes that it has not read.
    pub(crate) async fn linger(mut self, limits: LingerLimits) {
        if !self.shut_down && self.shutdown().await.is_err() {
            return;
        }
        let mut rest = (&mut self.stream).take(limits.bytes);
        let mut sink = [0_u8; 4096];
        let drain = async { while matches!(rest.read(&mut sink).await, Ok(count) if count > 0) {} };
        let _ = tokio::time::timeout(limits.time, drain).await;
    }

    /// Resets the connection, so that the peer does not believe that it has received
    /// everything. Many programs accept the end of a connection without `close_notify`.
    pub(crate) fn reset(self) {
        let _ = rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
    }

    /// Waits until the peer has sent bytes or closed its side.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.stream.readable().await
    }
}

/// Replaces the alert that TLS 1.2 does not have.
fn replace_alert(bytes: &[u8]) -> &[u8] {
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
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if self.handshake.is_some()
            && let Some(first) = buffer.filled().get(before)
        {
            if self.handshake == Some(HandshakeProgress::Sent) {
                self.handshake = Some(HandshakeProgress::Answered);
            }
            if self.sniffed == SniffedProtocol::Unread {
                self.sniffed = SniffedProtocol::of(*first);
            }
            if self.sniffed != SniffedProtocol::Tls {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CallerSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_ticket(bytes) {
            self.ticket.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        if !self.ticket.is_empty() {
            let count = ready!(self.poll_write_ticket(context, &[io::IoSlice::new(bytes)]))?;
            if count > 0 || bytes.is_empty() {
                return Poll::Ready(Ok(count));
            }
        }
        let written = Pin::new(&mut self.stream).poll_write(context, replace_alert(bytes));
        self.record_write(&written, bytes.len());
        self.limit_stall(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.handshake.is_none() {
            ready!(self.poll_ticket(context))?;
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shut_down {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_ticket(context))?;
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
        let length = slices.iter().map(|slice| slice.len()).sum();
        if !self.ticket.is_empty() {
            let count = ready!(self.poll_write_ticket(context, slices))?;
            if count > 0 || length == 0 {
                return Poll::Ready(Ok(count));
            }
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.record_write(&written, length);
        self.limit_stall(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
