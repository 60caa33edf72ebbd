//! Opens one connection to an endpoint: TCP, TLS, HTTP.

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
use super::dedicated_h2::{Announcement, DedicatedTasks, Tasks, announcing};
use super::error::ConnectError;
use super::http1::{Driver, TrackedIo};
use super::http2::settings::{
    CONNECTION_WINDOW, HEAD_SLACK, PING_INTERVAL, PING_TIMEOUT, STREAM_WINDOW,
};
use super::http2::{self as h2_client, Client};
use super::interim::metered;
use super::resources::HeldResources;
use crate::upstream::config::UpstreamConfig;
use crate::upstream::config::response_limits::ResponseLimits;
use crate::upstream::config::target::HttpProtocol;
use crate::upstream::limits::connection_limit::Slot;

/// Maximum number of bytes of one read from an HTTP/1.1 service. hyper's own limit of 400 KiB is
/// too large: the first bytes would leave the CPU cache before they are encrypted.
const READ_BUFFER: usize = 64 * 1024;

/// The handle that sends requests on a new connection.
pub(in crate::upstream) enum Opened<B> {
    Http1(http1::SendRequest<B>, Driver),
    Http2(Client),
}

/// The handle that sends the request on a new connection for one tunnel.
pub(in crate::upstream) enum OpenedDedicated<B> {
    Http1(http1::SendRequest<B>, Driver),
    /// An HTTP/2 connection with the tasks that drive it.
    Http2(http2::SendRequest<B>, DedicatedTasks),
}

/// A new connection. `O` is the handle that sends requests on it: [`Opened`] or
/// [`OpenedDedicated`].
pub(in crate::upstream) struct Connected<O> {
    pub(in crate::upstream) opened: O,
    /// The IP address and port of the endpoint.
    pub(in crate::upstream) address: SocketAddr,
    /// When the service's certificate expires, in seconds since the Unix epoch. `None` without TLS.
    pub(in crate::upstream) good_until: Option<i64>,
}

/// Opens a connection to an endpoint. A separate task drives an h2 connection. The connection holds
/// `slot` until it is closed.
pub(in crate::upstream) async fn connect<B>(
    addresses: &Arc<Addresses>,
    config: &UpstreamConfig,
    slot: Option<Slot>,
) -> Result<Connected<Opened<B>>, ConnectError>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let resources = HeldResources::with(slot).await?;
    let (stream, address) = reach(addresses, config.connect_timeout).await?;
    let (protocol, limits) = (config.protocol, config.response_limits);
    let (opened, good_until) = match &config.tls {
        None => (open(stream, protocol, limits, resources).await?, None),
        Some(tls) => {
            let secured = tls.connect(&addresses.endpoint().host, stream).await?;
            let opened = open(secured.stream, protocol, limits, resources).await?;
            (opened, Some(secured.not_after))
        }
    };
    Ok(Connected {
        opened,
        address,
        good_until,
    })
}

/// Opens a connection in `protocol` for one tunnel. The connection holds `slot` until it is closed.
pub(in crate::upstream) async fn connect_dedicated<B>(
    addresses: &Arc<Addresses>,
    config: &UpstreamConfig,
    protocol: HttpProtocol,
    slot: Slot,
) -> Result<Connected<OpenedDedicated<B>>, ConnectError>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let resources = HeldResources::with(Some(slot)).await?;
    let (stream, address) = reach(addresses, config.connect_timeout).await?;
    let limits = config.response_limits;
    let (opened, good_until) = match &config.tls {
        None => {
            let opened = open_dedicated(stream, protocol, limits, resources).await?;
            (opened, None)
        }
        Some(tls) => {
            let tls = tls.speaking(protocol.alpn());
            let secured = tls.connect(&addresses.endpoint().host, stream).await?;
            let opened = open_dedicated(secured.stream, protocol, limits, resources).await?;
            (opened, Some(secured.not_after))
        }
    };
    Ok(Connected {
        opened,
        address,
        good_until,
    })
}

/// Opens a TCP connection to the first address that accepts one. `timeout` is divided equally among
/// the addresses.
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
    limits: ResponseLimits,
    resources: HeldResources,
) -> Result<Opened<B>, ConnectError>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    match protocol {
        HttpProtocol::Http1 => {
            let (sender, driver) = open_http1(stream, limits, resources).await?;
            Ok(Opened::Http1(sender, driver))
        }
        HttpProtocol::Http2 => {
            let client = h2_client::open(stream, limits.header_bytes, resources).await;
            Ok(Opened::Http2(client.map_err(ConnectError::Handshake)?))
        }
    }
}

async fn open_dedicated<B, S>(
    stream: S,
    protocol: HttpProtocol,
    limits: ResponseLimits,
    resources: HeldResources,
) -> Result<OpenedDedicated<B>, ConnectError>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    match protocol {
        HttpProtocol::Http1 => {
            let (sender, driver) = open_http1(stream, limits, resources).await?;
            Ok(OpenedDedicated::Http1(sender, driver))
        }
        HttpProtocol::Http2 => {
            let (tell, heard) = oneshot::channel();
            let stream = announcing(metered(stream), resources, tell);
            let tasks = Tasks::default();
            let tasks_of_tunnel = DedicatedTasks(tasks.clone());
            let (sender, connection) = http2_settings(tasks.clone(), limits)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(|error| ConnectError::Handshake(error.into()))?;
            tasks.execute(async move {
                let _ = connection.await;
            });
            match heard.await {
                Ok(Announcement::Tunnels) => Ok(OpenedDedicated::Http2(sender, tasks_of_tunnel)),
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
    limits: ResponseLimits,
    resources: HeldResources,
) -> Result<(http1::SendRequest<B>, Driver), ConnectError>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let max_head = limits.max_bytes();
    let (stream, progress) = TrackedIo::new(stream, max_head, resources);
    let mut builder = http1::Builder::new();
    builder
        .max_header_size(max_head)
        // hyper reads content into the same buffer. The limit of heads raises that of content too.
        .max_buf_size(READ_BUFFER.max(max_head));
    if let Some(fields) = limits.fields_for_hyper() {
        builder.max_headers(fields);
    }
    let (sender, connection) = builder
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ConnectError::Handshake(error.into()))?;
    let connection = async move {
        // The request that uses the connection receives the same error, so the error is ignored
        // here.
        let _ = connection.with_upgrades().await;
    };
    Ok((sender, Driver::new(connection, progress)))
}

fn http2_settings<E: Clone>(executor: E, limits: ResponseLimits) -> http2::Builder<E> {
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(limits.header_bytes.saturating_add(HEAD_SLACK))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}
