//! Pooled connections to endpoints, one shard per worker.
//!
//! A shard belongs to one worker, so its locks are never contended. An HTTP/1.1
//! connection is out of the pool while a request uses it and comes back when the
//! response has been read to its end; an h2 connection stays in it and is
//! shared. Connections outlive a reload where address, protocol and TLS
//! expectations stay the same.

mod kept;
mod lease;
mod own;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http_body::Body;

use self::kept::{Idle, Link, Place, Shared, Stream};
pub use self::lease::Lease;
use self::lease::Sender;
use super::addresses::Addresses;
use super::balance::{Target, Tried};
use super::connect::{ConnectError, Opened, connect};
use super::descriptors::{self, Reserve};
use super::slots::{Holder, Slot, Slots};
use super::{Affinity, HttpProtocol, Upstream};

/// Requests in progress on one h2 connection before another one is opened. A
/// service that allows fewer makes the others wait (RFC 9113 section 5.1.2
/// recommends to allow at least this many).
const MAX_STREAMS: usize = 100;

/// Worn connections to one target, of one worker, beside which another one is opened even
/// where there is no slot for it. They hold theirs until their last request is over, and a
/// caller that wears them out could see to it that there is one.
const MAX_WORN: usize = 4;

/// The pool of one worker; `B` is the type of request bodies.
pub struct PoolShard<B> {
    places: Mutex<HashMap<Arc<Target>, Place<B>>>,
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

impl<B: Send + 'static> Reserve for PoolShard<B> {
    fn close_idle(&self) -> bool {
        let mut places = self.places();
        places.values_mut().any(|place| {
            if !place.idle.is_empty() {
                place.idle.remove(0);
                return true;
            }
            let unused = place.shared.iter().position(Shared::is_unused);
            unused
                .map(|index| place.shared.swap_remove(index))
                .is_some()
        })
    }
}

impl<B: Send + 'static> Holder for PoolShard<B> {
    fn let_go(&self, target: &Target, slots: &Slots) -> bool {
        // Connections to one target may have their slots from elsewhere: another
        // upstream, or the same one before its bound was changed.
        let is_of = |link: &Link| std::ptr::eq(Arc::as_ptr(&link.slots), slots);
        self.places().get_mut(target).is_some_and(|place| {
            // The one that was unused for longest, or one without a request on it.
            if let Some(index) = place.idle.iter().position(|idle| is_of(&idle.link)) {
                place.idle.remove(index);
                return true;
            }
            let mut shared = place.shared.iter();
            let gives_way =
                shared.position(|one| one.has_slot && is_of(&one.link) && one.is_unused());
            gives_way
                .map(|index| place.shared.swap_remove(index))
                .is_some()
        })
    }
}

/// A look round the endpoints of an upstream for a connection.
struct Search {
    tried: Tried,
    /// The first that has no room, where one can be waited for.
    full: Option<usize>,
    /// Why there was none at the last of the others.
    last: ConnectError,
}

impl Search {
    const fn beside(tried: Tried) -> Self {
        Self {
            tried,
            full: None,
            last: ConnectError::NoEndpoint,
        }
    }

