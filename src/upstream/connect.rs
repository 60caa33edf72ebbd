//! Opening one connection to an endpoint: TCP, TLS, HTTP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body::Body;
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::addresses::Addresses;
use super::descriptors::{self, Descriptor};
use super::driver::{Driver, Watched};
use super::error::ServiceError;
use super::http2::Client;
use super::interim::metered;
use super::slots::Slot;
use super::tunnel::{Announcement, Own, Tasks, announcing};
use super::{HttpProtocol, UpstreamConfig};
use crate::tls::TlsConnectError;

/// Most bytes of a response's head.
const MAX_RESPONSE_HEAD: usize = 64 * 1024;
/// Most bytes that are read from an HTTP/1.1 service at once. hyper's own limit of
/// 400 KiB is more than a core's cache keeps until it is encrypted.
const READ_BUFFER: usize = 64 * 1024;
/// What an h2 stream, and a whole connection, may have on the way to us.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// A busy h2 connection that says nothing for this long is asked whether it is
/// still there.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Why no connection could be had.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The upstream has no endpoint.
    #[error("the upstream has no endpoint")]
    NoEndpoint,
    /// Connecting took longer than `connect_timeout`.
    #[error("connecting took longer than {0:?}")]
    Timeout(Duration),
    /// As many connections as it may have are in use, and as many requests as may
    /// wait for one do.
    #[error("all connections that the endpoint may have are in use")]
    Full,
    /// The process has no descriptor for another connection.
    #[error("all descriptors that there are for connections to services are in use")]
    NoDescriptor,
    /// The endpoint refused or could not be reached.
    #[error("connecting failed: {0}")]
    Io(#[from] io::Error),
    /// TLS failed.
    #[error("{0}")]
    Tls(#[from] TlsConnectError),
    /// It speaks h2 and does not announce extended CONNECT (RFC 8441).
    #[error("the service does not announce extended CONNECT, which tunnels over h2 need")]
    NoTunnels,
    /// The HTTP connection could not be set up.
    #[error("the connection failed at once: {0}")]
    Handshake(ServiceError),
}

/// The request side of a new connection.
pub(super) enum Opened<B> {
    Http1(http1::SendRequest<B>, Driver),
    Http2(Client),
}

/// The request side of a new connection for one tunnel.
pub(super) enum OpenedOwn<B> {
    Http1(http1::SendRequest<B>, Driver),
    /// With what keeps it moving.
    Http2(http2::SendRequest<B>, Own),
}

/// A new connection; `O` is its request side.
pub(super) struct Connected<O> {
    pub(super) opened: O,
    /// Where it leads.
    pub(super) address: SocketAddr,
    /// Until when the service's certificate is good, in seconds since the Unix epoch.
    pub(super) good_until: Option<i64>,
}

/// What a connection keeps for as long as it lasts.
pub(super) struct Kept {
    _slot: Option<Slot>,
    _descriptor: Descriptor,
}

impl Kept {
    async fn with(slot: Option<Slot>) -> Result<Self, ConnectError> {
        Ok(Self {
            _slot: slot,
            _descriptor: descriptors::take()
                .await
                .ok_or(ConnectError::NoDescriptor)?,
        })
    }
}

/// Connects. An h2 connection is driven by a task of its own. The connection keeps
/// `slot`.
pub(super) async fn connect<B>(
    addresses: &Arc<Addresses>,
    config: &UpstreamConfig,
    slot: Option<Slot>,
) -> Result<Connected<Opened<B>>, ConnectError>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let kept = Kept::with(slot).await?;
    let (stream, address) = reach(addresses, config.connect_timeout).await?;
    let (opened, good_until) = match &config.tls {
        None => (open(stream, config.protocol, kept).await?, None),
        Some(tls) => {
            let secured = tls.connect(&addresses.endpoint().host, stream).await?;
            let opened = open(secured.stream, config.protocol, kept).await?;
            (opened, Some(secured.not_after))
        }
    };
    Ok(Connected {
        opened,
        address,
        good_until,
    })
}

