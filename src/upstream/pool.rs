//! Pooled connections to endpoints, one shard per worker.
//!
//! A shard belongs to one worker, so its locks are never contended. An HTTP/1.1
//! connection is out of the pool while a request uses it and comes back when the
//! response has been read to its end; an h2 connection stays in it and is
//! shared. Connections outlive a reload where address, protocol and TLS
//! expectations stay the same.

use std::collections::HashMap;
use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use tokio::sync::Notify;

use super::addresses::Addresses;
use super::balance::{InProgress, Target, Tried};
use super::connect::{ConnectError, Opened, connect};
use super::driver::Driver;
use super::slots::{Holder, Slot, Slots};
use super::{HttpProtocol, Upstream};
use crate::clock;

/// Most idle HTTP/1.1 connections kept per endpoint and worker.
const MAX_IDLE: usize = 64;
/// Requests in progress on one h2 connection before another one is opened. A
/// service that allows fewer makes the others wait (RFC 9113 section 5.1.2
/// recommends to allow at least this many).
const MAX_STREAMS: usize = 100;

/// How long a pooled connection may take to be ready.
const READY_PATIENCE: Duration = Duration::from_millis(100);

/// The pool of one worker; `B` is the type of request bodies.
pub struct PoolShard<B> {
    places: Mutex<HashMap<Arc<Target>, Place<B>>>,
}

/// The connections to one target.
struct Place<B> {
    idle: Vec<Idle<B>>,
    shared: Vec<Shared<B>>,
    /// Held while an h2 connection is being opened, so that requests that come
    /// meanwhile wait for it.
    opening: Arc<tokio::sync::Mutex<()>>,
    /// Tells who waits for a connection that one has come back; cloned by those who
    /// wait.
    freed: Arc<Notify>,
    /// The last one that came back was closed for somebody of another worker.
    gives_way: bool,
}

struct Idle<B> {
    sender: http1::SendRequest<B>,
    driver: Driver,
    since: Instant,
    idle_timeout: Duration,
    link: Link,
}

struct Shared<B> {
    sender: http2::SendRequest<B>,
    streams: Arc<AtomicUsize>,
    last_used: Instant,
    idle_timeout: Duration,
    link: Link,
}

/// What is known of a connection.
#[derive(Clone)]
struct Link {
    /// Until when the service's certificate is good.
    good_until: Option<i64>,
    address: SocketAddr,
    /// The connections that its endpoint gets, of which it is one.
    slots: Arc<Slots>,
}

impl Link {
    /// Whether the service's certificate has not expired meanwhile.
    fn is_good(&self) -> bool {
        let now = || i64::try_from(clock::unix_now()).unwrap_or(i64::MAX);
        self.good_until.is_none_or(|until| now() <= until)
    }
}

/// A connection in use. Give it back with [`Lease::release`] once both bodies
/// have ended, or end it with [`Lease::close`].
pub struct Lease<B> {
    sender: Sender<B>,
    target: Arc<Target>,
    index: usize,
    idle_timeout: Duration,
    link: Link,
    reused: bool,
    shard: Arc<PoolShard<B>>,
    in_progress: Option<InProgress>,
}

enum Sender<B> {
    Http1(http1::SendRequest<B>, Driver),
    Http2(http2::SendRequest<B>, Stream),
}

/// One stream of a shared connection, until it is dropped.
struct Stream(Arc<AtomicUsize>);

