//! `Herald`: tells the connections of a worker that trust has changed, a batch
//! at a time, so that requests have their turn between batches.
//!
//! Thousands of connections that all look at their chains at once would hold up
//! every request behind them. Each connection belongs to one of a fixed number of
//! batches instead; the herald calls one after the other and lets the worker do
//! whatever else is ready in between. Requests themselves never wait for it: they
//! compare their connection with the newest state before anything else.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Batches of one worker. With 10,000 connections one has 39, which take less than
/// half a millisecond.
const BATCHES: usize = 256;
/// Time between two batches. A request takes several turns of the worker's runtime:
/// without it each of them would wait for a batch.
const PAUSE: Duration = Duration::from_millis(1);
/// After this time there are no more pauses: changes take effect within a second.
const UNHURRIED: Duration = Duration::from_millis(300);
/// After this time the rest is told at once.
const LONGEST: Duration = Duration::from_millis(450);

/// A worker's batches.
#[derive(Debug)]
pub(crate) struct TrustBroadcast {
    batches: Vec<watch::Sender<()>>,
    next: AtomicUsize,
}

impl Default for TrustBroadcast {
    fn default() -> Self {
        Self {
            batches: (0..BATCHES).map(|_| watch::Sender::new(())).collect(),
            next: AtomicUsize::new(0),
        }
    }
}

impl TrustBroadcast {
    /// Adds a connection. It hears of every change that is put in service from now
    /// on: one that reads the state afterwards either sees it or is told of it.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        match self.batches.get(number % BATCHES) {
            Some(batch) => batch.subscribe(),
            // There are as many as are counted.
            None => watch::Sender::new(()).subscribe(),
        }
    }

    /// Passes changes on for as long as the worker's runtime lasts. `changes`
    /// counts up after a change was put in service.
    pub(crate) async fn run(&self, mut changes: watch::Receiver<u64>) {
        // One that comes while batches are told is told to all of them afterwards.
        while changes.changed().await.is_ok() {
            let begun = Instant::now();
            for batch in &self.batches {
                if batch.receiver_count() == 0 {
                    continue;
                }
                batch.send_replace(());
                // Whoever is ready runs before this goes on, and the sockets are
                // looked at.
                match begun.elapsed() {
                    elapsed if elapsed < UNHURRIED => tokio::time::sleep(PAUSE).await,
                    elapsed if elapsed < LONGEST => tokio::task::yield_now().await,
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
    async fn everybody_is_told_and_others_have_their_turn_between_batches() {
        const CONNECTIONS: usize = 10 * BATCHES;
        let herald = Rc::new(TrustBroadcast::default());
        let (change, changes) = watch::channel(0);
        // What happened: a connection heard of it (true), or something else ran.
        let seen: Rc<RefCell<Vec<bool>>> = Rc::default();
        let local = tokio::task::LocalSet::new();
        for _ in 0..CONNECTIONS {
            let mut told = herald.subscribe();
            let seen = Rc::clone(&seen);
            local.spawn_local(async move {
                while told.changed().await.is_ok() {
                    seen.borrow_mut().push(true);
                }
            });
        }
        let telling = Rc::clone(&herald);
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
    async fn a_connection_that_comes_while_others_are_told_misses_nothing() {
        let herald = TrustBroadcast::default();
        let (change, changes) = watch::channel(0);
        let state = AtomicUsize::new(0);
        let _first = herald.subscribe();
        let telling = herald.run(changes);
        let mut telling = std::pin::pin!(telling);
        for round in 1..200_usize {
            let mut told = herald.subscribe();
            let read = state.load(Ordering::SeqCst);
            // Put in service, then announced, as a reload does.
            state.store(round, Ordering::SeqCst);
            change.send_modify(|changes| *changes += 1);
            assert!(read < round);
            tokio::select! {
                biased;
                heard = told.changed() => heard.unwrap(),
                () = telling.as_mut() => panic!("the herald has ended"),
            }
        }
    }
}