/// Connects in `protocol`, for one tunnel. The connection keeps `slot`.
pub(super) async fn connect_own<B>(
    addresses: &Arc<Addresses>,
    config: &UpstreamConfig,
    protocol: HttpProtocol,
    slot: Slot,
) -> Result<Connected<OpenedOwn<B>>, ConnectError>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let kept = Kept::with(Some(slot)).await?;
    let (stream, address) = reach(addresses, config.connect_timeout).await?;
    let (opened, good_until) = match &config.tls {
        None => (open_own(stream, protocol, kept).await?, None),
        Some(tls) => {
            let tls = tls.speaking(protocol.alpn());
            let secured = tls.connect(&addresses.endpoint().host, stream).await?;
            let opened = open_own(secured.stream, protocol, kept).await?;
            (opened, Some(secured.not_after))
        }
    };
    Ok(Connected {
        opened,
        address,
        good_until,
    })
}

/// A TCP connection to the first address that takes one. Each gets its share of the
/// time.
async fn reach(
    addresses: &Arc<Addresses>,
    timeout: Duration,
) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let all = addresses.all().await?;
    let share = timeout / u32::try_from(all.len().max(1)).unwrap_or(1);
    let mut last = ConnectError::NoEndpoint;
    for address in all {
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok((stream, address));
            }
            Ok(Err(error)) => last = error.into(),
            Err(_) => last = ConnectError::Timeout(share),
        }
    }
    Err(last)
}

async fn open<B, S>(
    stream: S,
    protocol: HttpProtocol,
    kept: Kept,
) -> Result<Opened<B>, ConnectError>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    match protocol {
        HttpProtocol::Http1 => {
            let (sender, driver) = open_http1(stream, kept).await?;
            Ok(Opened::Http1(sender, driver))
        }
        HttpProtocol::Http2 => {
            let client = super::http2::open(stream, kept).await;
            Ok(Opened::Http2(client.map_err(ConnectError::Handshake)?))
        }
    }
}

async fn open_own<B, S>(
    stream: S,
    protocol: HttpProtocol,
    kept: Kept,
) -> Result<OpenedOwn<B>, ConnectError>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    match protocol {
        HttpProtocol::Http1 => {
            let (sender, driver) = open_http1(stream, kept).await?;
            Ok(OpenedOwn::Http1(sender, driver))
        }
        HttpProtocol::Http2 => {
            let (tell, heard) = oneshot::channel();
            let stream = announcing(metered(stream), kept, tell);
            let tasks = Tasks::default();
            let own = Own(tasks.clone());
            let (sender, connection) = http2_settings(tasks.clone())
                .handshake(TokioIo::new(stream))
                .await
                .map_err(|error| ConnectError::Handshake(error.into()))?;
            tasks.execute(async move {
                let _ = connection.await;
            });
            match heard.await {
                Ok(Announcement::Tunnels) => Ok(OpenedOwn::Http2(sender, own)),
                Ok(Announcement::NoTunnels) => Err(ConnectError::NoTunnels),
                Ok(Announcement::NotSettings) => Err(ConnectError::Io(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the service does not begin with the settings of h2",
                ))),
                Err(_) => Err(ConnectError::Io(io::ErrorKind::UnexpectedEof.into())),
            }
        }
    }
}

async fn open_http1<B, S>(
    stream: S,
    kept: Kept,
) -> Result<(http1::SendRequest<B>, Driver), ConnectError>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (stream, progress) = Watched::new(stream, kept);
    let (sender, connection) = http1::Builder::new()
        .max_header_size(MAX_RESPONSE_HEAD)
        .max_buf_size(READ_BUFFER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ConnectError::Handshake(error.into()))?;
    let connection = async move {
        // Its errors reach the request that is in flight, if there is one.
        let _ = connection.with_upgrades().await;
    };
    Ok((sender, Driver::new(connection, progress)))
}

fn http2_settings<E: Clone>(executor: E) -> http2::Builder<E> {
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(MAX_RESPONSE_HEAD).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}
