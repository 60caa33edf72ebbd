//! `H2Streams`: runs the streams of one HTTP/2 connection, and ends streams whose response
//! the caller does not take.
//!
//! A caller that keeps its window closed occupies the stream, the buffers that h2 keeps
//! for it, and a connection to the service. Such a stream is not polled. Therefore the
//! connection's task checks it.

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

/// The executor for the streams of one connection.
#[derive(Debug, Clone)]
pub(crate) struct H2Streams {
    all: Arc<Mutex<Vec<Weak<H2Stream>>>>,
    metrics: Arc<Metrics>,
    stats: Arc<H2Stats>,
    /// How long a caller may take to receive a buffer, unless the upstream sets another
    /// value.
    stall_timeout: Duration,
}

/// Records a panic of a stream's task: hyper does not join the tasks that it spawns.
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
            // Declared before `future`, and therefore dropped after it. Dropping the future may
            // leave an unread body.
            let _drop_unread = DropUnread;
            // Kept to the end: the stream is reset as soon as it is dropped.
            let mut future = pin!(future);
            tokio::select! {
                // Polled in this order, because the future sets the deadline and the unread
                // body that are polled after it.
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

    /// Ends streams whose caller has taken nothing for too long. Resolves if one of them
    /// can only be ended by closing the connection.
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
        // Released here, because the last clone of a stream may be dropped below, and that
        // must not happen under the lock.
        drop(all);
        let count = u64::try_from(streams.len()).unwrap_or(u64::MAX);
        let is_blocked = self.stats.is_blocked(count);
        let sample = Sample {
            now: Instant::now(),
            sent: self.stats.sent(),
            // If the connection was blocked until a moment ago, its streams could not send
            // yet.
            is_blocked: std::mem::replace(was_blocked, is_blocked) || is_blocked,
            streams: count,
        };
        // Not `any`, because every stream must be checked.
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
        // The end of the task is seen in the same poll.
        assert!(panics(1));
    }
}
