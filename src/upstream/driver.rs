//! `Driver`: what moves an HTTP/1.1 connection's octets.
//!
//! A connection at work is driven by whoever waits for its answer, in that task:
//! no second task has to be woken for each request, and what the service sends
//! wakes the caller's task at once. A connection that has to move by itself (the
//! caller is still sending while the answer comes back, or the protocol was
//! switched) is given a task of its own.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;

use super::connect::Kept;
use super::interim::flood;

/// Most octets that are read before the head of an answer is complete: its own, and
/// interim answers, which a service could send without end (RFC 9110 section 15.2).
const BEFORE_ANSWER: usize = 256 * 1024;
/// No answer is awaited.
const UNBOUNDED: usize = usize::MAX;

/// What a connection and whoever drives it know of each other.
#[derive(Debug, Clone)]
pub(super) struct Progress(Arc<State>);

#[derive(Debug)]
struct State {
    /// There are octets to send that nobody has taken yet.
    unflushed: AtomicBool,
    /// What may still be read before there is an answer.
    readable: AtomicUsize,
}

impl Progress {
    fn is_unflushed(&self) -> bool {
        self.0.unflushed.load(Ordering::Relaxed)
    }
}

/// A connection that keeps account of that, and its slot for as long as it lasts:
/// when protocols are switched, that is longer than it speaks HTTP.
pub(super) struct Watched<S> {
    inner: S,
    progress: Progress,
    _kept: Kept,
}

impl<S> Watched<S> {
    pub(super) fn new(inner: S, kept: Kept) -> (Self, Progress) {
        let progress = Progress(Arc::new(State {
            unflushed: AtomicBool::new(false),
            readable: AtomicUsize::new(UNBOUNDED),
        }));
        let watched = Self {
            inner,
            progress: progress.clone(),
            _kept: kept,
        };
        (watched, progress)
    }

    fn begins(&self) {
        self.progress.0.unflushed.store(true, Ordering::Relaxed);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.begins();
        Pin::new(&mut self.inner).poll_write(context, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.begins();
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when it has written all it had.
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
pub(super) enum Driver {
    /// Whoever uses the connection polls this.
    Here(Pin<Box<dyn Future<Output = ()> + Send>>, Progress),
    /// A task does.
    Task(AbortHandle, Progress),
    /// The connection is closed.
    Ended,
}

impl Driver {
    pub(super) fn new(
        connection: impl Future<Output = ()> + Send + 'static,
        progress: Progress,
    ) -> Self {
        Self::Here(Box::pin(connection), progress)
    }

    /// A request is sent. What comes before its answer is bounded.
    pub(super) fn awaits_answer(&self) {
        self.may_read(BEFORE_ANSWER);
    }

    /// Its answer is there. What follows is read as fast as it is wanted.
    pub(super) fn has_answer(&self) {
        self.may_read(UNBOUNDED);
    }

    fn may_read(&self, octets: usize) {
        if let Self::Here(_, progress) | Self::Task(_, progress) = self {
            progress.0.readable.store(octets, Ordering::Relaxed);
        }
    }

    /// Moves what can be moved; the task is woken when there is more.
    pub(super) fn drive(&mut self, context: &mut Context<'_>) {
        if let Self::Here(connection, _) = self
            && connection.as_mut().poll(context).is_ready()
        {
            // Where protocols were switched its octets are a tunnel's from here on.
            self.has_answer();
            *self = Self::Ended;
        }
    }

    /// Looks whether the other side has closed a connection that nobody uses.
    pub(super) fn look(&mut self) {
        self.drive(&mut Context::from_waker(Waker::noop()));
    }

    pub(super) const fn has_ended(&self) -> bool {
        matches!(self, Self::Ended)
    }

    /// Whether a task drives it, which may not have come to it yet.
    pub(super) const fn has_task(&self) -> bool {
        matches!(self, Self::Task(..))
    }

    /// Lets the connection move by itself from now on.
    pub(super) fn detach(&mut self) {
        *self = match std::mem::replace(self, Self::Ended) {
            Self::Here(connection, progress) => {
                Self::Task(tokio::spawn(connection).abort_handle(), progress)
            }
            other => other,
        };
    }

    /// Nobody waits for the connection any longer: what it still has to send, because
    /// the service answered before it had read everything, is sent nevertheless.
    pub(super) fn rest(&mut self) {
        if matches!(self, Self::Here(_, progress) if progress.is_unflushed()) {
            self.detach();
        }
    }

    /// Ends the connection at once, whatever is still being sent on it.
    pub(super) fn close(self) {
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
