//! HTTP/1.1 on one caller's connection, served by hyper over the framing guard.
//!
//! hyper keeps buffers of 16 KiB for each connection that it serves. A connection that
//! has been idle for a moment is therefore taken back from hyper, and waits without
//! buffers; with the next byte, hyper serves it again.

use std::future::poll_fn;
use std::io::{self, Write as _};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use http::header::CONNECTION;
use http::{Request, StatusCode, Version};
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
use super::response::tunnel::{self, Tunnel};
use super::task::box_in_place::box_in_place;
use super::task::poll_on_wake::PollOnWake;
use super::wire::framing_io::{FramingIo, FramingState};
use super::wire::socket::{CallerSocket, LingerLimits};
use super::wire::tls_close::close_gracefully;
use crate::snapshot::Limits;

/// A connection is taken back from hyper when it has been idle for at least this long,
/// and less than twice as long.
const IDLE_AFTER: Duration = Duration::from_millis(50);

/// All connections check for idleness at the same moments, at multiples of [`IDLE_AFTER`]
/// from this one: a timer that expires earlier than all others costs a system call.
static CHECKS_FROM: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The first check that is at least [`IDLE_AFTER`] from now.
fn next_check() -> Instant {
    let now = Instant::now();
    let past = now.duration_since(*CHECKS_FROM).as_nanos() % IDLE_AFTER.as_nanos();
    now + IDLE_AFTER * 2 - Duration::from_nanos(u64::try_from(past).unwrap_or(0))
}

/// Boxed, because it is moved in and out of futures, each of which would reserve its full
/// size.
type Io = Box<FramingIo<TlsStream<CallerSocket>>>;

/// What happens on a connection, from its first request to its end.
struct Activity {
    framing: Arc<FramingState>,
    /// Number of requests that have begun; the position of the next one.
    begun: AtomicU64,
    /// Number of handlers that run.
    running: AtomicUsize,
    /// The last request was HTTP/1.0. Its response may end with the connection, and the
    /// caller knows only by the way it ends whether the response is complete (RFC 9112
    /// section 9.8).
    is_http_10: AtomicBool,
    /// The tunnel that begins once its 101 was sent.
    tunnel: Mutex<Option<Box<Tunnel>>>,
}

/// A handler that runs, until it is dropped.
struct RunningHandler(Arc<Activity>);

impl RunningHandler {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.running.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for RunningHandler {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Activity {
    fn tunnel(&self) -> MutexGuard<'_, Option<Box<Tunnel>>> {
        self.tunnel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when no request has begun for a while and none is in progress.
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

/// How serving stopped.
enum Stopped {
    /// HTTP is over on the connection. `early` says that bytes were read that belong to no
    /// request.
    Ended {
        ended: Result<(), hyper::Error>,
        io: Io,
        early: bool,
    },
    /// The connection is idle.
    Idle(Io),
    /// The identity no longer holds.
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
    let io = Box::new(FramingIo::new(
        stream,
        limits.header_bytes,
        limits.header_timeout,
        Arc::clone(&activity.framing),
    ));
    serve_until_end(connection, limits, io, activity, lifetime)
}

/// Serves requests, and waits without hyper's buffers while there are none.
async fn serve_until_end(
    connection: Arc<Connection>,
    limits: Limits,
    mut io: Io,
    activity: Arc<Activity>,
    mut lifetime: Lifetime,
) -> Result<(), hyper::Error> {
    // The number of requests, and since when it has not changed.
    let (mut begun, mut since) = (0, Instant::now());
    let (ended, io, early) = loop {
        // Boxed, so that an idle connection reserves no space for it.
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
        // Measured from the last request, so that TLS records which contain none do not
        // extend it.
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

/// The last response of a connection when HTTP is over on it.
struct LastResponse {
    /// Bytes that are still to be written.
    unsent: Vec<u8>,
    /// It did not break off.
    is_complete: bool,
    /// Its caller speaks HTTP/1.0.
    is_http_10: bool,
}

/// Closes a connection. The rest of its last response is sent together with
/// `close_notify`. After a response that broke off there is none, because `close_notify`
/// says that nothing is missing (RFC 8446 section 6.1).
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
        // Only encrypted here; `shutdown` sends it together with `close_notify`.
        let count = stream.get_mut().1.writer().write(&unsent).unwrap_or(0);
        let sending = async {
            let rest = unsent.get(count..).unwrap_or_default();
            stream.write_all(rest).await?;
            match is_complete {
                true => stream.shutdown().await,
                false => stream.flush().await,
            }
        };
        // The caller may read as slowly as it likes, as long as its identity holds.
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

/// Ends a connection in the middle of a response. HTTP/1.0 needs a reset: its caller
/// takes any other end of the connection for the end of the response.
fn abort(stream: TlsStream<CallerSocket>, is_http_10: bool) {
    if is_http_10 {
        stream.into_inner().0.reset();
    }
}

/// Whether a request asks for its connection to be closed afterwards, and for no other
/// option.
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
        let running = RunningHandler::begin(activity);
        if asks_to_close(&request) {
            activity.framing.set_closing();
        }
        let is_http_10 = request.version() == Version::HTTP_10;
        activity.is_http_10.store(is_http_10, Ordering::Relaxed);
        // Boxed, so that the connection reserves no space for a request between two of
        // them.
        box_in_place(|| async move {
            let mut response = handler::handle(connection, request, framing_error).await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                running.0.framing.set_switching();
                *running.0.tunnel() = tunnel::take(&mut response);
            }
            Ok::<_, io::Error>(response)
        })
    });
    let mut builder = http1::Builder::new();
    builder
        // The framing guard refuses a head that does not arrive, and idle connections are
        // not served by hyper.
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes.max(64 * 1024) + 1024);
    let mut http = builder.serve_connection(TokioIo::new(io), service);
    let mut idle = pin!(activity.idle(connection));
    let mut idle = PollOnWake::new(idle.as_mut());
    let mut draining = false;
    let ended = loop {
        let ending = tokio::select! {
            ended = poll_fn(|context| loop {
                let polled = http.poll_without_shutdown(context);
                // If the rest of a request is unwanted, hyper ends without having flushed.
                if matches!(polled, Poll::Ready(Ok(()))) && activity.framing.has_pending_write() {
                    break Poll::Pending;
                }
                // The held bytes were not the end of the response: another poll flushes
                // them.
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
                // A response in progress ends here, without a final chunk.
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
        // Unreachable: on an idle connection nothing was read, which could not be given
        // back to hyper.
        None if early => Stopped::Ended {
            ended: Ok(()),
            io,
            early,
        },
        None => Stopped::Idle(io),
    }
}
