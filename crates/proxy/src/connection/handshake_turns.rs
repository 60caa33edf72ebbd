//! `HandshakeTurns`: makes handshakes yield to established connections.
//!
//! One poll of a handshake (a step) occupies a worker for hundreds of microseconds. A request needs
//! a few dozen microseconds. A hundred handshakes that are ready at the same time would delay all
//! requests of the worker. Therefore only one step runs at a time. Between two steps the worker
//! polls its sockets and runs every ready task. Source addresses take turns in round-robin order.
//! An address that begins a thousand handshakes then delays only its own handshakes.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

use crate::connection_slots::Source;

/// Schedules the handshake steps of one worker.
#[derive(Debug, Default)]
pub(crate) struct HandshakeTurns {
    state: Mutex<State>,
    /// Notified when a step has started. The next step starts after all other ready tasks have run.
    taken: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// True if a step has started and the other ready tasks have not run since then.
    is_taken: bool,
    /// The number for the next handshake that has to wait.
    next: u64,
    /// The numbers of the waiting handshakes of each source, in the order of their arrival.
    waiting: HashMap<Source, VecDeque<u64>>,
    /// The sources in `waiting`. The first source has the next turn.
    order: VecDeque<Source>,
    wakers: HashMap<u64, Waker>,
    /// The handshake that was woken for the next turn and has not been polled yet.
    called: Option<u64>,
}

impl State {
    /// Wakes the next waiting handshake, unless one was woken before and has not been polled yet.
    /// Returns `false` if no handshake waits.
    fn call_next(&mut self) -> bool {
        if self.called.is_some() {
            return true;
        }
        let Some(source) = self.order.pop_front() else {
            return false;
        };
        if let Some(own) = self.waiting.get_mut(&source) {
            self.called = own.pop_front();
            if own.is_empty() {
                self.waiting.remove(&source);
            } else {
                self.order.push_back(source);
            }
        }
        if let Some(waker) = self.called.and_then(|called| self.wakers.remove(&called)) {
            waker.wake();
        }
        true
    }

    /// Removes a handshake that was dropped while it waited.
    fn forget(&mut self, source: Source, number: u64) {
        self.wakers.remove(&number);
        if self.called == Some(number) {
            self.called = None;
        }
        if let Some(own) = self.waiting.get_mut(&source) {
            own.retain(|other| *other != number);
            if own.is_empty() {
                self.waiting.remove(&source);
                self.order.retain(|other| *other != source);
            }
        }
    }
}

impl HandshakeTurns {
    /// Runs a handshake to its end, and polls it only in its turns.
    pub(crate) async fn run<F: Future>(&self, source: Source, handshake: F) -> F::Output {
        let mut handshake = pin!(handshake);
        let mut turn = Turn {
            turns: self,
            source,
            number: None,
        };
        poll_fn(|context| {
            std::task::ready!(turn.poll(context));
            handshake.as_mut().poll(context)
        })
        .await
    }

    /// Schedules turns until the worker's runtime ends.
    pub(crate) async fn give(&self) {
        loop {
            self.taken.notified().await;
            loop {
                // `yield_now` returns after the worker has polled its sockets and has run the tasks
                // that became ready.
                tokio::task::yield_now().await;
                let mut state = self.state();
                if !state.call_next() {
                    state.is_taken = false;
                    break;
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The position of one handshake in the schedule.
struct Turn<'a> {
    turns: &'a HandshakeTurns,
    source: Source,
    /// The handshake's number in `State::waiting`. `None` if it does not wait.
    number: Option<u64>,
}

impl Turn<'_> {
    /// Returns `Ready` once per turn of this handshake.
    fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.turns.state();
        let number = match self.number {
            None if !state.is_taken => {
                state.is_taken = true;
                self.turns.taken.notify_one();
                return Poll::Ready(());
            }
            None => {
                let number = state.next;
                state.next = state.next.wrapping_add(1);
                let own = state.waiting.entry(self.source).or_default();
                own.push_back(number);
                if own.len() == 1 {
                    state.order.push_back(self.source);
                }
                self.number = Some(number);
                number
            }
            Some(number) if state.called == Some(number) => {
                state.called = None;
                self.number = None;
                return Poll::Ready(());
            }
            Some(number) => number,
        };
        state.wakers.insert(number, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.turns.state().forget(self.source, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use super::*;
    use crate::identity::ShareKey;

    fn source(number: u8) -> Source {
        Source::Address(ShareKey::of_address(IpAddr::from([10, 0, 0, number])))
    }

    type Log = Arc<Mutex<Vec<&'static str>>>;

    fn note(log: &Log, what: &'static str) {
        log.lock().unwrap().push(what);
    }

    /// Starts a handshake that logs `name` when it has its turn.
    fn begin(turns: &Arc<HandshakeTurns>, log: &Log, (number, name): (u8, &'static str)) {
        let (turns, log) = (Arc::clone(turns), Arc::clone(log));
        tokio::spawn(async move {
            turns.run(source(number), async { note(&log, name) }).await;
        });
    }

    async fn until_logged(log: &Log, count: usize) {
        while log.lock().unwrap().len() < count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn addresses_take_turns() {
        let (turns, log) = (Arc::new(HandshakeTurns::default()), Log::default());
        for _ in 0..5 {
            begin(&turns, &log, (1, "flood"));
        }
        begin(&turns, &log, (2, "other"));
        let giving = Arc::clone(&turns);
        tokio::spawn(async move { giving.give().await });
        until_logged(&log, 6).await;
        let log = log.lock().unwrap();
        let place = log.iter().position(|name| *name == "other").unwrap();
        // The first flood handshake ran before any other handshake waited. At most one more flood
        // handshake comes before "other".
        assert!(place <= 2, "{log:?}");
    }

    #[tokio::test]
    async fn other_tasks_run_between_two_steps() {
        let (turns, log) = (Arc::new(HandshakeTurns::default()), Log::default());
        for _ in 0..4 {
            begin(&turns, &log, (1, "step"));
        }
        let giving = Arc::clone(&turns);
        tokio::spawn(async move { giving.give().await });
        let (here, there) = tokio::net::UnixStream::pair().unwrap();
        let noting = Arc::clone(&log);
        tokio::spawn(async move {
            // The request arrives while handshakes are ready.
            here.readable().await.unwrap();
            note(&noting, "request");
        });
        tokio::task::yield_now().await;
        there.try_write(b"x").unwrap();
        until_logged(&log, 5).await;
        let log = log.lock().unwrap();
        let place = log.iter().position(|name| *name == "request").unwrap();
        assert!(place <= 2, "{log:?}");
    }

    #[tokio::test]
    async fn one_that_is_gone_does_not_hold_up_the_others() {
        let (turns, log) = (Arc::new(HandshakeTurns::default()), Log::default());
        begin(&turns, &log, (1, "first"));
        until_logged(&log, 1).await;
        let gone = turns.run(source(1), async { note(&log, "gone") });
        let mut gone = Box::pin(gone);
        let mut context = Context::from_waker(Waker::noop());
        assert!(gone.as_mut().poll(&mut context).is_pending());
        begin(&turns, &log, (1, "second"));
        tokio::task::yield_now().await;
        // `gone` is called for the next turn, but is dropped before it is polled again.
        assert!(turns.state().call_next());
        drop(gone);
        let giving = Arc::clone(&turns);
        tokio::spawn(async move { giving.give().await });
        until_logged(&log, 2).await;
        assert_eq!(*log.lock().unwrap(), ["first", "second"]);
    }
}
