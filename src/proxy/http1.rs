//! HTTP/1.1 on one caller's connection, by hyper over the framing guard.
//!
//! hyper keeps buffers of 16 KiB for a connection for as long as it serves it. A
//! connection on which nothing has happened for a moment is taken out of its hands
//! and waits without them; with the next octet it is served again.

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

/// Nothing has begun on a connection for at least this long when it is laid to rest,
/// and for less than twice as long.
const REST: Duration = Duration::from_millis(50);

/// Where looks at resting connections fall: on common moments, because a timer that is
/// the earliest of all costs a system call.
static LOOKS: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The first common moment at least [`REST`] from now.
fn next_look() -> Instant {
    let now = Instant::now();
    let into = now.duration_since(*LOOKS).as_nanos() % REST.as_nanos();
    now + REST * 2 - Duration::from_nanos(u64::try_from(into).unwrap_or(0))
}

/// Boxed: it is handed around, and a future has room for everything it ever holds.
type Io = Box<FramingIo<TlsStream<CallerSocket>>>;

/// What goes on on a connection, whoever serves it at the moment.
struct Activity {
    guard: Arc<FramingState>,
    /// Requests that have begun; the position of the next one.
    begun: AtomicU64,
    /// Handlers at work.
    running: AtomicUsize,
    /// The last request came in HTTP/1.0: its answer may end with the connection, and
    /// only how that ends tells whether it is whole (RFC 9112 section 9.8).
    is_old: AtomicBool,
    /// A tunnel to begin once its 101 was sent.
    tunnel: Mutex<Option<Box<Tunnel>>>,
}

/// A handler at work, until it is dropped.
struct Running(Arc<Activity>);

impl Running {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.running.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Activity {
    fn tunnel(&self) -> MutexGuard<'_, Option<Box<Tunnel>>> {
        self.tunnel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when nothing has begun for a while and nothing is under way.
    async fn rests(&self, connection: &Connection) {
        loop {
            let begun = self.begun.load(Ordering::Relaxed);
            tokio::time::sleep_until(next_look()).await;
            if begun == self.begun.load(Ordering::Relaxed)
                && self.running.load(Ordering::Relaxed) == 0
                && connection.in_flight().is_empty()
                && self.guard.is_resting()
            {
                return;
            }
        }
    }
}

/// How serving stopped.
enum Stopped {
    /// For good; the octets that were read and belong to no request.
    Ended(Result<(), hyper::Error>, Io, bool),
    /// For lack of anything to do.
    Resting(Io),
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
        guard: Arc::default(),
        begun: AtomicU64::new(0),
        running: AtomicUsize::new(0),
        is_old: AtomicBool::new(false),
        tunnel: Mutex::new(None),
    });
    let io = Box::new(FramingIo::new(
        stream,
        limits.header_bytes,
        limits.header_timeout,
        Arc::clone(&activity.guard),
    ));
    serve_in_turns(connection, limits, io, activity, lifetime)
}

