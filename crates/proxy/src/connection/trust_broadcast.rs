//! `TrustBroadcast`: tells the connections of a worker in batches that trust has changed.
//!
//! If thousands of connections verified their chains at the same time, they would delay all
//! requests. Each connection therefore belongs to one of a fixed number of batches, and the worker
//! does other work between two batches. A request does not wait for the batch of its connection.
//! Each request first checks whether its connection was verified under the newest trust state.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Number of batches of one worker. With 10,000 connections, a batch has 39 connections. Their
/// verification takes less than half a millisecond.
const BATCHES: usize = 256;
/// Pause between two batches. A task that serves a request is polled several times. Without a
/// pause, a batch would run before each of these polls.
const PAUSE: Duration = Duration::from_millis(1);
/// Time since the start of a round of batches, after which the broadcast makes no more pauses.
/// Changes must take effect within a second.
const PAUSES_END: Duration = Duration::from_millis(300);
/// Time since the start of a round of batches, after which the broadcast notifies all remaining
/// batches without a yield to other tasks.
const YIELDS_END: Duration = Duration::from_millis(450);

/// The batches of connections of one worker.
#[derive(Debug)]
pub(crate) struct TrustBroadcast {
    batches: Vec<watch::Sender<()>>,
    /// Number of subscriptions until now. It selects the batch of the next connection.
    subscriptions: AtomicUsize,
}

impl Default for TrustBroadcast {
    fn default() -> Self {
        Self {
            batches: (0..BATCHES).map(|_| watch::Sender::new(())).collect(),
            subscriptions: AtomicUsize::new(0),
        }
    }
}

impl TrustBroadcast {
    /// Adds a connection to a batch. The connection is notified of every later change. The
    /// connection must read the trust state after this call. It then either reads the new state or
    /// is notified, and cannot miss a change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        let number = self.subscriptions.fetch_add(1, Ordering::Relaxed);
        match self.batches.get(number % BATCHES) {
            Some(batch) => batch.subscribe(),
            // Unreachable, because the remainder is always less than the number of batches.
            None => watch::Sender::new(()).subscribe(),
        }
    }

    /// Notifies connections of changes until the worker's runtime ends. `changes` must be
    /// incremented after a change was put in service.
    pub(crate) async fn run(&self, mut changes: watch::Receiver<u64>) {
        // A round notifies all batches once. After a change during a round, another round follows.
        while changes.changed().await.is_ok() {
            let begun = Instant::now();
            for batch in &self.batches {
                if batch.receiver_count() == 0 {
                    continue;
                }
                batch.send_replace(());
                // Yields, so that other tasks run and the runtime polls its sockets.
                match begun.elapsed() {
                    elapsed if elapsed < PAUSES_END => tokio::time::sleep(PAUSE).await,
                    elapsed if elapsed < YIELDS_END => tokio::task::yield_now().await,
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[tokio::test]
    async fn every_connection_is_notified_and_other_tasks_run_between_batches() {
        const CONNECTIONS: usize = 10 * BATCHES;
        let broadcast = Rc::new(TrustBroadcast::default());
        let (change, changes) = watch::channel(0);
        // The sequence of events: `true` if a connection was notified, `false` if another task ran.
        let seen: Rc<RefCell<Vec<bool>>> = Rc::default();
        let local = tokio::task::LocalSet::new();
        for _ in 0..CONNECTIONS {
            let mut told = broadcast.subscribe();
            let seen = Rc::clone(&seen);
            local.spawn_local(async move {
                while told.changed().await.is_ok() {
                    seen.borrow_mut().push(true);
                }
            });
        }
        let telling = Rc::clone(&broadcast);
        local.spawn_local(async move { telling.run(changes).await });
        let other = Rc::clone(&seen);
        local.spawn_local(async move {
            loop {
                other.borrow_mut().push(false);
                tokio::task::yield_now().await;
            }
        });
        let heard = || seen.borrow().iter().filter(|told| **told).count();
        local
            .run_until(async {
                for round in 1..=2 {
                    change.send_replace(round);
                    while heard() < CONNECTIONS * usize::try_from(round).unwrap() {
                        tokio::task::yield_now().await;
                    }
                }
            })
            .await;
        assert_eq!(heard(), 2 * CONNECTIONS, "nobody is told twice");
        let seen = seen.borrow();
        let longest = seen.split(|told| !told).map(<[bool]>::len).max();
        assert!(
            longest.is_some_and(|longest| longest < CONNECTIONS / 4),
            "{longest:?} connections in a row"
        );
    }

    #[tokio::test]
    async fn a_connection_that_subscribes_during_a_round_misses_nothing() {
        let broadcast = TrustBroadcast::default();
        let (change, changes) = watch::channel(0);
        let state = AtomicUsize::new(0);
        let _first = broadcast.subscribe();
        let telling = broadcast.run(changes);
        let mut telling = std::pin::pin!(telling);
        for round in 1..200_usize {
            let mut told = broadcast.subscribe();
            let read = state.load(Ordering::SeqCst);
            // The state is stored first and announced afterwards, in the same order as in a reload.
            state.store(round, Ordering::SeqCst);
            change.send_modify(|changes| *changes += 1);
            assert!(read < round);
            tokio::select! {
                biased;
                heard = told.changed() => heard.unwrap(),
                () = telling.as_mut() => panic!("the broadcast has ended"),
            }
        }
    }
}
