//! `CallerSocket`: the TCP socket of a caller's connection.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

use super::half_close::PeerSocket;
use super::proxy_protocol;

/// An unencrypted fatal `certificate_required` alert in a TLS 1.2 record.
const REQUIRED_TLS12: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 116];
/// An unencrypted fatal `handshake_failure` alert in a TLS 1.2 record.
const FAILURE_TLS12: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 40];

/// The content type of an encrypted record (RFC 8446 section 5.2).
const APPLICATION_DATA: u8 = 0x17;
/// Maximum size of an encrypted alert in bytes. Session tickets are always larger.
const MAX_ALERT: usize = 64;

/// Limits after the gateway has closed its side of a connection: how long, and how many bytes, the
/// peer may still send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LingerLimits {
    time: Duration,
    pub(crate) bytes: u64,
}

impl LingerLimits {
    /// The limits for a peer that has not completed a handshake.
    pub(crate) const UNKNOWN_PEER: Self = Self {
        time: Duration::from_secs(1),
        bytes: 64 << 10,
    };
    /// The limits for a caller. The caller may still be sending the body of a request that the
    /// gateway refused early.
    pub(crate) const CALLER: Self = Self {
        time: Duration::from_secs(2),
        bytes: 16 << 20,
    };
}

/// The protocol of a peer, according to its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SniffedProtocol {
    /// The peer has sent no byte yet.
    Unread,
    /// Probably TLS: the first byte belongs to none of the other protocols.
    Tls,
    /// HTTP without TLS.
    PlainHttp,
    /// A PROXY header, although the gateway expects no PROXY header at this point.
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

/// The progress of the handshake. All messages that one side sends before it waits for the other
/// side are a flight. In TLS 1.3, the gateway sends the session ticket after the peer has answered
/// the gateway's flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HandshakeProgress {
    /// The gateway has not yet written a complete flight.
    Sending,
    /// The gateway has written a complete flight.
    Sent,
    /// The peer has sent bytes after the gateway's flight.
    Answered,
}

/// A caller's TCP connection.
///
/// For a missing certificate, rustls sends alert 116 (`certificate_required`) even in TLS 1.2. But
/// TLS 1.2 has only alert 40 (`handshake_failure`) for this case (RFC 5246 section 7.4.6).
/// `CallerSocket` replaces alert 116 by alert 40. It can recognize the record, because alerts in a
/// TLS 1.2 handshake are not encrypted, and alerts in TLS 1.3 are always encrypted.
///
/// A peer that does not read is disconnected after a timeout. Otherwise it could occupy a slot and
/// a connection to a service without limit.
///
/// The session ticket at the end of a TLS 1.3 handshake (RFC 8446 section 4.6.1) is held until
/// other bytes are sent. This saves one TCP segment per connection.
#[derive(Debug)]
pub(crate) struct CallerSocket {
    stream: TcpStream,
    stall_timeout: Duration,
    /// The timer that runs while the socket accepts no bytes.
    stall: Option<Pin<Box<Sleep>>>,
    sniffed: SniffedProtocol,
    /// The progress of the handshake. `None` after the handshake.
    handshake: Option<HandshakeProgress>,
    /// The bytes of the held session ticket. They are sent before all other bytes.
    ticket: Vec<u8>,
    /// The gateway has closed its side of the connection.
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

    /// Returns the protocol that the peer uses. If this protocol is not TLS, the first read returns
    /// an error.
    pub(crate) const fn sniffed(&self) -> SniffedProtocol {
        self.sniffed
    }

    /// Records the end of the handshake. A held ticket is then sent with the next write or at the
    /// next flush.
    pub(crate) const fn end_handshake(&mut self) {
        self.handshake = None;
    }

    /// Returns whether `bytes` is the session ticket at the end of the handshake. An encrypted
    /// alert has the same record type, but is shorter.
    fn is_ticket(&self, bytes: &[u8]) -> bool {
        self.handshake == Some(HandshakeProgress::Answered)
            && bytes.first() == Some(&APPLICATION_DATA)
            && bytes.len() > MAX_ALERT
    }

    /// Records from the result of a write whether the gateway's flight is complete.
    fn record_write(&mut self, written: &Poll<io::Result<usize>>, length: usize) {
        if self.handshake.is_some() {
            self.handshake = Some(match written {
                Poll::Ready(Ok(count)) if *count == length => HandshakeProgress::Sent,
                _ => HandshakeProgress::Sending,
            });
        }
    }

    /// Sends the held ticket together with `slices`. Returns the number of bytes of `slices` that
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

    /// Returns the result of a write unchanged, unless writes have been pending for longer than the
    /// timeout. Then returns an error.
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

    /// Makes the kernel send all later bytes together with the end of the stream, in a single
    /// segment if they fit. Without an end of the stream, the kernel sends them after at most 200
    /// ms.
    pub(crate) fn cork(&self) {
        // TCP_CORK exists only on Linux. Other systems send two segments.
        #[cfg(target_os = "linux")]
        if !self.shut_down {
            let _ = rustix::net::sockopt::set_tcp_cork(&self.stream, true);
        }
    }

    /// Closes the connection so that the peer can read the last bytes. Before that, reads the
    /// peer's input within `limits`. If a socket is closed while it has unread input, the kernel
    /// resets the connection, and the peer may lose bytes that it has not read.
    pub(crate) async fn linger(mut self, limits: LingerLimits) {
        if !self.shut_down && self.shutdown().await.is_err() {
            return;
        }
        let mut rest = (&mut self.stream).take(limits.bytes);
        let mut sink = [0_u8; 4096];
        let drain = async { while matches!(rest.read(&mut sink).await, Ok(count) if count > 0) {} };
        let _ = tokio::time::timeout(limits.time, drain).await;
    }

    /// Resets the connection, so that the peer does not regard the response as complete. Many
    /// programs accept the end of a connection without `close_notify` as a regular end.
    pub(crate) fn reset(self) {
        let _ = rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
    }

    /// Waits until the peer has sent bytes or has closed its side of the connection.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.stream.readable().await
    }
}

impl PeerSocket for TlsStream<CallerSocket> {
    fn socket_error(&self) -> Option<io::Error> {
        self.get_ref().0.stream.take_error().unwrap_or_else(Some)
    }
}

/// Replaces the alert `certificate_required`, which TLS 1.2 does not have, by `handshake_failure`.
/// Returns all other bytes unchanged.
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
