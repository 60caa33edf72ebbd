//! What a shard keeps of each target: HTTP/1.1 connections at rest, and h2
//! connections that are shared.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use http_body::Body;
use hyper::client::conn::{http1, http2};
use tokio::sync::Notify;

use crate::clock;
use crate::upstream::balance::Target;
use crate::upstream::driver::Driver;
use crate::upstream::slots::Slots;

/// How long a pooled connection may take to be ready.
const READY_PATIENCE: Duration = Duration::from_millis(100);

/// Requests of one h2 connection that we have ended before their answer was whole, each
/// with a reset, until it takes no more of them. A service ends a connection with too
/// many resets (CVE-2023-44487), and with it the requests of callers who had no part in
/// them: the fewest that one is known to allow are several hundred.
const MOST_RESETS: usize = 100;

/// The connections to one target.
pub(super) struct Place<B> {
    pub(super) idle: Vec<Idle<B>>,
    pub(super) shared: Vec<Shared<B>>,
    /// Held while an h2 connection is being opened, so that requests that come
    /// meanwhile wait for it.
    pub(super) opening: Arc<tokio::sync::Mutex<()>>,
    /// Tells who waits for a connection that one has come back; cloned by those who
    /// wait.
    pub(super) freed: Arc<Notify>,
    /// The last one that came back was closed for somebody of another worker.
    pub(super) gives_way: bool,
}

pub(super) struct Idle<B> {
    pub(super) sender: http1::SendRequest<B>,
    pub(super) driver: Driver,
    pub(super) since: Instant,
    pub(super) idle_timeout: Duration,
    pub(super) link: Link,
}

pub(super) struct Shared<B> {
    pub(super) sender: http2::SendRequest<B>,
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
            shared: Vec::new(),
            opening: Arc::default(),
            freed: Arc::default(),
            gives_way: false,
        }
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

impl<B> Shared<B> {
    pub(super) fn is_unused(&self) -> bool {
        self.streams.open() == 0
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.sender.is_closed()
            && self.link.is_good()
            && (!self.is_unused()
                || (!self.is_worn() && self.streams.unused_since().elapsed() < self.idle_timeout))
    }

    /// Whether so many of its streams were reset that it gets no further ones, and is
    /// closed after the last of those that it has.
    pub(super) fn is_worn(&self) -> bool {
        self.streams.resets.load(Ordering::Relaxed) >= MOST_RESETS
    }
}

/// The streams of a shared connection.
pub(super) struct Streams {
    open: AtomicUsize,
    /// How many were ended before their answer was whole.
    resets: AtomicUsize,
    /// When the last one ended, where there is none.
    unused_since: Mutex<Instant>,
}

impl Streams {
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    fn unused_since(&self) -> MutexGuard<'_, Instant> {
        self.unused_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            open: AtomicUsize::new(0),
            resets: AtomicUsize::new(0),
            unused_since: Mutex::new(Instant::now()),
        }
    }
}

/// One stream of a shared connection, until it is dropped.
pub(super) struct Stream {
    pub(super) streams: Arc<Streams>,
    target: Arc<Target>,
    slots: Arc<Slots>,
    /// It came to its end: dropping it resets nothing.
    over: bool,
}

impl Stream {
    pub(super) fn begin(streams: &Arc<Streams>, target: &Arc<Target>, slots: &Arc<Slots>) -> Self {
        streams.open.fetch_add(1, Ordering::Relaxed);
        Self {
            streams: Arc::clone(streams),
            target: Arc::clone(target),
            slots: Arc::clone(slots),
            over: false,
        }
    }

    /// Both its bodies have ended, or the service has ended it.
    pub(super) const fn over(&mut self) {
        self.over = true;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.over {
            self.streams.resets.fetch_add(1, Ordering::Relaxed);
        }
        // Before it counts as unused.
        *self.streams.unused_since() = Instant::now();
        // Whoever begins to wait says so before it looks at the streams, hence the order
        // that holds for all.
        let was_last = self.streams.open.fetch_sub(1, Ordering::SeqCst) == 1;
        if was_last && self.slots.are_wanted() {
            // A connection is at rest, and somebody waits for its slot.
            self.slots.make_room(&self.target);
        }
    }
}
