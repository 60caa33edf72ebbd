//! The streams of one h2 connection, and those whose caller does not take its
//! answer.
//!
//! A caller that gives no window holds its stream, what h2 keeps for it, and a
//! service's connection. Nothing within the stream would ever notice; it is noticed
//! from outside.

use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use hyper::rt::Executor;

use super::h2_delivery::{H2Stream, STREAM};
use crate::proxy::connection::worker::record_panic;
use crate::proxy::wire::h2_monitor::H2Stats;
use crate::proxy::wire::h2_stall::Sample;
use crate::telemetry::metrics::Metrics;

/// Runs the streams of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    all: Arc<Mutex<Vec<Weak<H2Stream>>>>,
    metrics: Arc<Metrics>,
    seen: Arc<H2Stats>,
    /// How long a caller may leave an answer untaken, for most.
    usual: Duration,
}

/// hyper spawns the tasks of streams, and nobody looks how they end.
struct NotesPanic(Arc<Metrics>);

impl Drop for NotesPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            record_panic(&self.0);
        }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, work: F) {
        let stream = Arc::new(H2Stream::new(Arc::clone(&self.seen), self.usual));
        {
            let mut all = self.all();
            if all.len() == all.capacity() {
                all.retain(|stream| stream.strong_count() > 0);
            }
            all.push(Arc::downgrade(&stream));
        }
        let ended = Arc::clone(&stream);
        let notes_panic = NotesPanic(Arc::clone(&self.metrics));
        tokio::spawn(STREAM.scope(stream, async move {
            let _notes_panic = notes_panic;
            // Its work is what says when its answer has to be over.
            tokio::select! {
                biased;
                _ = work => ended.served(),
                () = ended.end.notified() => {}
                () = poll_fn(|context| ended.poll_deadline(context)) => {}
            }
        }));
    }
}

impl Streams {
    /// `usual` is how long a caller may leave an answer untaken, for most.
    pub(crate) fn new(metrics: Arc<Metrics>, seen: Arc<H2Stats>, usual: Duration) -> Self {
        Self {
            all: Arc::default(),
            metrics,
            seen,
            usual,
        }
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Weak<H2Stream>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends streams whose caller has taken nothing for too long. Resolves when there is
    /// one that only the end of the connection can end.
    pub(crate) async fn watch(&self) {
        let mut was_held_up = false;
        loop {
            tokio::time::sleep(self.usual / 4).await;
            if self.give_up(&mut was_held_up) {
                return;
            }
        }
    }

    fn give_up(&self, was_held_up: &mut bool) -> bool {
        let mut all = self.all();
        all.retain(|stream| stream.strong_count() > 0);
        let streams: Vec<_> = all.iter().filter_map(Weak::upgrade).collect();
        // What becomes of the last one is not to happen under the lock.
        drop(all);
        let count = u64::try_from(streams.len()).unwrap_or(u64::MAX);
        let is_held_up = self.seen.is_held_up(count);
        let look = Sample {
            now: Instant::now(),
            sent: self.seen.sent(),
            // The connection may be let go on at this moment, before its streams have
            // their turn.
            is_held_up: std::mem::replace(was_held_up, is_held_up) || is_held_up,
            streams: count,
        };
        streams
            .iter()
            .fold(false, |hopeless, stream| stream.give_up(&look) | hopeless)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_stream_is_counted() {
        let metrics = Arc::new(Metrics::new());
        let streams = Streams::new(
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
        // The task's end comes in the same poll.
        assert!(panics(1));
    }
}
