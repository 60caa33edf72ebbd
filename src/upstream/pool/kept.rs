//! What a shard keeps of each target: HTTP/1.1 connections at rest, and h2
//! connections that are shared.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use http_body::Body;
use hyper::client::conn::http1;
use tokio::sync::Notify;

use super::{MAX_STREAMS, TROUBLED_FOR};
use crate::clock;
use crate::identity::ShareKey;
use crate::upstream::GiveWay;
use crate::upstream::balance::Target;
use crate::upstream::driver::Driver;
use crate::upstream::http2::{Client, ConnectionState};
use crate::upstream::slots::{InUse, Slots};

/// How long a pooled connection may take to be ready.
const READY_PATIENCE: Duration = Duration::from_millis(100);

/// Requests of one h2 connection that were ended before their answer was whole, each with
/// a reset, until it takes no more of them. A service ends a connection with too many
/// resets (CVE-2023-44487); the fewest that one is known to allow are several hundred.
const MOST_RESETS: usize = 100;

/// The connections to one target.
pub(super) struct Place<B> {
    pub(super) idle: Vec<Idle<B>>,
    /// Connections in h2, by the caller that has or had them last.
    pub(super) shared: HashMap<ShareKey, Vec<Shared>>,
    /// Held while an h2 connection is being opened for a caller, so that its requests that
    /// come meanwhile wait for it.
    pub(super) opening: HashMap<ShareKey, Arc<tokio::sync::Mutex<()>>>,
    /// Callers whose connections were ended with an error, and when that was.
    pub(super) troubled: HashMap<ShareKey, Instant>,
    /// Tells who waits for a connection that one has come back.
    pub(super) freed: Arc<Freed>,
    /// The last one that came back was closed for somebody of another worker.
    pub(super) gives_way: bool,
}

/// Requests of one worker that wait for a connection to one target.
#[derive(Default)]
pub(super) struct Freed {
    pub(super) notify: Notify,
    waiting: AtomicUsize,
}

impl Freed {
    /// How many there are.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Counts one more, until the result is dropped.
    pub(super) fn begin_waiting(self: &Arc<Self>) -> WaitingHere {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        WaitingHere(Arc::clone(self))
    }
}

pub(super) struct WaitingHere(Arc<Freed>);

impl Drop for WaitingHere {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(super) struct Idle<B> {
    pub(super) sender: http1::SendRequest<B>,
    pub(super) driver: Driver,
    pub(super) since: Instant,
    pub(super) idle_timeout: Duration,
    pub(super) link: Link,
}

/// A connection in h2.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) streams: Arc<Streams>,
    pub(super) idle_timeout: Duration,
    pub(super) link: Link,
    /// It counts among the connections that its endpoint gets; one that was opened
    /// where there was no other does not.
    pub(super) has_slot: bool,
}

/// What is known of a connection.
#[derive(Clone)]
pub(super) struct Link {
    /// Until when the service's certificate is good.
    pub(super) good_until: Option<i64>,
    pub(super) address: SocketAddr,
    /// The connections that its endpoint gets, of which it is one.
    pub(super) slots: Arc<Slots>,
}

impl<B> Default for Place<B> {
    fn default() -> Self {
        Self {
            idle: Vec::new(),
            shared: HashMap::new(),
            opening: HashMap::new(),
            troubled: HashMap::new(),
            freed: Arc::default(),
            gives_way: false,
        }
    }
}

impl<B> Place<B> {
    /// Lets go of connections in h2 that are not usable any more.
    pub(super) fn look(&mut self) {
        let troubled = &mut self.troubled;
        troubled.retain(|_, since| since.elapsed() < TROUBLED_FOR);
        self.shared.retain(|owner, shared| {
            shared.retain(|one| {
                let is_usable = one.is_usable();
                if !is_usable && one.client.state().ended_with().is_some() {
                    troubled.insert(*owner, Instant::now());
                }
                is_usable
            });
            !shared.is_empty()
        });
        self.opening
            .retain(|_, opening| Arc::strong_count(opening) > 1);
    }

    /// Takes a connection in h2 out that any caller may have and that `suits`.
    pub(super) fn take_free(&mut self, suits: impl Fn(&Shared) -> bool) -> Option<Shared> {
        self.take_out(|one| one.is_free() && suits(one))
    }

    /// Closes a connection in h2 that has no streams and that `suits`.
    pub(super) fn close_unused(&mut self, suits: impl Fn(&Shared) -> bool) -> bool {
        self.take_out(|one| one.is_unused() && suits(one)).is_some()
    }

    /// Takes the connection of these streams out.
    pub(super) fn retire(&mut self, streams: &Arc<Streams>) {
        let is_it = |one: &Shared| Arc::ptr_eq(&one.streams, streams);
        let owner = (self.shared.iter()).find(|(_, shared)| shared.iter().any(is_it));
        let owner = owner.map(|(owner, _)| *owner);
        let retired = self.take_out(is_it);
        if let (Some(owner), Some(retired)) = (owner, &retired)
            && retired.client.state().ended_with().is_some()
        {
            self.troubled.insert(owner, Instant::now());
        }
        drop(retired);
    }

    fn take_out(&mut self, suits: impl Fn(&Shared) -> bool) -> Option<Shared> {
        let (owner, index) = self.shared.iter().find_map(|(owner, shared)| {
            let index = shared.iter().position(&suits)?;
            Some((*owner, index))
        })?;
        let shared = self.shared.get_mut(&owner)?;
        let taken = shared.swap_remove(index);
        if shared.is_empty() {
            self.shared.remove(&owner);
        }
        Some(taken)
    }

