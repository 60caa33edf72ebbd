//! The streams of one h2 connection, and those whose caller does not take its
//! answer.
//!
//! A caller that gives no window holds its stream and a service's connection. hyper
//! does not ask for more of an answer while there is no window, so that nothing
//! within the stream would ever notice; it is noticed from outside.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use hyper::rt::Executor;
use tokio::sync::Notify;

use super::listener::note_panic;
use crate::telemetry::metrics::Metrics;

tokio::task_local! {
    static STREAM: Arc<Stream>;
}

/// Runs the streams of one connection.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    all: Arc<Mutex<Vec<Weak<Stream>>>>,
    metrics: Arc<Metrics>,
}

/// hyper spawns the tasks of streams, and nobody looks how they end.
struct NotesPanic(Arc<Metrics>);

impl Drop for NotesPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            note_panic(&self.0);
        }
    }
}

/// One of them.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Until when the caller has to take what there is for it.
    owed_until: Mutex<Option<Instant>>,
    given_up: AtomicBool,
    end: Notify,
}

impl Stream {
    /// The stream that the present task serves; none in HTTP/1.1.
    pub(super) fn current() -> Option<Arc<Self>> {
        STREAM.try_with(Arc::clone).ok()
    }

    /// Something is there for the caller to take, within that time.
    pub(super) fn owes(&self, longest: Duration) {
        *self.owed() = Instant::now().checked_add(longest);
    }

    /// The caller has taken it.
    pub(super) fn taken(&self) {
        *self.owed() = None;
    }

    /// Whether the stream is ended because its caller takes nothing.
    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    fn owed(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.owed_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, work: F) {
        let stream = Arc::new(Stream::default());
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
            tokio::select! {
                _ = work => {}
                () = ended.end.notified() => {}
            }
        }));
    }
}

impl Streams {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            all: Arc::default(),
            metrics,
        }
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Stream>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends streams whose caller has taken nothing for too long, for ever. `usual` is
    /// how long that is for most.
    pub(super) async fn watch(&self, usual: Duration) {
        loop {
            tokio::time::sleep(usual / 4).await;
            self.give_up();
        }
    }

    fn give_up(&self) {
        let now = Instant::now();
        let mut all = self.all();
        all.retain(|stream| stream.strong_count() > 0);
        for stream in all.iter().filter_map(Weak::upgrade) {
            let stalled = stream.owed().is_some_and(|until| until <= now);
            if stalled {
                stream.given_up.store(true, Ordering::Relaxed);
                stream.end.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_stream_is_counted() {
        let metrics = Arc::new(Metrics::new());
        let streams = Streams::new(Arc::clone(&metrics));
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
