//! `ConnectionState`: the state of a connection, derived from its frames and the sent requests.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use h2::{Reason, RecvStream};
use tokio::sync::Notify;

use crate::h2_frames::merged_data::MergedData;
use crate::h2_frames::{ACK, DATA, END_STREAM, Frame, FrameScanner, GOAWAY, SETTINGS};
use crate::upstream::connection::error::ServiceError;
use crate::upstream::connection::interim::{Heads, flood};
use crate::upstream::connection::read_tap::ReadTap;

/// The value in [`Said`] if the service has not announced the setting or code.
const UNSAID: u32 = u32::MAX;

/// If this many small DATA frames were sent on a connection, no other caller may use it. The HTTP
/// libraries of services count small frames that the service has not read. They end a connection
/// with about a thousand such frames.
const MAX_SMALL_FRAMES: usize = 256;

/// A request head with more bytes than this counts as long, because most services refuse longer
/// heads by default.
const LONG_HEAD: usize = 8 * 1024;

/// Limits on empty DATA frames of a service. Each empty DATA frame that does not end its stream
/// costs one credit. A connection starts with `FIRST_EMPTY` credits, every other frame adds
/// `EMPTY_EACH`, and the maximum is `MAX_EMPTY`.
const FIRST_EMPTY: u32 = 1_000;
const EMPTY_EACH: u32 = 8;
const MAX_EMPTY: u32 = 10_000;

/// The receiving half of an abandoned stream. When it is dropped, h2 resets the stream.
pub(super) type Abandoned = Box<dyn Send>;

/// Counts one open stream of a connection until this value is dropped.
pub(super) struct OpenStream(Arc<ConnectionState>);

