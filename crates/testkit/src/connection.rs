//! A TLS connection of a test client, for raw bytes or for HTTP.

use std::fmt;
use std::io;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::AlertDescription;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::answer::{Answer, CallError, collect, get, with_host};
use crate::pieces::PieceBody;
use crate::protocol::{ConnectError, Protocol};
use crate::{DEADLINE, in_time};

/// The bytes that a test read from a connection, and how the connection ended.
#[derive(Debug, Clone)]
pub struct RawAnswer {
    /// The received bytes.
    pub octets: Vec<u8>,
    /// Whether the connection ended while the test read, with or without an error.
    pub closed: bool,
    /// The TLS alert with which the server ended the connection, other than `close_notify`.
    pub alert: Option<AlertDescription>,
    /// The error of the last read. `None` if the connection is open or ended with
    /// `close_notify`.
    pub failure: Option<io::ErrorKind>,
}

impl RawAnswer {
    /// Returns the received bytes as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.octets).into_owned()
    }

    /// Returns the status codes of all HTTP/1.1 responses. Searches the received text for status
    /// lines.
    #[must_use]
    pub fn statuses(&self) -> Vec<u16> {
        let text = self.text();
        text.match_indices("HTTP/1.")
            .filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok())
            .collect()
    }
}

/// A TLS connection over which a test can send any bytes.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    host: String,
}

impl Connection {
    pub(crate) const fn new(stream: TlsStream<TcpStream>, host: String) -> Self {
        Self { stream, host }
    }

    pub(crate) const fn stream_mut(&mut self) -> &mut TlsStream<TcpStream> {
        &mut self.stream
    }

    /// Writes bytes and flushes them.
    ///
    /// # Errors
    /// If the connection does not accept the bytes.
    pub async fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        in_time("a write", async {
            self.stream.write_all(octets).await?;
            self.stream.flush().await
        })
        .await
    }

    /// Sends `close_notify`, and ends the client's side of the connection.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn half_close(&mut self) -> io::Result<()> {
        in_time("an end", self.stream.shutdown()).await
    }

    /// Ends the client's side of the connection without `close_notify`.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn end_without_alert(&mut self) -> io::Result<()> {
        in_time("an end", self.stream.get_mut().0.shutdown()).await
    }

    /// Closes the connection with a reset.
    ///
    /// # Errors
    /// When the connection has ended.
    pub fn reset(self) -> io::Result<()> {
        self.stream.get_ref().0.set_zero_linger()
    }

    /// Reads until the server closes the connection or sends nothing for the time `silence`.
    /// Stops after [`DEADLINE`] in any case.
    pub async fn read_until_silent(&mut self, silence: std::time::Duration) -> RawAnswer {
        let mut answer = RawAnswer {
            octets: Vec::new(),
            closed: false,
            alert: None,
            failure: None,
        };
        let mut buffer = vec![0_u8; 16 * 1024];
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while tokio::time::Instant::now() < deadline {
            match tokio::time::timeout(silence, self.stream.read(&mut buffer)).await {
                Err(_) => return answer,
                Ok(Ok(0)) => {
                    answer.closed = true;
                    return answer;
                }
                Ok(Ok(count)) => answer.octets.extend_from_slice(&buffer[..count]),
                Ok(Err(error)) => {
                    answer.closed = true;
                    answer.failure = Some(error.kind());
                    if let ConnectError::Alert(alert) = ConnectError::from_io(error) {
                        answer.alert = Some(alert);
                    }
                    return answer;
                }
            }
        }
        answer
    }

    /// Reads until `enough` returns true or the server closes the connection. The test fails
    /// after [`DEADLINE`].
    pub async fn read_until(&mut self, enough: impl Fn(&[u8]) -> bool) -> RawAnswer {
        let mut octets = Vec::new();
        let mut buffer = vec![0_u8; 16 * 1024];
        let (closed, failure) = in_time("an answer", async {
            while !enough(&octets) {
                match self.stream.read(&mut buffer).await {
                    Ok(0) => return (true, None),
                    Err(error) => return (true, Some(error.kind())),
                    Ok(count) => octets.extend_from_slice(&buffer[..count]),
                }
            }
            (false, None)
        })
        .await;
        RawAnswer {
            octets,
            closed,
            alert: None,
            failure,
        }
    }

    /// Reads until the end of a response head, or until the server closes the connection. The
    /// test fails after [`DEADLINE`].
    pub async fn read_head(&mut self) -> RawAnswer {
        self.read_until(|octets| octets.windows(4).any(|end| end == b"\r\n\r\n"))
            .await
    }

    /// Returns the certificate that the server presented.
    #[must_use]
    pub fn server_certificate(&self) -> Option<CertificateDer<'static>> {
        let (_, tls) = self.stream.get_ref();
        Some(tls.peer_certificates()?.first()?.clone().into_owned())
    }

    /// Returns whether the handshake resumed an earlier session.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        let (_, tls) = self.stream.get_ref();
        tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// Returns the application protocol that ALPN selected.
    #[must_use]
    pub fn alpn(&self) -> Option<Vec<u8>> {
        let (_, tls) = self.stream.get_ref();
        tls.alpn_protocol().map(<[u8]>::to_vec)
    }

    /// Starts HTTP over this connection. The test can send requests with the returned session.
    ///
    /// # Errors
    /// If the HTTP handshake fails.
    pub async fn session(self, protocol: Protocol) -> Result<Session, CallError> {
        let io = TokioIo::new(self.stream);
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = hyper::client::conn::http1::Builder::new()
                    .handshake::<_, Full<Bytes>>(io)
                    .await
                    .map_err(CallError::from_hyper)?;
                tokio::spawn(connection.with_upgrades());
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) =
                    hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                        .handshake::<_, Full<Bytes>>(io)
                        .await
                        .map_err(CallError::from_hyper)?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        };
        Ok(Session {
            sender,
            host: self.host,
        })
    }
}