/// Serves requests when there are some, and waits without buffers in between.
async fn serve_in_turns(
    connection: Arc<Connection>,
    limits: Limits,
    mut io: Io,
    activity: Arc<Activity>,
    mut lifetime: Lifetime,
) -> Result<(), hyper::Error> {
    // Since when no request has begun.
    let (mut begun, mut since) = (0, Instant::now());
    let (ended, io, early) = loop {
        // Boxed, so that a connection at rest has no room for it.
        let serving =
            box_in_place(|| serve_busy(&connection, &activity, &limits, io, &mut lifetime));
        match serving.await {
            Stopped::Cut => return Ok(()),
            Stopped::Ended(ended, io, early) => break (ended, io, early),
            Stopped::Resting(resting) => io = resting,
        }
        let _resting = connection.worker().shared().metrics.connection_rests();
        let now_begun = activity.begun.load(Ordering::Relaxed);
        if now_begun != begun {
            (begun, since) = (now_begun, Instant::now());
        }
        // Octets of TLS that make no request do not count.
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
    let (stream, rest) = io.into_parts();
    let tunnel = activity.tunnel().take();
    if let Some(tunnel) = tunnel {
        Box::pin(tunnel::serve(&connection, tunnel, stream, early, lifetime)).await;
        return Ok(());
    }
    let said = Said {
        rest,
        whole: ended.is_ok(),
        is_old: activity.is_old.load(Ordering::Relaxed),
    };
    box_in_place(|| end(stream, said, &connection, lifetime)).await;
    ended
}

/// What a connection has said when it ends.
struct Said {
    /// What of it is still to be written.
    rest: Vec<u8>,
    /// Its last answer did not break off.
    whole: bool,
    /// The caller of that speaks HTTP/1.0.
    is_old: bool,
}

/// Closes a connection; the rest of its last answer leaves with the farewell, in one. An
/// answer that broke off gets none: `close_notify` says that nothing is missing (RFC 8446
/// section 6.1).
async fn end(
    mut stream: TlsStream<CallerSocket>,
    said: Said,
    connection: &Connection,
    mut lifetime: Lifetime,
) {
    let mut whole = said.whole;
    if !said.rest.is_empty() || stream.get_ref().1.wants_write() {
        if whole {
            stream.get_ref().0.gather();
        }
        // Encrypted here, and sent with what `shutdown` adds to it.
        let count = stream.get_mut().1.writer().write(&said.rest).unwrap_or(0);
        let farewell = async {
            let rest = said.rest.get(count..).unwrap_or_default();
            stream.write_all(rest).await?;
            match whole {
                true => stream.shutdown().await,
                false => stream.flush().await,
            }
        };
        // The caller may take its time for an answer, as long as its identity holds.
        let sent = tokio::select! {
            biased;
            sent = farewell => sent,
            denial = lifetime.cut(connection) => {
                connection.cut(denial);
                return break_off(stream, said.is_old);
            }
        };
        whole &= sent.is_ok();
    }
    match whole {
        true => close_gracefully(stream).await,
        false if said.is_old => break_off(stream, true),
        false => stream.into_inner().0.linger(LingerLimits::CALLER).await,
    }
}

/// Ends a connection in the middle of an answer.
fn break_off(stream: TlsStream<CallerSocket>, is_old: bool) {
    if is_old {
        stream.into_inner().0.reset();
    }
}

/// Whether a request asks for its connection to be closed afterwards, and for nothing
/// else to be done with it.
fn is_last(request: &Request<Incoming>) -> bool {
    let mut options = request.headers().get_all(CONNECTION).iter();
    matches!((options.next(), options.next()), (Some(only), None)
        if only.as_bytes().eq_ignore_ascii_case(b"close"))
}

/// Serves requests until there is nothing to do.
async fn serve_busy(
    connection: &Arc<Connection>,
    activity: &Arc<Activity>,
    limits: &Limits,
    io: Io,
    lifetime: &mut Lifetime,
) -> Stopped {
    let service = service_fn(|request: Request<Incoming>| {
        let position = activity.begun.fetch_add(1, Ordering::Relaxed);
        let error = activity.guard.error_of(position);
        let connection = Arc::clone(connection);
        let running = Running::begin(activity);
        if is_last(&request) {
            activity.guard.close();
        }
        let is_old = request.version() == Version::HTTP_10;
        activity.is_old.store(is_old, Ordering::Relaxed);
        // Boxed, so that an idle connection does not hold room for a request.
        box_in_place(|| async move {
            let mut response = handler::handle(connection, request, error).await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                running.0.guard.switch();
                *running.0.tunnel() = tunnel::take(&mut response);
            }
            Ok::<_, io::Error>(response)
        })
    });
    let mut builder = http1::Builder::new();
    builder
        // Unfinished heads are the guard's to answer, idle connections come to rest.
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes.max(64 * 1024) + 1024);
    let mut http = builder.serve_connection(TokioIo::new(io), service);
    let mut rests = pin!(activity.rests(connection));
    let mut rests = PollOnWake::new(rests.as_mut());
    let mut draining = false;
    let ended = loop {
        let ending = tokio::select! {
            ended = poll_fn(|context| loop {
                let turn = http.poll_without_shutdown(context);
                if matches!(turn, Poll::Ready(Ok(()))) && activity.guard.is_stuck() {
                    break Poll::Pending;
                }
                // What is kept was not the answer's end: another poll flushes it.
                if turn.is_ready() || !activity.guard.stop_keeping() {
                    break turn;
                }
            }) => break Some(ended),
            ending = lifetime.ending(connection) => ending,
            () = &mut rests, if !draining => break None,
        };
        match ending {
            Ending::Drain => {
                draining = true;
                Pin::new(&mut http).graceful_shutdown();
            }
            Ending::Cut(denial) => {
                // What is in progress ends here, without a final chunk.
                connection.cut(denial);
                let (stream, _) = http.into_parts().io.into_inner().into_parts();
                break_off(stream, activity.is_old.load(Ordering::Relaxed));
                return Stopped::Cut;
            }
        }
    };
    let parts = http.into_parts();
    let io = parts.io.into_inner();
    let early = !io.is_between_requests() || !parts.read_buf.is_empty();
    match ended {
        Some(ended) => Stopped::Ended(ended, io, early),
        // Cannot be; what hyper has read could not be given back to it.
        None if early => Stopped::Ended(Ok(()), io, early),
        None => Stopped::Resting(io),
    }
}
