//! `H2Streams`: runs the streams of one HTTP/2 connection. `H2Streams` ends a stream if the caller
//! does not take the stream's response.
//!
//! If a caller keeps its flow-control window closed, the stream, h2's buffers for the stream, and a
//! connection to the service stay in use. hyper does not poll such a stream. The connection's task
//! therefore checks all streams regularly.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use hyper::rt::Executor;

use super::h2_delivery::{CURRENT, H2Stream};
use crate::connection::unread_body::{DropUnread, discard_unread, drain_unread, with_unread_body};
use crate::connection::worker::record_panic;
use crate::telemetry::metrics::Metrics;
use crate::wire::h2_monitor::H2Stats;
use crate::wire::h2_stall::Sample;

/// The executor that hyper uses to run the streams of one connection.
#[derive(Debug, Clone)]
pub(crate) struct H2Streams {
    all: Arc<Mutex<Vec<Weak<H2Stream>>>>,
    metrics: Arc<Metrics>,
    stats: Arc<H2Stats>,
    /// Timeout that ends a stream if the caller takes no part of a waiting buffer. If the response
    /// comes from an upstream, the upstream's timeout is used instead.
    stall_timeout: Duration,
}

/// When dropped during a panic of a stream's task, counts the panic. hyper does not join the tasks
/// that it spawns, so nothing else would report the panic.
struct RecordPanic(Arc<Metrics>);

impl Drop for RecordPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            record_panic(&self.0);
        }
    }
}

impl<F> Executor<F> for H2Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        let stream = Arc::new(H2Stream::new(Arc::clone(&self.stats), self.stall_timeout));
        {
            let mut all = self.all();
            if all.len() == all.capacity() {
                all.retain(|stream| stream.strong_count() > 0);
            }
            all.push(Arc::downgrade(&stream));
        }
        let current = Arc::clone(&stream);
        let record_panic = RecordPanic(Arc::clone(&self.metrics));
        let task = async move {
            let _record_panic = record_panic;
            // Declared before `future`, and therefore dropped after it. When `future` is dropped, a
            // part of the request body may still be unread. `DropUnread` drops this part.
            let _drop_unread = DropUnread;
            // `future` is pinned here, so that it lives until the end of the task. h2 resets the
            // stream when `future` is dropped.
            let mut future = pin!(future);
            tokio::select! {
                // The branches are polled in this order, because `future` sets the deadline and the
                // unread body that later branches poll.
                biased;
                _ = &mut future => {
                    current.set_task_over();
                    drain_unread().await;
                }
                () = current.end.notified() => {}
                () = poll_fn(|context| current.poll_deadline(context)) => {}
                () = discard_unread() => {}
            }
        };
        tokio::spawn(CURRENT.scope(stream, with_unread_body(task)));
    }
}

impl H2Streams {
    pub(crate) fn new(metrics: Arc<Metrics>, stats: Arc<H2Stats>, stall_timeout: Duration) -> Self {
        Self {
            all: Arc::default(),
            metrics,
            stats,
            stall_timeout,
        }
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Weak<H2Stream>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks all streams regularly, and ends each stream of which the caller has taken no data for
    /// too long. Returns only if a stream cannot be reset any more, so that the gateway must close
    /// the connection.
    pub(crate) async fn end_stalled(&self) {
        let mut was_blocked = false;
        loop {
            tokio::time::sleep(self.stall_timeout / 4).await;
            if self.check_stalls(&mut was_blocked) {
                return;
            }
        }
    }

    fn check_stalls(&self, was_blocked: &mut bool) -> bool {
        let mut all = self.all();
        all.retain(|stream| stream.strong_count() > 0);
        let streams: Vec<_> = all.iter().filter_map(Weak::upgrade).collect();
        // The lock on `all` is released before the clones in `streams` are dropped. The last clone
        // of a stream must not be dropped under this lock.
        drop(all);
        let count = u64::try_from(streams.len()).unwrap_or(u64::MAX);
        let is_blocked = self.stats.is_blocked(count);
        let sample = Sample {
            now: Instant::now(),
            sent: self.stats.sent(),
            // If the connection was blocked at the last check, its streams may not have had the
            // chance to send since then.
            is_blocked: std::mem::replace(was_blocked, is_blocked) || is_blocked,
            streams: count,
        };
        // `any` would stop at the first `true`, but every stream must be checked.
        streams.iter().fold(false, |only_connection, stream| {
            stream.check_stall(&sample) | only_connection
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_stream_is_counted() {
        let metrics = Arc::new(Metrics::new());
        let streams = H2Streams::new(
            Arc::clone(&metrics),
            Arc::default(),
            Duration::from_secs(60),
        );
        let panics = |count: usize| {
            let line = format!("countersign_panics_total {count}");
            metrics.encode().lines().any(|found| found == line)
        };
        let (done, ended) = tokio::sync::oneshot::channel::<()>();
        streams.execute(async move { drop(done) });
        assert!(ended.await.is_err() && panics(0));
        let (done, ended) = tokio::sync::oneshot::channel::<()>();
        streams.execute(async move {
            let _done = done;
            std::panic::panic_any("a fault");
        });
        assert!(ended.await.is_err());
        // The task drops `done` and `RecordPanic` in the same poll, so the panic is already
        // counted.
        assert!(panics(1));
    }
}
