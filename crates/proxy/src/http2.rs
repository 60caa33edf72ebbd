//! Serves HTTP/2 on one caller's connection, with hyper over the frame monitor.

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
use super::response::h2_streams::H2Streams;
use super::task::box_in_place::box_in_place;
use super::wire::h2_head;
use super::wire::h2_malformed::{self, MalformedResponder, RefusedRequest};
use super::wire::h2_monitor::{FloodError, H2Stats, MonitoredIo};
use super::wire::socket::CallerSocket;
use super::wire::tls_close::close_gracefully;
use super::wire::write_coalescing::{CoalescedWrites, CoalescingIo, SendEachPoll, coalescing};
use crate::assertion::signer::token_id;
use crate::h2_frames::PREFACE;
use crate::h2_frames::merged_data::MergedData;
use crate::policy::Denial;
use crate::reason::ReasonCode;
use crate::snapshot::Limits;
use crate::telemetry::record::AuditRecord;

/// The detail in the audit line of a connection that is closed because its caller does not take a
/// response. The gateway closes the connection if it cannot reset the stream of that response any
/// more.
const UNREAD: &str = "the caller did not take an answer for too long";
/// The detail in the audit line of a request that h2 resets. The path is not recorded, because h2
/// does not report it.
const MALFORMED: &str = "the request is malformed: HTTP/2 has refused it with PROTOCOL_ERROR";
/// Maximum number of streams of a connection that h2 resets because of the caller's errors. At the
/// next such error, h2 ends the connection.
const MAX_MALFORMED: usize = 64;
/// Time after GOAWAY for which streams may continue. The connection then ends.
const GOAWAY_TIMEOUT: Duration = Duration::from_millis(400);

/// When dropped, signals to the connection's streams and tunnels that the connection has ended.
struct EndOnDrop<'a>(&'a Connection);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Maximum number of bytes that h2 buffers for one response, in addition to one chunk of the body.
/// The buffer fills if the caller's flow-control window has space but the socket's send buffer is
/// full.
const SEND_BUFFER: usize = 64 * 1024;

/// The reason why serving stopped.
enum Stopped {
    /// HTTP/2 has ended on the connection. The caller may not have read the last bytes yet.
    Ended(Result<(), hyper::Error>),
    /// The connection was cut, because its identity or a request in progress is not accepted any
    /// more.
    Cut,
}

/// Serves streams until the connection ends.
pub(super) async fn serve(
    connection: Arc<Connection>,
    limits: Limits,
    stream: TlsStream<CallerSocket>,
    lifetime: Lifetime,
) -> Result<(), hyper::Error> {
    let (stream, writes) = coalescing(stream);
    match serve_streams(&connection, limits, stream, &writes, lifetime).await {
        Stopped::Cut => Ok(()),
        Stopped::Ended(ended) => {
            if let Some(stream) = writes.into_stream() {
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
    writes: &CoalescedWrites<TlsStream<CallerSocket>>,
    mut lifetime: Lifetime,
) -> Stopped {
    let _end = EndOnDrop(connection);
    let serving = Arc::clone(connection);
    let started = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&started);
    let service = service_fn(move |request: Request<Incoming>| {
        counter.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::clone(&serving);
        let head_error = h2_head::check(&request, limits.header_bytes, limits.header_fields);
        box_in_place(|| async move {
            Ok::<_, io::Error>(handler::handle(connection, request, head_error).await)
        })
    });
    let stats = Arc::new(H2Stats::default());
    let metrics = Arc::clone(&connection.worker().shared().metrics);
    let streams = H2Streams::new(metrics, Arc::clone(&stats), limits.body_timeout);
    // The monitor must see the resets that `MalformedResponder` replaces.
    let record = malformed_requests(connection, &stats, &started);
    let stream = MalformedResponder::new(stream, limits.streams, record);
    // The monitor must see the frames as they arrived, before `MergedData` merges small DATA
    // frames. Otherwise it could not limit small and empty frames.
    let stream = MergedData::new(MonitoredIo::new(stream, Arc::clone(&stats)), PREFACE);
    let _refusals = RecordH2Refusals {
        connection,
        stats: Arc::clone(&stats),
        started: Arc::clone(&started),
    };
    let mut builder = http2::Builder::new(streams.clone());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.header_bytes.saturating_add(h2_head::SLACK)).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(MAX_MALFORMED)
        .max_send_buf_size(SEND_BUFFER)
        // RFC 8441: extended CONNECT, for WebSocket over HTTP/2.
        .enable_connect_protocol()
        .keep_alive_interval(limits.header_timeout)
        .keep_alive_timeout(limits.handshake_timeout);
    let serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut serving = SendEachPoll::new(serving, writes);
    let idle = idle(connection, &started, &stats, limits.header_timeout);
    let mut idle = pin!(idle);
    let mut stalled = pin!(streams.end_stalled());
    loop {
        let denial = tokio::select! {
            ended = &mut serving => {
                if !stats.is_flooded() {
                    return Stopped::Ended(ended);
                }
                connection.cut(Denial::new(ReasonCode::MalformedRequest, FloodError.to_string()));
                return Stopped::Cut;
            }
            () = stalled.as_mut() => Denial::new(ReasonCode::Timeout, UNREAD),
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

/// Returns the function that records a malformed request, when a response replaces h2's reset. The
/// function also counts the request as one that has begun.
fn malformed_requests(
    connection: &Arc<Connection>,
    stats: &Arc<H2Stats>,
    started: &Arc<AtomicU64>,
) -> impl FnMut() -> RefusedRequest + Send + use<> {
    let (connection, stats) = (Arc::clone(connection), Arc::clone(stats));
    let started = Arc::clone(started);
    move || {
        started.fetch_add(1, Ordering::Relaxed);
        stats.record_answered();
        let request_id: Arc<str> = token_id().unwrap_or_default().into();
        let mut record = AuditRecord::open(
            connection.worker().audit().clone(),
            Arc::clone(connection.facts()),
            Arc::clone(&request_id),
            Arc::clone(connection.worker().shared().metrics.unrouted()),
        );
        if let Some(proof) = connection.proof() {
            record.caller(Arc::clone(&proof.identity));
        }
        record.refused(ReasonCode::MalformedRequest, MALFORMED);
        record.answered(h2_malformed::STATUS);
        RefusedRequest {
            request_id,
            when_written: Box::new(move || record.complete()),
        }
    }
}

/// When dropped, records which requests and frames the h2 library has refused. Records nothing if
/// the connection was cut.
struct RecordH2Refusals<'a> {
    connection: &'a Connection,
    stats: Arc<H2Stats>,
    started: Arc<AtomicU64>,
}

impl Drop for RecordH2Refusals<'_> {
    fn drop(&mut self) {
        if self.connection.cut_reason().is_some() {
            return;
        }
        let served = self.started.load(Ordering::Relaxed);
        if let Some(detail) = self.stats.refusals(served) {
            self.connection.record_h2_refusal(&detail);
        }
    }
}

/// Resolves when the connection was idle for `timeout`: in this time no request has begun or was in
/// progress, and no response was being sent. A connection that never sends a request is idle from
/// its beginning.
async fn idle(connection: &Connection, started: &AtomicU64, stats: &H2Stats, timeout: Duration) {
    let mut before = u64::MAX;
    loop {
        let now = started.load(Ordering::Relaxed);
        if now == before && connection.in_flight().is_empty() && stats.is_all_sent() {
            return;
        }
        before = now;
        tokio::time::sleep(timeout).await;
    }
}
