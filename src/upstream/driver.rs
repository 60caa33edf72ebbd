//! `Driver`: what moves an HTTP/1.1 connection's octets.
//!
//! A connection at work is driven by whoever waits for its answer, in that task:
//! no second task has to be woken for each request, and what the service sends
//! wakes the caller's task at once. A connection that has to move by itself (the
//! caller is still sending while the answer comes back, or the protocol was
//! switched) is given a task of its own.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};

use tokio::task::AbortHandle;

/// Drives one connection. Dropping it ends a connection that has no task.
pub(super) enum Driver {
    /// Whoever uses the connection polls this.
    Here(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// A task does.
    Task(AbortHandle),
    /// The connection is closed.
    Ended,
}

impl Driver {
    pub(super) fn new(connection: impl Future<Output = ()> + Send + 'static) -> Self {
        Self::Here(Box::pin(connection))
    }

    /// Moves what can be moved; the task is woken when there is more.
    pub(super) fn drive(&mut self, context: &mut Context<'_>) {
        if let Self::Here(connection) = self
            && connection.as_mut().poll(context).is_ready()
        {
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
        matches!(self, Self::Task(_))
    }

    /// Lets the connection move by itself from now on.
    pub(super) fn detach(&mut self) {
        *self = match std::mem::replace(self, Self::Ended) {
            Self::Here(connection) => Self::Task(tokio::spawn(connection).abort_handle()),
            other => other,
        };
    }

    /// Ends the connection at once, whatever is still being sent on it.
    pub(super) fn close(self) {
        if let Self::Task(task) = self {
            task.abort();
        }
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Here(_) => "Here",
            Self::Task(_) => "Task",
            Self::Ended => "Ended",
        })
    }
}
