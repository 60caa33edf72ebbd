//! HTTP/2 on one caller's connection, by hyper over the frame guard.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_rustls::server::TlsStream;

use super::boxed::boxed;
use super::connection::Connection;
use super::gathering::{Sending, gathering};
use super::h2_guard::{Flood, Seen, Watched};
use super::h2_streams::Streams;
use super::handler;
use super::lifetime::{Ending, Lifetime};
use super::socket::CallerSocket;
use crate::policy::Denial;
use crate::reason::ReasonCode;
use crate::snapshot::Limits;

/// How long streams may go on after GOAWAY when the identity no longer holds.
const GOAWAY_PATIENCE: Duration = Duration::from_millis(400);

/// Ends what depends on a connection when it is dropped.
struct EndsWith<'a>(&'a Connection);

impl Drop for EndsWith<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Serves streams until the connection ends.
pub(super) async fn serve(
    connection: Arc<Connection>,
    limits: Limits,
    stream: TlsStream<CallerSocket>,
    mut lifetime: Lifetime,
) -> Result<(), hyper::Error> {
    let _ends = EndsWith(&connection);
    let serving = Arc::clone(&connection);
    let started = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&started);
    let service = service_fn(move |request: Request<Incoming>| {
        counter.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::clone(&serving);
        boxed(
            || async move { Ok::<_, io::Error>(handler::handle(connection, request, None).await) },
        )
    });
    let streams = Streams::new(Arc::clone(&connection.worker().shared().metrics));
    let seen = Arc::new(Seen::default());
    let (stream, outbox) = gathering(stream);
    let stream = Watched::new(stream, Arc::clone(&seen));
    let _report = Report {
        connection: &connection,
        seen: Arc::clone(&seen),
        started: Arc::clone(&started),
    };
    let mut builder = http2::Builder::new(streams.clone());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(64)
        // RFC 8441: WebSocket over h2.
        .enable_connect_protocol()
        .keep_alive_interval(limits.header_timeout)
        .keep_alive_timeout(limits.handshake_timeout);
    let serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut serving = Sending::new(serving, outbox);
    let idle = idle_h2(&connection, &started, limits.header_timeout);
    let mut idle = pin!(idle);
    let mut stalled = pin!(streams.watch(limits.body_timeout));
    loop {
        let ending = tokio::select! {
            ended = &mut serving => {
                if seen.is_flooded() {
                    connection.cut(Denial::new(ReasonCode::MalformedRequest, Flood.to_string()));
                }
                return ended;
            }
            () = stalled.as_mut() => continue,
            ending = lifetime.ending(&connection) => ending,
            () = idle.as_mut() => {
                serving.connection().as_mut().graceful_shutdown();
                let _ = tokio::time::timeout(GOAWAY_PATIENCE, &mut serving).await;
                return Ok(());
            }
        };
        serving.connection().as_mut().graceful_shutdown();
        if let Ending::Cut(denial) = ending {
            connection.cut(denial);
            let _ = tokio::time::timeout(GOAWAY_PATIENCE, &mut serving).await;
            return Ok(());
        }
    }
}

/// Says at a connection's end what h2 has refused by itself.
struct Report<'a> {
    connection: &'a Connection,
    seen: Arc<Seen>,
    started: Arc<AtomicU64>,
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if self.connection.cut_off().is_some() {
            return;
        }
        let served = self.started.load(Ordering::Relaxed);
        if let Some(detail) = self.seen.refusals(served) {
            self.connection.refused_by_h2(&detail);
        }
    }
}

/// Resolves when no request has begun and none was in progress for `longest`,
/// which includes a connection that never says anything.
async fn idle_h2(connection: &Connection, started: &AtomicU64, longest: Duration) {
    let mut seen = u64::MAX;
    loop {
        let now = started.load(Ordering::Relaxed);
        if now == seen && connection.active_requests().is_empty() {
            return;
        }
        seen = now;
        tokio::time::sleep(longest).await;
    }
}