impl Stream {
    fn begin(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(streams))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<B> Idle<B> {
    fn is_open(&self) -> bool {
        !self.driver.has_ended() && !self.sender.is_closed()
    }
}

impl<B: Body + Send + Unpin + 'static> Idle<B> {
    /// Whether it takes a request. It was given back at rest, so this takes no
    /// time; where it does, something is wrong with it.
    async fn is_ready(&mut self) -> bool {
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
    fn is_usable(&self) -> bool {
        !self.sender.is_closed()
            && self.link.is_good()
            && (self.streams.load(Ordering::Relaxed) > 0
                || self.last_used.elapsed() < self.idle_timeout)
    }
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

impl<B> Default for PoolShard<B> {
    fn default() -> Self {
        Self {
            places: Mutex::new(HashMap::new()),
        }
    }
}

impl<B> PoolShard<B> {
    fn places(&self) -> MutexGuard<'_, HashMap<Arc<Target>, Place<B>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_idle(&self, target: &Arc<Target>, addresses: &Arc<Addresses>) -> Option<Idle<B>> {
        let mut places = self.places();
        let idle = &mut places.get_mut(target)?.idle;
        while let Some(last) = idle.pop() {
            // The most recently used comes last: once one is too old, all are.
            if last.since.elapsed() >= last.idle_timeout {
                idle.clear();
                return None;
            }
            if last.is_open() && last.link.is_good() && addresses.still_has(last.link.address) {
                return Some(last);
            }
        }
        None
    }

    /// Lets go of what nobody asked for in time, wherever it leads, and of what
    /// the other side has closed meanwhile.
    pub fn sweep(&self) {
        self.places().retain(|_, place| {
            place.idle.retain_mut(|idle| {
                idle.driver.look();
                idle.since.elapsed() < idle.idle_timeout && idle.is_open()
            });
            place.shared.retain(Shared::is_usable);
            !place.idle.is_empty()
                || !place.shared.is_empty()
                || Arc::strong_count(&place.opening) > 1
                || Arc::strong_count(&place.freed) > 1
        });
    }
}

impl<B: Send + 'static> Holder for PoolShard<B> {
    fn let_go(&self, target: &Target) -> bool {
        // The one that was unused for longest.
        self.places().get_mut(target).is_some_and(|place| {
            let any = !place.idle.is_empty();
            if any {
                place.idle.remove(0);
            }
            any
        })
    }
}

