//! `Driver`: moves the bytes of an HTTP/1.1 connection.
//!
//! The task that waits for a response also drives the connection. Therefore data from the service
//! wakes this task directly, and no second task must be woken for each request. A separate task
//! drives the connection in two cases: the caller is still sending while the response arrives, or
//! the protocol was switched.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;

use super::interim::flood;
use super::resources::HeldResources;

/// Maximum number of bytes that are read before the head of a response is complete, in addition to
/// the maximum size of the head. These bytes are interim responses. The limit is needed because a
/// service could send interim responses without end (RFC 9110 section 15.2).
const MAX_INTERIM: usize = 192 * 1024;
/// The value of `readable` while the gateway waits for no response: reads are not limited.
const UNBOUNDED: usize = usize::MAX;

/// The state that a connection and its driver share.
#[derive(Debug, Clone)]
pub(in crate::upstream) struct Progress(Arc<State>);

#[derive(Debug)]
struct State {
    /// Whether bytes were written and not yet flushed.
    unflushed: AtomicBool,
    /// Number of bytes that may still be read before the head of the response is complete.
    readable: AtomicUsize,
    /// Maximum number of bytes that are read before the head of a response is complete.
    max_before_response: usize,
}

impl Progress {
    fn is_unflushed(&self) -> bool {
        self.0.unflushed.load(Ordering::Relaxed)
    }
}

/// A connection that records its [`Progress`], and holds its slot and file descriptor until it is
/// dropped. After a protocol switch, the tunnel uses the connection. It then exists longer than
/// hyper's connection object.
pub(in crate::upstream) struct TrackedIo<S> {
    inner: S,
    progress: Progress,
    _resources: HeldResources,
}

impl<S> TrackedIo<S> {
    /// `max_head` is the maximum size of a response's head in bytes.
    pub(in crate::upstream) fn new(
        inner: S,
        max_head: usize,
        resources: HeldResources,
    ) -> (Self, Progress) {
        let progress = Progress(Arc::new(State {
            unflushed: AtomicBool::new(false),
            readable: AtomicUsize::new(UNBOUNDED),
            max_before_response: max_head.saturating_add(MAX_INTERIM),
        }));
        let tracked = Self {
            inner,
            progress: progress.clone(),
            _resources: resources,
        };
        (tracked, progress)
    }

    fn note_write(&self) {
        self.progress.0.unflushed.store(true, Ordering::Relaxed);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TrackedIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let readable = self.progress.0.readable.load(Ordering::Relaxed);
        if readable == 0 {
            return Poll::Ready(Err(flood()));
        }
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        if readable != UNBOUNDED {
            let count = buffer.filled().len().saturating_sub(before);
            let left = readable.saturating_sub(count);
            self.progress.0.readable.store(left, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TrackedIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.note_write();
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.note_write();
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes only after it has written all its data, so no unflushed bytes remain after
        // this flush.
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        if flushed.is_ready() {
            self.progress.0.unflushed.store(false, Ordering::Relaxed);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// Drives one connection. Dropping the driver closes the connection in the state `Here`, but not in
/// the state `Task`.
pub(in crate::upstream) enum Driver {
    /// The task that uses the connection also drives it.
    Here(Pin<Box<dyn Future<Output = ()> + Send>>, Progress),
    /// Another task drives the connection.
    Task(AbortHandle, Progress),
    /// The connection is closed.
    Ended,
}

impl Driver {
    pub(in crate::upstream) fn new(
        connection: impl Future<Output = ()> + Send + 'static,
        progress: Progress,
    ) -> Self {
        Self::Here(Box::pin(connection), progress)
    }

    /// Starts to limit the number of read bytes (`max_before_response`), because a request is
    /// being sent.
    pub(in crate::upstream) fn awaits_response(&self) {
        if let Self::Here(_, progress) | Self::Task(_, progress) = self {
            self.may_read(progress.0.max_before_response);
        }
    }

    /// Ends the limit on read bytes, because the head of the response has arrived.
    pub(in crate::upstream) fn has_response(&self) {
        self.may_read(UNBOUNDED);
    }

    fn may_read(&self, bytes: usize) {
        if let Self::Here(_, progress) | Self::Task(_, progress) = self {
            progress.0.readable.store(bytes, Ordering::Relaxed);
        }
    }

    /// Makes all progress that is possible now. When more progress becomes possible, the task of
    /// `context` is woken.
    pub(in crate::upstream) fn drive(&mut self, context: &mut Context<'_>) {
        if let Self::Here(connection, _) = self
            && connection.as_mut().poll(context).is_ready()
        {
            // The future also completes after a protocol switch. All further bytes then belong to a
            // tunnel, so reads are not limited any more.
            self.has_response();
            *self = Self::Ended;
        }
    }

    /// Polls an idle connection. If the service has closed it, `has_ended` returns true after this
    /// call.
    pub(in crate::upstream) fn notice_end(&mut self) {
        self.drive(&mut Context::from_waker(Waker::noop()));
    }

    pub(in crate::upstream) const fn has_ended(&self) -> bool {
        matches!(self, Self::Ended)
    }

    /// Whether a task drives the connection. The task may not have started yet.
    pub(in crate::upstream) const fn has_task(&self) -> bool {
        matches!(self, Self::Task(..))
    }

    /// Spawns a task. After this call, this task drives the connection.
    pub(in crate::upstream) fn detach(&mut self) {
        *self = match std::mem::replace(self, Self::Ended) {
            Self::Here(connection, progress) => {
                Self::Task(tokio::spawn(connection).abort_handle(), progress)
            }
            other => other,
        };
    }

    /// Called before the connection returns to the pool. If the service has responded before the
    /// whole request was sent, spawns a task that sends the rest of the request.
    pub(in crate::upstream) fn become_idle(&mut self) {
        if matches!(self, Self::Here(_, progress) if progress.is_unflushed()) {
            self.detach();
        }
    }

    /// Ends the connection immediately, even while data is being sent on it.
    pub(in crate::upstream) fn close(self) {
        if let Self::Task(task, _) = self {
            task.abort();
        }
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Here(..) => "Here",
            Self::Task(..) => "Task",
            Self::Ended => "Ended",
        })
    }
}