impl OpenStream {
    pub(super) fn begin(state: &Arc<ConnectionState>) -> Self {
        state.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(state))
    }

    pub(super) fn state(&self) -> &ConnectionState {
        &self.0
    }

    /// Abandons the stream. The driving task resets the stream as soon as the limit on resets
    /// allows that.
    pub(super) fn abandon(self, half: Abandoned) {
        let state = Arc::clone(&self.0);
        state.resets.fetch_add(1, Ordering::Relaxed);
        let mut task = state.task();
        // `has_ended` is read under the lock of `task`. After the connection has ended, no task
        // empties the queue, so the stream must not be added to it.
        if state.has_ended.load(Ordering::Acquire) {
            drop(task);
            drop((half, self));
            return;
        }
        task.abandoned.push_back((half, self));
        drop(task);
        state.wake();
    }

    /// Keeps the stream until the frame that ends the stream has arrived. All content of the stream
    /// was already read.
    pub(super) fn let_end(self, stream: RecvStream) {
        let state = Arc::clone(&self.0);
        let mut task = state.task();
        if state.has_ended.load(Ordering::Acquire) {
            drop(task);
            drop((stream, self));
            return;
        }
        task.ending.push((stream, self));
        drop(task);
        state.wake();
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The state of a connection. Its streams, the task that drives it, and the pool share the state.
#[derive(Default)]
pub(in crate::upstream) struct ConnectionState {
    has_ended: AtomicBool,
    /// The error code of the GOAWAY frame that the service has sent, if it has sent one.
    goaway: Said,
    /// Maximum size in bytes of a request head that the service accepts, if it has announced one.
    head_limit: Said,
    /// Number of reads from the connection. If the number is the same at two successive checks by
    /// the driving task, the service has sent nothing between them.
    pub(super) reads: AtomicU64,
    /// Number of small DATA frames that were sent.
    small_frames: AtomicUsize,
    /// Length in bytes of the longest head that was sent.
    max_head: AtomicUsize,
    /// Number of streams that were ended before their response was complete.
    resets: AtomicUsize,
    /// Number of streams that have started and have not ended ([`OpenStream`]).
    open: AtomicUsize,
    /// Whether a response has ended while its request's body was still being sent. In this case,
    /// the rest of the body that h2 has not sent keeps using a part of the connection's window.
    has_unfinished_upload: AtomicBool,
    /// Whether all clones of the [`Client`](super::Client) were dropped. If so, no further stream
    /// will be opened.
    has_no_clients: AtomicBool,
    /// Whether the service did not respond to a PING.
    is_silent: AtomicBool,
    /// Whether the service has sent its settings.
    has_settings: AtomicBool,
    /// Notified when the service's settings arrive, and when the connection ends.
    begun: Notify,
    task: Mutex<Task>,
}

/// Work that the streams pass to the task that drives the connection.
#[derive(Default)]
pub(super) struct Task {
    pub(super) waker: Option<Waker>,
    /// Abandoned streams, which are reset as soon as the limit on resets allows it.
    pub(super) abandoned: VecDeque<(Abandoned, OpenStream)>,
    /// Streams whose content has arrived, and for which only the frame that ends them is missing.
    ending: Vec<(RecvStream, OpenStream)>,
    /// The error with which the connection has ended.
    error: Option<h2::Error>,
    on_error: Option<OnError>,
}

/// A callback for the error with which a service has ended a connection. Its second parameter is
/// the likely cause.
pub(in crate::upstream) type OnError = Box<dyn FnOnce(Reason, Option<&'static str>) + Send>;

/// The value of a setting or code that the service may announce.
struct Said(AtomicU32);

impl Default for Said {
    fn default() -> Self {
        Self(AtomicU32::new(UNSAID))
    }
}

impl Said {
    fn set(&self, value: u32) {
        self.0.store(value.min(UNSAID - 1), Ordering::Relaxed);
    }

    fn get(&self) -> Option<u32> {
        Some(self.0.load(Ordering::Relaxed)).filter(|value| *value != UNSAID)
    }
}

impl ConnectionState {
    pub(super) fn task(&self) -> MutexGuard<'_, Task> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the task that drives the connection.
    pub(super) fn wake(&self) {
        let waker = self.task().waker.clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Records that the connection has ended.
    pub(super) fn end(&self, error: Option<h2::Error>) {
        let mut task = self.task();
        self.has_ended.store(true, Ordering::Release);
        task.error = error;
        // The queued streams are dropped, because no resets can be sent any more.
        let abandoned = (
            std::mem::take(&mut task.abandoned),
            std::mem::take(&mut task.ending),
        );
        let on_error = task.on_error.take();
        drop(task);
        drop(abandoned);
        self.begun.notify_waiters();
        if let (Some(tell), Some((code, cause))) = (on_error, self.ended_with()) {
            tell(code, cause);
        }
    }

    /// Sets the callback that is called if the service ends the connection with an error.
    pub(in crate::upstream) fn set_on_error(&self, on_error: OnError) {
        self.task().on_error = Some(on_error);
    }

    /// Releases the streams whose last frame has arrived.
    pub(super) fn release_ended(&self) {
        let ended: Vec<_> = {
            let mut task = self.task();
            (task.ending)
                .extract_if(.., |(stream, _)| has_ended(stream))
                .collect()
        };
        // `ended` is dropped after the lock of `task` was released, because h2 takes its own lock
        // when a stream is dropped.
        drop(ended);
    }

    /// Abandons the streams in `ending`, because their last frame has not arrived.
    pub(super) fn abandon_ending(&self) {
        let late = std::mem::take(&mut self.task().ending);
        for (stream, open) in late {
            open.abandon(Box::new(stream));
        }
    }

    /// Waits for the service's SETTINGS frame, which must come first (RFC 9113 section 3.4). The
    /// frame proves that the service speaks HTTP/2, and contains the service's limits.
    pub(super) async fn settings(&self) -> Result<(), ServiceError> {
        loop {
            let mut begun = pin!(self.begun.notified());
            begun.as_mut().enable();
            if self.has_settings.load(Ordering::Acquire) {
                return Ok(());
            }
            if self.has_ended.load(Ordering::Acquire) {
                let error = self.task().error.take();
                return Err(error.map_or(ServiceError::Closed, ServiceError::H2));
            }
            begun.await;
        }
    }

    pub(super) fn note_silence(&self) {
        self.is_silent.store(true, Ordering::Release);
    }

    pub(super) fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Acquire)
    }

    /// Whether no further stream can be opened.
    pub(in crate::upstream) fn is_closed(&self) -> bool {
        self.has_ended.load(Ordering::Acquire) || self.goaway.get().is_some()
    }

    /// Whether another caller may use the connection: it has no open stream, and nothing was sent
    /// on it that could make the service end the connection.
    pub(in crate::upstream) fn is_unspent(&self) -> bool {
        self.resets.load(Ordering::Relaxed) == 0
            && !self.is_busy()
            && !self.has_unfinished_upload.load(Ordering::Relaxed)
            && self.small_frames.load(Ordering::Relaxed) < MAX_SMALL_FRAMES
            && self.max_head.load(Ordering::Relaxed) <= LONG_HEAD
    }

    /// Returns how many streams were reset before their response was complete.
    pub(in crate::upstream) fn resets(&self) -> usize {
        self.resets.load(Ordering::Relaxed)
    }

    /// Returns the error with which the service has ended the connection, and the likely cause of
    /// this error. Returns `None` if there was no error.
    pub(in crate::upstream) fn ended_with(&self) -> Option<(Reason, Option<&'static str>)> {
        let code = self.goaway.get()?;
        let reason = Reason::from(code);
        (reason != Reason::NO_ERROR).then(|| (reason, self.likely_cause()))
    }

    /// Returns what was unusual about the requests on the connection. Returns `None` if nothing was
    /// unusual.
    fn likely_cause(&self) -> Option<&'static str> {
        if self.resets() >= MANY_RESETS {
            Some("its caller broke many requests off")
        } else if self.small_frames.load(Ordering::Relaxed) >= MAX_SMALL_FRAMES {
            Some("its caller sent a body in very small pieces")
        } else if self.max_head.load(Ordering::Relaxed) > LONG_HEAD {
            Some("its caller sent a very long head")
        } else {
            None
        }
    }

    pub(super) fn note_unfinished_upload(&self) {
        self.has_unfinished_upload.store(true, Ordering::Relaxed);
    }

    /// Records that the last clone of the client was dropped. No further stream will be opened.
    pub(super) fn note_no_clients(&self) {
        self.has_no_clients.store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn has_no_clients(&self) -> bool {
        self.has_no_clients.load(Ordering::Acquire)
    }

    pub(super) fn note_small_frame(&self) {
        self.small_frames.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the maximum size of a head in bytes, if the service has announced one.
    pub(super) fn head_limit(&self) -> Option<u32> {
        self.head_limit.get()
    }

    pub(super) fn note_head(&self, size: usize) {
        self.max_head.fetch_max(size, Ordering::Relaxed);
    }

    /// Whether any stream is still open.
    pub(super) fn is_busy(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    fn observe(&self, frame: &Frame) {
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => {
                if let Some(limit) = frame.settings.max_header_list_size {
                    self.head_limit.set(limit);
                }
                if !self.has_settings.swap(true, Ordering::AcqRel) {
                    self.begun.notify_waiters();
                }
            }
            GOAWAY => self.goaway.set(frame.code),
            _ => {}
        }
    }
}

/// Whether the service has ended the stream with its last frame or a reset. All content of the
/// stream must have been read before the call.
fn has_ended(stream: &mut RecvStream) -> bool {
    // No waker is needed, because the calling task drives the connection and is woken by new data.
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match stream.poll_data(&mut context) {
            // The frame that ends the stream may follow an empty DATA frame.
            Poll::Ready(Some(Ok(data))) if data.is_empty() => {}
            Poll::Ready(None) => return true,
            // An error means that the stream was reset, so it has ended. Non-empty data cannot
            // arrive here, because h2 refuses more content than the announced length.
            Poll::Ready(Some(_)) | Poll::Pending => return stream.is_end_stream(),
        }
    }
}

/// If at least this number of streams was reset, these resets are named as the likely cause of an
/// error.
const MANY_RESETS: usize = 8;

/// Wraps a connection so that its frames are inspected before h2 reads them. Reading fails if the
/// service sends too many interim responses or empty DATA frames.
#[expect(
    clippy::type_complexity,
    reason = "the observer is a closure, which has no name"
)]
pub(super) fn observed<S>(
    connection: S,
    state: Arc<ConnectionState>,
) -> MergedData<ReadTap<S, impl FnMut(&[u8]) -> io::Result<()> + Send + Unpin + 'static>> {
    let mut scanner = FrameScanner::new(0);
    let mut heads = Heads::new();
    let mut empty = FIRST_EMPTY;
    let observed = ReadTap::new(connection, move |bytes| {
        state.reads.fetch_add(1, Ordering::Relaxed);
        let mut is_flood = false;
        scanner.advance(bytes, |frame| {
            state.observe(&frame);
            is_flood |= !heads.pass(&frame);
            if frame.kind == DATA && frame.length == 0 && frame.flags & END_STREAM == 0 {
                empty = empty.saturating_sub(1);
                is_flood |= empty == 0;
            } else {
                empty = empty.saturating_add(EMPTY_EACH).min(MAX_EMPTY);
            }
        });
        match is_flood {
            true => Err(flood()),
            false => Ok(()),
        }
    });
    MergedData::new(observed, 0)
}