    /// There is no connection to this endpoint. Whether it carries tunnels says nothing
    /// of how well it is, and is remembered elsewhere.
    fn pass_over(&mut self, upstream: &Upstream, index: usize, error: ConnectError) {
        if !matches!(error, ConnectError::NoTunnels) {
            self.tried.note(index);
        }
        match error {
            // No endpoint is to blame, and none could be connected to.
            ConnectError::NoDescriptor => self.last = error,
            ConnectError::Full => {
                self.full.get_or_insert(index);
            }
            // The failure of one that may carry them weighs more.
            ConnectError::NoTunnels if !matches!(self.last, ConnectError::NoEndpoint) => {}
            ConnectError::NoTunnels => self.last = error,
            error => {
                tracing::warn!(upstream = upstream.name(), endpoint = index, %error,
                    "no connection to the endpoint");
                upstream.failed(index);
                self.last = error;
            }
        }
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
        affinity: Affinity<'_>,
        (fresh, avoid): (bool, Option<usize>),
    ) -> Result<Lease<B>, ConnectError> {
        let mut search = Search::beside(Tried::avoiding(avoid, upstream));
        while let Some(index) = upstream.pick(affinity, &search.tried) {
            match self.lease_at(upstream, index, fresh).await {
                Ok(lease) => return Ok(lease),
                Err(error) => search.pass_over(upstream, index, error),
            }
        }
        match search.full {
            Some(index) => Box::pin(self.wait_at(upstream, index)).await,
            None => Err(search.last),
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
                let takes_more =
                    |shared: &Shared<B>| !shared.is_worn() && shared.streams.open() < MAX_STREAMS;
                if let Some(lease) = self.share(upstream, index, target, takes_more) {
                    return Ok(lease);
                }
                let opening = Box::pin(async {
                    let opening =
                        Arc::clone(&self.places().entry(Arc::clone(target)).or_default().opening);
                    let _turn = opening.lock().await;
                    if let Some(lease) = self.share(upstream, index, target, takes_more) {
                        return Ok(lease);
                    }
                    let slot = self.slot(upstream, index).ok();
                    // Without a slot the connections there are have to do. They are other
                    // workers' where there are none here, and may have streams for ever: one
                    // is opened all the same.
                    if slot.is_none()
                        && let Some(lease) = self.share_full(upstream, index, target)
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

    /// A stream of an h2 connection that has as many as it should; of a worn one only
    /// where there are enough of these.
    fn share_full(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        target: &Arc<Target>,
    ) -> Option<Lease<B>> {
        if let Some(lease) = self.share(upstream, index, target, |shared| !shared.is_worn()) {
            return Some(lease);
        }
        let worn = {
            let places = self.places();
            let shared = places.get(target).map(|place| place.shared.iter());
            shared.map_or(0, |shared| shared.filter(|one| one.is_worn()).count())
        };
        if worn < MAX_WORN {
            return None;
        }
        self.share(upstream, index, target, |_| true)
    }

    /// A stream of an h2 connection that is there and `suits`.
    fn share(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        target: &Arc<Target>,
        suits: impl Fn(&Shared<B>) -> bool,
    ) -> Option<Lease<B>> {
        let (addresses, _) = upstream.place(index)?;
        let mut places = self.places();
        let shared = &mut places.get_mut(target)?.shared;
        shared.retain(|shared| {
            shared.is_usable()
                && (addresses.still_has(shared.link.address) || shared.streams.open() > 0)
        });
        let found = shared
            .iter()
            .filter(|shared| addresses.still_has(shared.link.address))
            .find(|shared| suits(shared))?;
        let stream = Stream::begin(&found.streams, target, &found.link.slots);
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
        descriptors::register(Arc::downgrade(&(Arc::clone(self) as Arc<dyn Reserve>)));
        let has_slot = slot.is_some();
        let connected = connect(addresses, upstream.config(), slot).await?;
        let link = Link {
            good_until: connected.good_until,
            address: connected.address,
            slots: Arc::clone(slots),
        };
        let sender = match connected.opened {
            Opened::Http1(sender, driver) => Sender::Http1(sender, driver),
            Opened::Http2(sender, ()) => {
                let streams = Arc::default();
                let stream = Stream::begin(&streams, target, slots);
                let mut places = self.places();
                let place = places.entry(Arc::clone(target)).or_default();
                place.shared.push(Shared {
                    sender: sender.clone(),
                    streams,
                    idle_timeout: upstream.config().idle_timeout,
                    link: link.clone(),
                    has_slot,
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
            last: false,
            shard: Arc::clone(self),
            _in_progress: upstream.begin(index),
        }
    }
}

impl<B> std::fmt::Debug for PoolShard<B> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PoolShard").finish_non_exhaustive()
    }
}
