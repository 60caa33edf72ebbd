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

use super::connection::Connection;
use super::connection::lifetime::{Ending, Lifetime};
use super::handler;
use super::response::h2_streams::Streams;
use super::task::box_in_place::box_in_place;
use super::wire::h2_monitor::{FloodError, H2Stats, MonitoredIo};
use super::wire::socket::CallerSocket;
use super::wire::tls_close::close_gracefully;
use super::wire::write_coalescing::{CoalescedWrites, CoalescingIo, SendEachPoll, coalescing};
use crate::policy::Denial;
use crate::reason::ReasonCode;
use crate::snapshot::Limits;

/// Why a connection ends whose caller holds answers that nothing else can end.
const UNTAKEN: &str = "the caller did not take an answer for too long";
/// How long streams may go on after GOAWAY when the identity no longer holds.
const GOAWAY_TIMEOUT: Duration = Duration::from_millis(400);

/// Ends what depends on a connection when it is dropped.
struct EndsWith<'a>(&'a Connection);

impl Drop for EndsWith<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Most octets that h2 keeps of one answer for a caller whose window is larger than
/// what its socket takes, beside one piece.
const SEND_BUFFER: usize = 64 * 1024;

/// How serving stopped.
enum Stopped {
    /// The caller may still read what was sent last.
    Ended(Result<(), hyper::Error>),
    /// It is not to.
    Cut,
}

/// Serves streams until the connection ends.
pub(super) async fn serve(
    connection: Arc<Connection>,
    limits: Limits,
    stream: TlsStream<CallerSocket>,
    lifetime: Lifetime,
) -> Result<(), hyper::Error> {
    let (stream, outbox) = coalescing(stream);
    match serve_streams(&connection, limits, stream, &outbox, lifetime).await {
        Stopped::Cut => Ok(()),
        Stopped::Ended(ended) => {
            if let Some(stream) = outbox.into_stream() {
                Box::pin(close_gracefully(stream)).await;
            }
            ended
        }
    }
}

async fn serve_streams(
    connection: &Arc<Connection>,
    limits: Limits,
    stream: CoalescingIo<TlsStream<CallerSocket>>,
    outbox: &CoalescedWrites<TlsStream<CallerSocket>>,
    mut lifetime: Lifetime,
) -> Stopped {
    let _ends = EndsWith(connection);
    let serving = Arc::clone(connection);
    let started = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&started);
    let service = service_fn(move |request: Request<Incoming>| {
        counter.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::clone(&serving);
        box_in_place(|| async move {
            Ok::<_, io::Error>(handler::handle(connection, request, None).await)
        })
    });
    let seen = Arc::new(H2Stats::default());
    let metrics = Arc::clone(&connection.worker().shared().metrics);
    let streams = Streams::new(metrics, Arc::clone(&seen), limits.body_timeout);
    let stream = MonitoredIo::new(stream, Arc::clone(&seen));
    let _report = Report {
        connection,
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
        .max_send_buf_size(SEND_BUFFER)
        // RFC 8441: WebSocket over h2.
        .enable_connect_protocol()
        .keep_alive_interval(limits.header_timeout)
        .keep_alive_timeout(limits.handshake_timeout);
    let serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut serving = SendEachPoll::new(serving, outbox);
    let idle = idle_h2(connection, &started, &seen, limits.header_timeout);
    let mut idle = pin!(idle);
    let mut stalled = pin!(streams.watch());
    loop {
        let denial = tokio::select! {
            ended = &mut serving => {
                if !seen.is_flooded() {
                    return Stopped::Ended(ended);
                }
                connection.cut(Denial::new(ReasonCode::MalformedRequest, FloodError.to_string()));
                return Stopped::Cut;
            }
            () = stalled.as_mut() => Denial::new(ReasonCode::Timeout, UNTAKEN),
            ending = lifetime.ending(connection) => match ending {
                Ending::Drain => {
                    serving.connection().as_mut().graceful_shutdown();
                    continue;
                }
                Ending::Cut(denial) => denial,
            },
            () = idle.as_mut() => {
                serving.connection().as_mut().graceful_shutdown();
                let _ = tokio::time::timeout(GOAWAY_TIMEOUT, &mut serving).await;
                return Stopped::Ended(Ok(()));
            }
        };
        serving.connection().as_mut().graceful_shutdown();
        connection.cut(denial);
        let _ = tokio::time::timeout(GOAWAY_TIMEOUT, &mut serving).await;
        return Stopped::Cut;
    }
}

/// Says at a connection's end what h2 has refused by itself.
struct Report<'a> {
    connection: &'a Connection,
    seen: Arc<H2Stats>,
    started: Arc<AtomicU64>,
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if self.connection.cut_reason().is_some() {
            return;
        }
        let served = self.started.load(Ordering::Relaxed);
        if let Some(detail) = self.seen.refusals(served) {
            self.connection.record_h2_refusal(&detail);
        }
    }
}

/// Resolves when no request has begun, none was in progress and no answer was on its way
/// for `longest`, which includes a connection that never says anything.
async fn idle_h2(connection: &Connection, started: &AtomicU64, sent: &H2Stats, longest: Duration) {
    let mut seen = u64::MAX;
    loop {
        let now = started.load(Ordering::Relaxed);
        if now == seen && connection.in_flight().is_empty() && sent.is_all_sent() {
            return;
        }
        seen = now;
        tokio::time::sleep(longest).await;
    }
}
