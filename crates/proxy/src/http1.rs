//! Serves HTTP/1.1 on one caller's connection, with hyper over the framing guard.
//!
//! hyper keeps buffers of 16 KiB for each connection that it serves. If a connection is idle for a
//! short time, the gateway therefore stops hyper and waits without buffers. When the next byte
//! arrives, hyper serves the connection again.

use std::future::poll_fn;
use std::io::{self, Write as _};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::CONNECTION;
use http::{Request, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use super::connection::Connection;
use super::connection::lifetime::{Ending, Lifetime};
use super::handler;
use super::response::body::GatewayBody;
use super::response::tunnel::{self, Tunnel};
use super::task::box_in_place::box_in_place;
use super::task::poll_on_wake::PollOnWake;
use super::wire::framing::FramingMachine;
use super::wire::framing_io::{FramingIo, FramingState};
use super::wire::half_close::max_silence;
use super::wire::head::MAX_FIELDS;
use super::wire::socket::{CallerSocket, LingerLimits};
use super::wire::tls_close::close_gracefully;
use crate::snapshot::Limits;

/// Minimum time between two checks whether a connection is idle. The maximum is twice this time
/// (see [`next_check`]). If the connection is idle, hyper stops serving it.
const IDLE_AFTER: Duration = Duration::from_millis(50);

/// All connections check for idleness at the same times, which are multiples of [`IDLE_AFTER`]
/// after this time. A new timer costs a system call only if it expires before all other timers.
/// This is rare if all connections use the same times.
static CHECKS_FROM: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Returns the first check time that is at least [`IDLE_AFTER`] from now.
fn next_check() -> Instant {
    let now = Instant::now();
    let past = now.duration_since(*CHECKS_FROM).as_nanos() % IDLE_AFTER.as_nanos();
    now + IDLE_AFTER * 2 - Duration::from_nanos(u64::try_from(past).unwrap_or(0))
}

/// The caller's stream under the framing guard. Boxed, because it is moved through several futures.
/// Each future would otherwise need space for the whole value.
type Io = Box<FramingIo<TlsStream<CallerSocket>>>;

/// Counts the requests of a connection. The counts are kept while hyper does not serve the
/// connection.
struct Activity {
    framing: Arc<FramingState>,
    /// Number of requests that have begun. This number is also the position of the next request on
    /// the connection.
    begun: AtomicU64,
    /// Number of requests whose complete response has not yet been given to hyper.
    running: AtomicUsize,
    /// Whether the last request was HTTP/1.0. In HTTP/1.0 the end of the connection may mark the
    /// end of the response. The caller can then only see from the kind of close (regular or reset)
    /// whether the response is complete (RFC 9112 section 9.8).
    is_http_10: AtomicBool,
    /// The tunnel that begins after the 101 response has been sent.
    tunnel: Mutex<Option<Box<Tunnel>>>,
}

/// Counts a request as running until this value is dropped.
struct RunningRequest(Arc<Activity>);

impl RunningRequest {
    fn begin(activity: &Arc<Activity>, version: Version) -> Self {
        activity.running.fetch_add(1, Ordering::Relaxed);
        let is_http_10 = version == Version::HTTP_10;
        activity.is_http_10.store(is_http_10, Ordering::Relaxed);
        activity.framing.begin_request(!is_http_10);
        Self(Arc::clone(activity))
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
        self.0.framing.end_response();
    }
}

/// The body of a response. hyper drops this value after it has read the whole body.
struct RunningBody {
    body: GatewayBody,
    _running: RunningRequest,
}

impl Body for RunningBody {
    type Data = <GatewayBody as Body>::Data;
    type Error = <GatewayBody as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Activity {
    fn tunnel(&self) -> MutexGuard<'_, Option<Box<Tunnel>>> {
        self.tunnel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when the connection is idle: no request has begun between two checks, no request is
    /// in progress, and all written bytes are flushed.
    async fn idle(&self, connection: &Connection) {
        loop {
            let begun = self.begun.load(Ordering::Relaxed);
            tokio::time::sleep_until(next_check()).await;
            if begun == self.begun.load(Ordering::Relaxed)
                && self.running.load(Ordering::Relaxed) == 0
                && connection.in_flight().is_empty()
                && self.framing.is_idle()
            {
                return;
            }
        }
    }
}

/// The reason why hyper stopped serving a connection.
enum Stopped {
    /// HTTP has ended on the connection. `early` is true if hyper or the framing guard has read
    /// bytes after the last request.
    Ended {
        ended: Result<(), hyper::Error>,
        io: Io,
        early: bool,
    },
    /// The connection is idle. hyper serves it again when bytes arrive.
    Idle(Io),
    /// The identity is no longer valid, and the connection was cut.
    Cut,
}

/// Serves requests until the connection ends.
pub(super) fn serve(
    connection: Arc<Connection>,
    limits: Limits,
    stream: TlsStream<CallerSocket>,
    lifetime: Lifetime,
) -> impl Future<Output = Result<(), hyper::Error>> + Send {
    let activity = Arc::new(Activity {
        framing: Arc::default(),
        begun: AtomicU64::new(0),
        running: AtomicUsize::new(0),
        is_http_10: AtomicBool::new(false),
        tunnel: Mutex::new(None),
    });
    let machine = FramingMachine::new(limits.header_bytes).max_fields(limits.header_fields);
    let io = Box::new(FramingIo::new(
        stream,
        machine,
        limits.header_timeout,
        max_silence(limits.body_timeout),
        Arc::clone(&activity.framing),
    ));
    serve_until_end(connection, limits, io, activity, lifetime)
}

/// Serves requests until the connection ends. While the connection is idle, waits without hyper's
/// buffers.
async fn serve_until_end(
    connection: Arc<Connection>,
    limits: Limits,
    mut io: Io,
    activity: Arc<Activity>,
    mut lifetime: Lifetime,
) -> Result<(), hyper::Error> {
    // `since` is the time when the connection last became idle after a request. `begun` is the
    // number of requests that had begun at that time.
    let (mut begun, mut since) = (0, Instant::now());
    let (ended, io, early) = loop {
        // Boxed, so that an idle connection needs no space for this future.
        let serving =
            box_in_place(|| serve_active(&connection, &activity, &limits, io, &mut lifetime));
        match serving.await {
            Stopped::Cut => return Ok(()),
            Stopped::Ended { ended, io, early } => break (ended, io, early),
            Stopped::Idle(idle) => io = idle,
        }
        let _idle_gauge = connection.worker().shared().metrics.connection_rests();
        let now_begun = activity.begun.load(Ordering::Relaxed);
        if now_begun != begun {
            (begun, since) = (now_begun, Instant::now());
        }
        // The timeout starts when the connection became idle after its last request. TLS records
        // without a request do not extend the timeout.
        let readable = io.inner().get_ref().0.readable();
        let waiting = tokio::time::timeout_at(since + limits.header_timeout, readable);
        tokio::select! {
            waited = waiting => if waited.is_err() {
                break (Ok(()), io, false);
            },
            ending = lifetime.ending(&connection) => match ending {
                Ending::Drain => break (Ok(()), io, false),
                Ending::Cut(denial) => {
                    connection.cut(denial);
                    return Ok(());
                }
            },
        }
    };
    let (stream, unsent) = io.into_parts();
    let tunnel = activity.tunnel().take();
    if let Some(tunnel) = tunnel {
        Box::pin(tunnel::serve(&connection, tunnel, stream, early, lifetime)).await;
        return Ok(());
    }
    let last_response = LastResponse {
        unsent,
        is_complete: ended.is_ok(),
        is_http_10: activity.is_http_10.load(Ordering::Relaxed),
    };
    box_in_place(|| close(stream, last_response, &connection, lifetime)).await;
    ended
}

/// The last response of a connection on which HTTP has ended.
struct LastResponse {
    /// The encoded bytes of the response that were not yet written.
    unsent: Vec<u8>,
    /// Whether the response is complete.
    is_complete: bool,
    /// Whether the caller uses HTTP/1.0.
    is_http_10: bool,
}

/// Closes a connection. Sends the unsent bytes of the last response together with `close_notify`.
/// After an incomplete response, sends no `close_notify`, because `close_notify` would tell the
/// caller that the response is complete (RFC 8446 section 6.1).
async fn close(
    mut stream: TlsStream<CallerSocket>,
    last_response: LastResponse,
    connection: &Connection,
    mut lifetime: Lifetime,
) {
    let LastResponse {
        unsent,
        mut is_complete,
        is_http_10,
    } = last_response;
    if !unsent.is_empty() || stream.get_ref().1.wants_write() {
        if is_complete {
            stream.get_ref().0.cork();
        }
        // `write` only encrypts the bytes. `shutdown` sends them together with `close_notify`.
        let count = stream.get_mut().1.writer().write(&unsent).unwrap_or(0);
        let sending = async {
            let rest = unsent.get(count..).unwrap_or_default();
            stream.write_all(rest).await?;
            match is_complete {
                true => stream.shutdown().await,
                false => stream.flush().await,
            }
        };
        // There is no timeout for the whole write: the caller may read slowly as long as its
        // identity is valid.
        let sent = tokio::select! {
            biased;
            sent = sending => sent,
            denial = lifetime.cut(connection) => {
                connection.cut(denial);
                return abort(stream, is_http_10);
            }
        };
        is_complete &= sent.is_ok();
    }
    match is_complete {
        true => close_gracefully(stream).await,
        false if is_http_10 => abort(stream, true),
        false => stream.into_inner().0.linger(LingerLimits::CALLER).await,
    }
}

/// Ends a connection while a response may be in progress. In HTTP/1.0 the connection is reset,
/// because the caller would read any other close as the end of the response.
fn abort(stream: TlsStream<CallerSocket>, is_http_10: bool) {
    if is_http_10 {
        stream.into_inner().0.reset();
    }
}

/// Returns whether the request's `Connection` field contains `close` and no other option.
fn asks_to_close(request: &Request<Incoming>) -> bool {
    let mut options = request.headers().get_all(CONNECTION).iter();
    matches!((options.next(), options.next()), (Some(only), None)
        if only.as_bytes().eq_ignore_ascii_case(b"close"))
}

/// Serves requests until the connection is idle or ends.
async fn serve_active(
    connection: &Arc<Connection>,
    activity: &Arc<Activity>,
    limits: &Limits,
    io: Io,
    lifetime: &mut Lifetime,
) -> Stopped {
    let service = service_fn(|request: Request<Incoming>| {
        let position = activity.begun.fetch_add(1, Ordering::Relaxed);
        let framing_error = activity.framing.error_of(position);
        let connection = Arc::clone(connection);
        let running = RunningRequest::begin(activity, request.version());
        if asks_to_close(&request) {
            activity.framing.set_closing();
        }
        // Boxed, so that a connection without a request needs no space for this future.
        box_in_place(|| async move {
            let mut response = handler::handle(connection, request, framing_error).await;
            running.0.framing.begin_response();
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                running.0.framing.set_switching();
                *running.0.tunnel() = tunnel::take(&mut response);
            }
            Ok::<_, io::Error>(response.map(|body| RunningBody {
                body,
                _running: running,
            }))
        })
    });
    let mut builder = http1::Builder::new();
    builder
        // hyper's own timeout is not needed, because the framing guard enforces the header timeout,
        // and hyper does not serve idle connections.
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes.max(64 * 1024) + 1024);
    // hyper parses heads faster if its default is not set explicitly.
    if limits.header_fields != MAX_FIELDS {
        builder.max_headers(limits.header_fields);
    }
    let mut http = builder.serve_connection(TokioIo::new(io), service);
    let mut idle = pin!(activity.idle(connection));
    let mut idle = PollOnWake::new(idle.as_mut());
    let mut draining = false;
    let ended = loop {
        let ending = tokio::select! {
            ended = poll_fn(|context| loop {
                let polled = http.poll_without_shutdown(context);
                // If hyper does not need the unread part of a request, hyper ends without a flush.
                // The result is then replaced by `Pending`, so that the connection is polled until
                // all bytes are written.
                if matches!(polled, Poll::Ready(Ok(()))) && activity.framing.has_pending_write() {
                    break Poll::Pending;
                }
                // hyper has not finished, so the bytes that `FramingIo` holds are not the end of
                // the response. `release_held` makes the next poll write them.
                if polled.is_ready() || !activity.framing.release_held() {
                    break polled;
                }
            }) => break Some(ended),
            ending = lifetime.ending(connection) => ending,
            () = &mut idle, if !draining => break None,
        };
        match ending {
            Ending::Drain => {
                draining = true;
                Pin::new(&mut http).graceful_shutdown();
            }
            Ending::Cut(denial) => {
                // The connection ends while a response may be in progress. That response then has
                // no last chunk.
                connection.cut(denial);
                let (stream, _) = http.into_parts().io.into_inner().into_parts();
                abort(stream, activity.is_http_10.load(Ordering::Relaxed));
                return Stopped::Cut;
            }
        }
    };
    let parts = http.into_parts();
    let io = parts.io.into_inner();
    let early = !io.is_between_requests() || !parts.read_buf.is_empty();
    match ended {
        Some(ended) => Stopped::Ended { ended, io, early },
        // Should not happen, because no bytes were read on an idle connection. If bytes were read,
        // they cannot be given back to hyper, so the connection must end.
        None if early => Stopped::Ended {
            ended: Ok(()),
            io,
            early,
        },
        None => Stopped::Idle(io),
    }
}
