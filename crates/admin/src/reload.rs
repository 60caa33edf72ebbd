//! Requests a reload and reports its outcome.
//!
//! A request gets the outcome of a reload that has started after the request was made. Requests
//! that wait at the same time share one reload. The module `app` does the reload.

use tokio::sync::{mpsc, oneshot};

/// Maximum number of requests that wait at the same time.
const MAX_WAITING: usize = 1024;

/// The outcome of a reload: the new generation, or the reason why the old configuration stays.
pub type ReloadOutcome = Result<u64, String>;

/// The error if the task that reloads the configuration has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the gateway can no longer reload its configuration; restart it")]
pub struct ReloadUnavailable;

/// The sending end of the queue of reload requests.
#[derive(Debug, Clone)]
pub struct ReloadRequests(mpsc::Sender<Option<oneshot::Sender<ReloadOutcome>>>);

/// The receiving end of the queue, for the task that reloads.
#[derive(Debug)]
pub struct ReloadQueue(mpsc::Receiver<Option<oneshot::Sender<ReloadOutcome>>>);

/// The requests that wait for one reload.
#[derive(Debug, Default)]
pub struct ReloadWaiters(Vec<oneshot::Sender<ReloadOutcome>>);

/// Creates both ends of the queue.
#[must_use]
pub fn reload_channel() -> (ReloadRequests, ReloadQueue) {
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    (ReloadRequests(sender), ReloadQueue(receiver))
}

impl ReloadRequests {
    /// Requests a reload without waiting. If the queue is full, this request is dropped, because
    /// the requests in the queue cause a reload anyway.
    pub fn notify(&self) {
        let _ = self.0.try_send(None);
    }

    /// Requests a reload and waits for its outcome.
    ///
    /// # Errors
    /// Returns an error if the task that reloads the configuration has ended.
    pub async fn ask(&self) -> Result<ReloadOutcome, ReloadUnavailable> {
        let (answer, outcome) = oneshot::channel();
        self.0
            .send(Some(answer))
            .await
            .map_err(|_| ReloadUnavailable)?;
        outcome.await.map_err(|_| ReloadUnavailable)
    }
}

impl ReloadQueue {
    /// Waits for a request. Returns this request and all others in the queue.
    pub async fn next(&mut self) -> ReloadWaiters {
        let mut waiters = ReloadWaiters::default();
        match self.0.recv().await {
            Some(first) => waiters.0.extend(first),
            None => std::future::pending().await,
        }
        self.join(&mut waiters);
        waiters
    }

    /// Adds all requests that are in the queue now.
    pub fn join(&mut self, waiters: &mut ReloadWaiters) {
        while let Ok(more) = self.0.try_recv() {
            waiters.0.extend(more);
        }
    }
}

impl ReloadWaiters {
    /// Whether no request waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the waiters of `others`.
    pub fn join(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Sends the outcome to all waiters.
    pub fn answer(self, outcome: &ReloadOutcome) {
        for waiter in self.0 {
            // The send fails if the waiter was dropped, which is no problem.
            let _ = waiter.send(outcome.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn questions_that_wait_together_get_one_answer() {
        let (requests, mut queue) = reload_channel();
        requests.notify();
        let asking: Vec<_> = (0..100)
            .map(|_| {
                let requests = requests.clone();
                tokio::spawn(async move { requests.ask().await })
            })
            .collect();
        while requests.0.capacity() > MAX_WAITING - 101 {
            tokio::task::yield_now().await;
        }
        queue.next().await.answer(&Ok(7));
        for asked in asking {
            assert_eq!(asked.await.unwrap(), Ok(Ok(7)));
        }
        drop(queue);
        assert_eq!(requests.ask().await, Err(ReloadUnavailable));
    }
}