    /// Whether a connection of this caller was ended with an error lately.
    pub(super) fn is_troubled(&self, key: ShareKey) -> bool {
        self.troubled
            .get(&key)
            .is_some_and(|since| since.elapsed() < TROUBLED_FOR)
    }
}

impl Link {
    /// Whether the service's certificate has not expired meanwhile.
    pub(super) fn is_good(&self) -> bool {
        let now = || i64::try_from(clock::unix_now()).unwrap_or(i64::MAX);
        self.good_until
            .is_none_or(|until| !clock::certificate_is_over(until, now()))
    }
}

impl<B> Idle<B> {
    pub(super) fn is_open(&self) -> bool {
        !self.driver.has_ended() && !self.sender.is_closed()
    }
}

impl<B: Body + Send + Unpin + 'static> Idle<B> {
    /// Whether it takes a request. It was given back at rest, so this takes no
    /// time; where it does, something is wrong with it.
    pub(super) async fn is_ready(&mut self) -> bool {
        let Self { sender, driver, .. } = self;
        let has_task = driver.has_task();
        let ready = poll_fn(|context| {
            driver.drive(context);
            match sender.poll_ready(context) {
                Poll::Ready(ready) => Poll::Ready(ready.is_ok()),
                Poll::Pending if has_task => Poll::Pending,
                Poll::Pending => Poll::Ready(false),
            }
        });
        match has_task {
            false => ready.await,
            true => matches!(tokio::time::timeout(READY_PATIENCE, ready).await, Ok(true)),
        }
    }
}

impl Shared {
    /// Begins a stream of this caller.
    pub(super) fn begin(&self, key: ShareKey) -> (Client, Stream, Link) {
        let stream = Stream::begin(&self.streams, key);
        (self.client.clone(), stream, self.link.clone())
    }

    pub(super) fn is_unused(&self) -> bool {
        self.streams.open() == 0
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.client.is_closed()
            && self.link.is_good()
            && match self.streams.unused_since() {
                None => true,
                Some(since) => !self.is_worn() && since.elapsed() < self.idle_timeout,
            }
    }

    /// Whether it takes another stream now.
    pub(super) fn has_room(&self) -> bool {
        let most = MAX_STREAMS.min(self.client.max_streams());
        !self.is_worn() && self.streams.open() < most
    }

    /// Whether any caller may have it: it has no streams, and nothing that was sent on it
    /// so far could make the service end it.
    pub(super) fn is_free(&self) -> bool {
        self.is_unused() && self.client.state().is_unspent()
    }

    /// Whether so many of its streams were reset that it gets no further ones, and is
    /// closed after the last of those that it has.
    pub(super) fn is_worn(&self) -> bool {
        self.client.state().resets() >= MOST_RESETS
    }
}

/// The streams of a connection.
pub(super) struct Streams {
    now: Mutex<OpenStreams>,
    target: Arc<Target>,
    slots: Arc<Slots>,
    freed: Arc<Freed>,
    state: Arc<ConnectionState>,
}

struct OpenStreams {
    count: usize,
    /// Counts the connection among those that its caller uses, while there are any.
    in_use: Option<InUse>,
    /// When the last one ended, where there is none.
    unused_since: Instant,
}

impl Streams {
    pub(super) fn new(
        client: &Client,
        target: &Arc<Target>,
        slots: &Arc<Slots>,
        freed: &Arc<Freed>,
    ) -> Self {
        Self {
            now: Mutex::new(OpenStreams {
                count: 0,
                in_use: None,
                unused_since: Instant::now(),
            }),
            target: Arc::clone(target),
            slots: Arc::clone(slots),
            freed: Arc::clone(freed),
            state: Arc::clone(client.state()),
        }
    }

    fn now(&self) -> MutexGuard<'_, OpenStreams> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open(&self) -> usize {
        self.now().count
    }

    /// Since when there has been none, where there is none.
    fn unused_since(&self) -> Option<Instant> {
        let now = self.now();
        (now.count == 0).then_some(now.unused_since)
    }
}

/// One stream of a connection, until it is dropped.
pub(super) struct Stream {
    pub(super) streams: Arc<Streams>,
    /// Tells when the connection's caller has to give it up.
    pub(super) give_way: Option<Arc<GiveWay>>,
}

impl Stream {
    /// One of this caller.
    pub(super) fn begin(streams: &Arc<Streams>, key: ShareKey) -> Self {
        let mut now = streams.now();
        now.count += 1;
        let in_use = (now.in_use).get_or_insert_with(|| streams.slots.begin_use(key));
        Self {
            give_way: in_use.give_way(),
            streams: Arc::clone(streams),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let ended = {
            let mut now = self.streams.now();
            now.count = now.count.saturating_sub(1);
            if now.count > 0 {
                return;
            }
            now.unused_since = Instant::now();
            now.in_use.take()
        };
        drop(ended);
        let Streams {
            slots,
            freed,
            state,
            target,
            ..
        } = &*self.streams;
        // A request that begins to wait is counted before it looks at the streams.
        if !slots.are_wanted() {
            return;
        }
        // Where all who wait are of this worker, one of them takes the connection as it
        // is. Otherwise it is closed, and its slot goes to the next request.
        if state.is_unspent() && freed.waiting() == slots.waiting() {
            freed.notify.notify_one();
        } else {
            slots.make_room(target);
        }
    }
}
