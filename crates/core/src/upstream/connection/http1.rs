//! `Driver`: moves the bytes of an HTTP/1.1 connection.
//!
//! The task that waits for a response also drives the connection: no second task has to be
//! woken for each request, and data from the service wakes the caller's task at once. A
//! connection that has to make progress without such a task (the caller is still sending while
//! the response comes back, or the protocol was switched) gets a separate task.

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

/// Most bytes that are read before the head of a response is complete: the head itself, and
/// interim responses, which a service could send without end (RFC 9110 section 15.2).
const MAX_BEFORE_RESPONSE: usize = 256 * 1024;
/// No response is awaited.
const UNBOUNDED: usize = usize::MAX;

/// The state that a connection and its driver share.
#[derive(Debug, Clone)]
pub(in crate::upstream) struct Progress(Arc<State>);

#[derive(Debug)]
struct State {
    /// Whether bytes were written and not flushed yet.
    unflushed: AtomicBool,
    /// Bytes that may still be read before there is a response.
    readable: AtomicUsize,
}

impl Progress {
    fn is_unflushed(&self) -> bool {
        self.0.unflushed.load(Ordering::Relaxed)
    }
}

/// A connection that records its progress, and holds its slot until it is closed. If protocols
/// are switched, the connection lasts longer than hyper uses it.
pub(in crate::upstream) struct TrackedIo<S> {
    inner: S,
    progress: Progress,
    _resources: HeldResources,
}

impl<S> TrackedIo<S> {
    pub(in crate::upstream) fn new(inner: S, resources: HeldResources) -> (Self, Progress) {
        let progress = Progress(Arc::new(State {
            unflushed: AtomicBool::new(false),
            readable: AtomicUsize::new(UNBOUNDED),
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
        // hyper flushes after it has written everything it had.
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

/// Drives one connection. Dropping it ends a connection that has no task.
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

    /// Notes that a request is sent. From now on, the bytes before its response are limited.
    pub(in crate::upstream) fn awaits_response(&self) {
        self.may_read(MAX_BEFORE_RESPONSE);
    }

    /// Notes that the head of the response has arrived. The rest is read as fast as it is
    /// wanted.
    pub(in crate::upstream) fn has_response(&self) {
        self.may_read(UNBOUNDED);
    }

    fn may_read(&self, bytes: usize) {
        if let Self::Here(_, progress) | Self::Task(_, progress) = self {
            progress.0.readable.store(bytes, Ordering::Relaxed);
        }
    }

    /// Makes all progress that is possible now. The task is woken when more is possible.
    pub(in crate::upstream) fn drive(&mut self, context: &mut Context<'_>) {
        if let Self::Here(connection, _) = self
            && connection.as_mut().poll(context).is_ready()
        {
            // If protocols were switched, the bytes belong to a tunnel from here on.
            self.has_response();
            *self = Self::Ended;
        }
    }

    /// Notices that the other side has closed an idle connection.
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

    /// Lets a task drive the connection from now on.
    pub(in crate::upstream) fn detach(&mut self) {
        *self = match std::mem::replace(self, Self::Ended) {
            Self::Here(connection, progress) => {
                Self::Task(tokio::spawn(connection).abort_handle(), progress)
            }
            other => other,
        };
    }

    /// Prepares the connection for being idle. If the service responded before it had read
    /// everything, the rest is still sent.
    pub(in crate::upstream) fn become_idle(&mut self) {
        if matches!(self, Self::Here(_, progress) if progress.is_unflushed()) {
            self.detach();
        }
    }

    /// Ends the connection at once, even while data is being sent on it.
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
