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
/// The same as `handshake_failure`.
const FAILURE_TLS12: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 40];

/// The type of an encrypted record (RFC 8446 section 5.2).
const APPLICATION_DATA: u8 = 0x17;
/// More octets than an encrypted alert has, and fewer than any ticket.
const LONGEST_ALERT: usize = 64;

/// What a peer may still send once the last word has been sent to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LingerLimits {
    time: Duration,
    octets: u64,
}

impl LingerLimits {
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

/// What the first octet says that a peer speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SniffedProtocol {
    /// Nothing has been read yet.
    Unread,
    /// TLS, as far as one octet tells.
    Tls,
    /// HTTP without TLS.
    PlainHttp,
    /// A PROXY header where none belongs.
    ProxyHeader,
}

impl SniffedProtocol {
    const fn of(first: u8) -> Self {
        match first {
            proxy_protocol::FIRST_OCTET => Self::ProxyHeader,
            b'A'..=b'Z' => Self::PlainHttp,
            _ => Self::Tls,
        }
    }
}

/// What tells a ticket from the rest of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TicketState {
    /// A flight of ours is not yet whole with the socket, or there was none.
    SendEachPoll,
    /// It is whole.
    Sent,
    /// The peer has answered it.
    Answered,
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
///
/// The session ticket with which a TLS 1.3 handshake ends (RFC 8446 section 4.6.1)
/// is kept until something else is sent: a segment less for each connection.
#[derive(Debug)]
pub(crate) struct CallerSocket {
    stream: TcpStream,
    longest_stall: Duration,
    /// Runs while nothing can be written.
    stall: Option<Pin<Box<Sleep>>>,
    opening: SniffedProtocol,
    /// None when the handshake is over.
    handshake: Option<TicketState>,
    /// A ticket to be sent before anything else.
    ticket: Vec<u8>,
    /// The peer has been told that nothing more will come.
    shut_down: bool,
}

impl CallerSocket {
    pub(crate) const fn new(stream: TcpStream, longest_stall: Duration) -> Self {
        Self {
            stream,
            longest_stall,
            stall: None,
            opening: SniffedProtocol::Unread,
            handshake: Some(TicketState::SendEachPoll),
            ticket: Vec::new(),
            shut_down: false,
        }
    }

    /// What the peer speaks. Anything but TLS is an error of the first read.
    pub(crate) const fn opening(&self) -> SniffedProtocol {
        self.opening
    }

    /// The handshake is over: a ticket that is kept leaves with the next write, or
    /// when the connection is flushed.
    pub(crate) const fn settle(&mut self) {
        self.handshake = None;
    }

    /// Whether this is what the handshake has to send once it is complete. An
    /// encrypted alert is an encrypted record, too, but a short one.
    fn is_ticket(&self, octets: &[u8]) -> bool {
        self.handshake == Some(TicketState::Answered)
            && octets.first() == Some(&APPLICATION_DATA)
            && octets.len() > LONGEST_ALERT
    }

    /// Notes whether the peer has everything that was to be sent.
    fn note_write(&mut self, written: &Poll<io::Result<usize>>, length: usize) {
        if self.handshake.is_some() {
            self.handshake = Some(match written {
                Poll::Ready(Ok(count)) if *count == length => TicketState::Sent,
                _ => TicketState::SendEachPoll,
            });
        }
    }

    /// Sends the ticket that is kept, and `slices` with it; says how much of them.
    fn poll_write_ticket(
        &mut self,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut all = vec![io::IoSlice::new(&self.ticket)];
            all.extend_from_slice(slices);
            let written = Pin::new(&mut self.stream).poll_write_vectored(context, &all);
            let count = ready!(self.bound_stall(context, written))?;
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

    /// Sends the ticket that is kept, if one is.
    fn poll_ticket(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.ticket.is_empty() {
            true => Poll::Ready(Ok(())),
            false => self.poll_write_ticket(context, &[]).map_ok(|_| ()),
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

    /// What is written from now on leaves with the end of the stream, in one segment
    /// where it fits. The kernel sends it after 200 ms at the latest.
    pub(crate) fn gather(&self) {
        // Elsewhere it takes two.
        #[cfg(target_os = "linux")]
        if !self.shut_down {
            let _ = rustix::net::sockopt::set_tcp_cork(&self.stream, true);
        }
    }

    /// Closes so that the peer can read what was sent last: closing a socket
    /// with unread input would reset the connection and discard it.
    pub(crate) async fn linger(mut self, lingering: LingerLimits) {
        if !self.shut_down && self.shutdown().await.is_err() {
            return;
        }
        let mut rest = (&mut self.stream).take(lingering.octets);
        let mut sink = [0_u8; 4096];
        let drain = async { while matches!(rest.read(&mut sink).await, Ok(count) if count > 0) {} };
        let _ = tokio::time::timeout(lingering.time, drain).await;
    }

    /// Ends the connection so that nobody takes what it has carried for whole: many
    /// programs read the end of TLS without `close_notify` as an end like any other.
    pub(crate) fn reset(self) {
        let _ = rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
    }

    /// Waits until the peer has sent something, or nothing more will come.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.stream.readable().await
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
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if self.handshake.is_some()
            && let Some(first) = buffer.filled().get(before)
        {
            if self.handshake == Some(TicketState::Sent) {
                self.handshake = Some(TicketState::Answered);
            }
            if self.opening == SniffedProtocol::Unread {
                self.opening = SniffedProtocol::of(*first);
            }
            if self.opening != SniffedProtocol::Tls {
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
        let written = Pin::new(&mut self.stream).poll_write(context, exchanged(bytes));
        self.note_write(&written, bytes.len());
        self.bound_stall(context, written)
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
        self.note_write(&written, length);
        self.bound_stall(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