impl<B> PoolShard<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// A connection to one of the upstream's endpoints: a pooled one, or a new
    /// one where there is none or `fresh` is asked for. An endpoint that cannot
    /// be connected to is passed over for the next, and the one to `avoid` comes
    /// into question only where there is no other.
    ///
    /// # Errors
    /// When no connection can be had.
    pub async fn lease(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        affinity: Option<u64>,
        (fresh, avoid): (bool, Option<usize>),
    ) -> Result<Lease<B>, ConnectError> {
        let mut tried = Tried::avoiding(avoid, upstream);
        let mut last = ConnectError::NoEndpoint;
        let mut full = None;
        while let Some(index) = upstream.pick(affinity, &tried) {
            match self.lease_at(upstream, index, fresh).await {
                Ok(lease) => return Ok(lease),
                Err(ConnectError::Full) => {
                    full.get_or_insert(index);
                    tried.note(index);
                }
                Err(error) => {
                    tracing::warn!(upstream = upstream.name(), endpoint = index, %error,
                        "no connection to the endpoint");
                    upstream.failed(index);
                    tried.note(index);
                    last = error;
                }
            }
        }
        match full {
            Some(index) => Box::pin(self.wait_at(upstream, index)).await,
            None => Err(last),
        }
    }

    async fn lease_at(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        fresh: bool,
    ) -> Result<Lease<B>, ConnectError> {
        let target = upstream.target(index).ok_or(ConnectError::NoEndpoint)?;
        let timeout = upstream.config().connect_timeout;
        match target.protocol {
            HttpProtocol::Http1 => {
                if !fresh && let Some(lease) = self.idle_lease(upstream, index, target).await {
                    return Ok(lease);
                }
                let slot = self.slot(upstream, index)?;
                // Boxed, so that a request on a pooled connection has no room for it.
                let opening = Box::pin(self.open(upstream, index, target, Some(slot)));
                tokio::time::timeout(timeout, opening).await
            }
            HttpProtocol::Http2 => {
                if let Some(lease) = self.share(upstream, index, target, MAX_STREAMS) {
                    return Ok(lease);
                }
                let opening = Box::pin(async {
                    let opening =
                        Arc::clone(&self.places().entry(Arc::clone(target)).or_default().opening);
                    let _turn = opening.lock().await;
                    if let Some(lease) = self.share(upstream, index, target, MAX_STREAMS) {
                        return Ok(lease);
                    }
                    let slot = self.slot(upstream, index).ok();
                    // Without a slot the connections there are have to do. They are other
                    // workers' where there are none here, and may have streams for ever: one
                    // is opened all the same.
                    if slot.is_none()
                        && let Some(lease) = self.share(upstream, index, target, usize::MAX)
                    {
                        return Ok(lease);
                    }
                    self.open(upstream, index, target, slot).await
                });
                tokio::time::timeout(timeout, opening).await
            }
        }
        .map_err(|_| ConnectError::Timeout(timeout))?
    }

    /// A connection of the pool that is at rest.
    async fn idle_lease(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        target: &Arc<Target>,
    ) -> Option<Lease<B>> {
        let (addresses, _) = upstream.place(index)?;
        while let Some(mut idle) = self.take_idle(target, addresses) {
            if idle.is_ready().await {
                let sender = Sender::Http1(idle.sender, idle.driver);
                return Some(self.wrap(upstream, index, target, sender, idle.link, true));
            }
        }
        None
    }

    /// A slot for a new connection.
    fn slot(self: &Arc<Self>, upstream: &Upstream, index: usize) -> Result<Slot, ConnectError> {
        let slots = upstream.slots(index).ok_or(ConnectError::NoEndpoint)?;
        slots.take().ok_or(ConnectError::Full)
    }

    /// Waits for an HTTP/1.1 connection to an endpoint that may have no more of them,
    /// for as long as connecting may take.
    async fn wait_at(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
    ) -> Result<Lease<B>, ConnectError> {
        let target = upstream.target(index).ok_or(ConnectError::NoEndpoint)?;
        let slots = upstream.slots(index).ok_or(ConnectError::NoEndpoint)?;
        let _pending = upstream.wait().ok_or(ConnectError::Full)?;
        let freed = Arc::clone(&self.places().entry(Arc::clone(target)).or_default().freed);
        let waiting = async {
            loop {
                let mut back = pin!(freed.notified());
                back.as_mut().enable();
                if let Some(lease) = self.idle_lease(upstream, index, target).await {
                    return Ok(lease);
                }
                tokio::select! {
                    slot = slots.wait(target) => {
                        let slot = slot.ok_or(ConnectError::Full)?;
                        return self.open(upstream, index, target, Some(slot)).await;
                    }
                    () = back => {}
                }
            }
        };
        tokio::time::timeout(upstream.config().connect_timeout, waiting)
            .await
            .unwrap_or(Err(ConnectError::Full))
    }

    /// A stream of an h2 connection that is there.
    fn share(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        target: &Arc<Target>,
        most: usize,
    ) -> Option<Lease<B>> {
        let (addresses, _) = upstream.place(index)?;
        let mut places = self.places();
        let shared = &mut places.get_mut(target)?.shared;
        shared.retain(|shared| {
            shared.is_usable()
                && (addresses.still_has(shared.link.address)
                    || shared.streams.load(Ordering::Relaxed) > 0)
        });
        let found = shared
            .iter_mut()
            .filter(|shared| addresses.still_has(shared.link.address))
            .find(|shared| shared.streams.load(Ordering::Relaxed) < most)?;
        found.last_used = Instant::now();
        let stream = Stream::begin(&found.streams);
        let sender = Sender::Http2(found.sender.clone(), stream);
        let link = found.link.clone();
        drop(places);
        Some(self.wrap(upstream, index, target, sender, link, true))
    }

    async fn open(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        target: &Arc<Target>,
        slot: Option<Slot>,
    ) -> Result<Lease<B>, ConnectError> {
        self.sweep();
        let (addresses, _) = upstream.place(index).ok_or(ConnectError::NoEndpoint)?;
        let slots = upstream.slots(index).ok_or(ConnectError::NoEndpoint)?;
        slots.register(Arc::downgrade(&(Arc::clone(self) as Arc<dyn Holder>)));
        let connected = connect(addresses, upstream.config(), slot).await?;
        let link = Link {
            good_until: connected.good_until,
            address: connected.address,
            slots: Arc::clone(slots),
        };
        let sender = match connected.opened {
            Opened::Http1(sender, driver) => Sender::Http1(sender, driver),
            Opened::Http2(sender) => {
                let streams = Arc::default();
                let stream = Stream::begin(&streams);
                let mut places = self.places();
                let place = places.entry(Arc::clone(target)).or_default();
                place.shared.push(Shared {
                    sender: sender.clone(),
                    streams,
                    last_used: Instant::now(),
                    idle_timeout: upstream.config().idle_timeout,
                    link: link.clone(),
                });
                Sender::Http2(sender, stream)
            }
        };
        Ok(self.wrap(upstream, index, target, sender, link, false))
    }

    fn wrap(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        target: &Arc<Target>,
        sender: Sender<B>,
        link: Link,
        reused: bool,
    ) -> Lease<B> {
        Lease {
            sender,
            target: Arc::clone(target),
            index,
            idle_timeout: upstream.config().idle_timeout,
            link,
            reused,
            shard: Arc::clone(self),
            in_progress: upstream.begin(index),
        }
    }
}

