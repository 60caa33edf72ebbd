//! Serves HTTP/1.1 on one connection of the control plane.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// Maximum time for a TLS handshake.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time until the first byte of a handshake. It is short, because clients send this byte
/// right after connecting.
pub(super) const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum time until a request's head has arrived, and maximum time that a connection may be idle.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum lifetime of a connection. One request takes milliseconds only.
const MAX_DURATION: Duration = Duration::from_secs(300);
/// Maximum time until a connection ends after the process has begun to stop.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;

/// Serves HTTP on one connection until the connection ends, `MAX_DURATION` has passed or the
/// process stops.
pub(super) async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = told_to_stop(&mut stopping) => None,
        () = tokio::time::sleep(MAX_DURATION) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => end(connection).await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of the control plane ended with an error");
    }
}

/// Resolves when the process stops, or when the sender was dropped.
pub(super) async fn told_to_stop(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Lets the request in progress finish, for at most `CLOSE_TIMEOUT`.
async fn end<I, S>(mut connection: std::pin::Pin<&mut http1::Connection<I, S>>) -> hyper::Result<()>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = axum::body::Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    connection.as_mut().graceful_shutdown();
    match tokio::time::timeout(CLOSE_TIMEOUT, connection).await {
        Ok(ended) => ended,
        Err(_) => Ok(()),
    }
}