impl Connection {
    /// Starts h2 over this connection, for requests whose bodies a test sends in pieces.
    ///
    /// # Errors
    /// If the HTTP handshake fails.
    pub async fn streams(
        self,
    ) -> Result<hyper::client::conn::http2::SendRequest<PieceBody>, CallError> {
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(self.stream))
            .await
            .map_err(CallError::from_hyper)?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

/// An HTTP connection that can send requests.
pub struct Session {
    sender: Sender,
    host: String,
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Session")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Sends a request and reads the whole response.
    ///
    /// If the request has no host, the client's host is added.
    ///
    /// # Errors
    /// If there is no complete response.
    pub async fn send(&mut self, request: http::Request<Bytes>) -> Result<Answer, CallError> {
        in_time("an answer", async {
            let response = self.start(request).await?;
            collect(response).await
        })
        .await
    }

    /// Sends a `GET` request and reads the whole response.
    ///
    /// # Errors
    /// If there is no complete response.
    pub async fn get(&mut self, path: &str) -> Result<Answer, CallError> {
        self.send(get(path)).await
    }

    /// Sends a request, and returns the response as soon as its head has arrived.
    ///
    /// # Errors
    /// If no response arrives.
    pub async fn start(
        &mut self,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<hyper::body::Incoming>, CallError> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await.map_err(CallError::from_hyper)?;
                let request = with_host(request, &self.host, Protocol::Http1);
                sender.send_request(request.map(Full::new)).await
            }
            Sender::Http2(sender) => {
                sender.ready().await.map_err(CallError::from_hyper)?;
                let request = with_host(request, &self.host, Protocol::Http2);
                sender.send_request(request.map(Full::new)).await
            }
        }
        .map_err(CallError::from_hyper)
    }

    /// Returns whether the server has closed the connection.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }
}