impl<B: Body + 'static> Lease<B> {
    /// Sends a request. What was not sent comes back with the error.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn send(
        &mut self,
        request: Request<B>,
    ) -> Result<Response<Incoming>, TrySendError<Request<B>>> {
        match &mut self.sender {
            Sender::Http1(sender, driver) => {
                let mut sending = pin!(sender.try_send_request(request));
                poll_fn(|context| {
                    driver.drive(context);
                    sending.as_mut().poll(context)
                })
                .await
            }
            Sender::Http2(sender, _) => sender.try_send_request(request).await,
        }
    }
}

impl<B> Lease<B> {
    /// Whether the connection has served a request before, so that it may have
    /// been closed by the other side meanwhile.
    #[must_use]
    pub const fn is_reused(&self) -> bool {
        self.reused
    }

    /// Which of the upstream's endpoints it leads to.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Moves what can be moved on a connection that nothing else drives; to be
    /// called before the answer's body is polled, in the same task. Says whether it
    /// is such a connection.
    pub fn drive(&mut self, context: &mut Context<'_>) -> bool {
        match &mut self.sender {
            Sender::Http1(_, driver) if !driver.has_task() => {
                driver.drive(context);
                true
            }
            _ => false,
        }
    }

    /// Lets the connection move by itself, whether or not the answer's body is
    /// polled.
    pub fn detach(&mut self) {
        if let Sender::Http1(_, driver) = &mut self.sender {
            driver.detach();
        }
    }

    /// What counts the request among those of its endpoint, once its connection has
    /// been taken over.
    #[must_use]
    pub fn in_progress(self) -> Option<InProgress> {
        self.in_progress
    }

    /// Gives the connection back to the pool.
    pub fn release(self) {
        let (sender, mut driver) = match self.sender {
            Sender::Http1(sender, driver) if !sender.is_closed() => (sender, driver),
            // A shared connection never left.
            Sender::Http1(..) | Sender::Http2(..) => return,
        };
        driver.rest();
        let mut places = self.shard.places();
        let place = places.entry(self.target).or_default();
        if self.link.slots.are_wanted() {
            // Where somebody of another worker waits, closing it makes room for a new
            // one: always where nobody waits here, and else every other time.
            let here = Arc::strong_count(&place.freed) - 1;
            place.gives_way = !place.gives_way && self.link.slots.waiting() > here;
            if here == 0 || place.gives_way {
                return;
            }
            place.freed.notify_one();
        }
        let idle = &mut place.idle;
        if let Some(first) = idle.first()
            && (idle.len() >= MAX_IDLE || first.since.elapsed() >= self.idle_timeout)
        {
            idle.remove(0);
        }
        idle.push(Idle {
            sender,
            driver,
            since: Instant::now(),
            idle_timeout: self.idle_timeout,
            link: self.link,
        });
    }

    /// Ends a connection of its own at once, whatever is still being sent on it.
    /// A stream of a shared one is reset when its bodies are dropped.
    pub fn close(self) {
        if let Sender::Http1(_, driver) = self.sender {
            driver.close();
        }
    }

    /// Takes a connection that does not take requests any more out of the pool.
    pub fn retire(self) {
        if let Sender::Http2(_, Stream(streams)) = &self.sender
            && let Some(place) = self.shard.places().get_mut(&self.target)
        {
            place
                .shared
                .retain(|shared| !Arc::ptr_eq(&shared.streams, streams));
        }
    }
}

impl<B> std::fmt::Debug for PoolShard<B> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PoolShard").finish_non_exhaustive()
    }
}

impl<B> std::fmt::Debug for Lease<B> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Lease")
            .field("target", &self.target)
            .field("reused", &self.reused)
            .finish_non_exhaustive()
    }
}
