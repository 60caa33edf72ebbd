//! Pooled connections to endpoints, one shard per worker.
//!
//! A shard belongs to one worker, so its locks are never contended. An HTTP/1.1
//! connection is out of the pool while a request uses it and comes back when the
//! response has been read to its end; an h2 connection stays in it. Connections outlive a
//! reload where address, protocol and TLS expectations stay the same.
//!
//! An h2 connection carries requests of one caller at a time, unless the upstream says
//! otherwise: a service that ends a connection ends all requests on it, and one caller
//! could bring that about for others. When its last stream has ended, and nothing that was
//! sent on it counts against it, any caller may have it next; so the number of connections
//! follows the callers that are active at once.

mod kept;
mod lease;
mod own;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;

use self::kept::{Idle, Link, Place, Shared, Stream, Streams};
pub use self::lease::Lease;
use self::lease::Sender;
use super::addresses::Addresses;
use super::balance::{Target, Tried};
use super::connect::{ConnectError, Opened, connect};
use super::descriptors::{self, Reserve};
use super::http2::Client;
use super::slots::{Holder, Slot, Slots};
use super::{Affinity, HttpProtocol, Sharing, Upstream};
use crate::identity::ShareKey;

/// Requests in progress on one h2 connection before another one is opened, where the
/// service does not allow fewer (RFC 9113 section 5.1.2 recommends at least this many).
pub(super) const MAX_STREAMS: usize = 100;

/// How long a caller whose connection was ended with an error shares none.
const TROUBLED_FOR: Duration = Duration::from_secs(600);

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
            place.look();
            !place.idle.is_empty()
                || !place.shared.is_empty()
                || !place.opening.is_empty()
                || !place.troubled.is_empty()
                || place.freed.waiting() > 0
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
            place.close_unused(|_| true)
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
            place.close_unused(|one| one.has_slot && is_of(&one.link))
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
    B: Body<Data = Bytes> + Send + Unpin + 'static,
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
        let key = upstream.share_key(affinity);
        let mut search = Search::beside(Tried::avoiding(avoid, upstream));
        while let Some(index) = upstream.pick(affinity, &search.tried) {
            match self.lease_at(upstream, index, fresh, key).await {
                Ok(lease) => return Ok(lease),
                Err(error) => search.pass_over(upstream, index, error),
            }
        }
        match search.full {
            Some(index) => Box::pin(self.wait_at(upstream, index, key)).await,
            None => Err(search.last),
        }
    }

    async fn lease_at(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        fresh: bool,
        key: ShareKey,
    ) -> Result<Lease<B>, ConnectError> {
        let target = upstream.target(index).ok_or(ConnectError::NoEndpoint)?;
        let timeout = upstream.config().connect_timeout;
        match target.protocol {
            HttpProtocol::Http1 => {
                if !fresh && let Some(lease) = self.idle_lease(upstream, index, target, key).await {
                    return Ok(lease);
                }
                let slot = self.slot(upstream, index)?;
                // Boxed, so that a request on a pooled connection has no room for it.
                let opening = Box::pin(self.open(upstream, index, target, Some(slot), key));
                tokio::time::timeout(timeout, opening).await
            }
            HttpProtocol::Http2 => {
                if let Some(lease) = self.own_stream(upstream, index, target, key) {
                    return Ok(lease);
                }
                let opening = Box::pin(self.open_for(upstream, index, target, key));
                tokio::time::timeout(timeout, opening).await
            }
        }
        .map_err(|_| ConnectError::Timeout(timeout))?
    }

    /// A stream of a connection in h2 that this caller gets: one that it may have, or a
    /// new one.
    async fn open_for(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        target: &Arc<Target>,
        key: ShareKey,
    ) -> Result<Lease<B>, ConnectError> {
        let opening = {
            let mut places = self.places();
            let place = places.entry(Arc::clone(target)).or_default();
            Arc::clone(place.opening.entry(key).or_default())
        };
        let _turn = opening.lock().await;
        if let Some(lease) = self.own_stream(upstream, index, target, key) {
            return Ok(lease);
        }
        if let Some(lease) = self.free_connection(upstream, index, target, key) {
            return Ok(lease);
        }
        let slot = self.slot(upstream, index).ok();
        if slot.is_none() {
            // The connections there are have to do.
            if let Some(lease) = self.share_full(upstream, index, target, key) {
                return Ok(lease);
            }
            // Those that all callers share are other workers' where there are none here,
            // and may have streams for ever: one is opened all the same.
            if upstream.config().share != Sharing::Always {
                return Err(ConnectError::Full);
            }
        }
        self.open(upstream, index, target, slot, key).await
    }

    /// A connection of the pool that is at rest.
    async fn idle_lease(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        target: &Arc<Target>,
        key: ShareKey,
    ) -> Option<Lease<B>> {
        let (addresses, _) = upstream.place(index)?;
        while let Some(mut idle) = self.take_idle(target, addresses) {
            if idle.is_ready().await {
                let in_use = idle.link.slots.begin_use(key);
                let sender = Sender::Http1(idle.sender, idle.driver, in_use);
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

    /// Waits for a connection to an endpoint that may have no more of them, for as long as
    /// connecting may take.
    async fn wait_at(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        key: ShareKey,
    ) -> Result<Lease<B>, ConnectError> {
        let target = upstream.target(index).ok_or(ConnectError::NoEndpoint)?;
        let slots = upstream.slots(index).ok_or(ConnectError::NoEndpoint)?;
        let _pending = upstream.wait().ok_or(ConnectError::Full)?;
        let freed = Arc::clone(&self.places().entry(Arc::clone(target)).or_default().freed);
        let waiting = async {
            loop {
                let here = freed.begin_waiting();
                let mut back = pin!(freed.notify.notified());
                back.as_mut().enable();
                let lease = match target.protocol {
                    HttpProtocol::Http1 => self.idle_lease(upstream, index, target, key).await,
                    HttpProtocol::Http2 => self
                        .own_stream(upstream, index, target, key)
                        .or_else(|| self.free_connection(upstream, index, target, key)),
                };
                if let Some(lease) = lease {
                    return Ok(lease);
                }
                tokio::select! {
                    slot = slots.wait(target, key) => {
                        let slot = slot.ok_or(ConnectError::Full)?;
                        drop(here);
                        return self.open(upstream, index, target, Some(slot), key).await;
                    }
                    () = back => {}
                }
            }
        };
        tokio::time::timeout(upstream.config().connect_timeout, waiting)
            .await
            .unwrap_or(Err(ConnectError::Full))
    }

    /// A stream of a connection that the caller has, where one takes more.
    fn own_stream(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        target: &Arc<Target>,
        key: ShareKey,
    ) -> Option<Lease<B>> {
        let (addresses, _) = upstream.place(index)?;
        let mut places = self.places();
        let own = places.get_mut(target)?.shared.get(&key)?;
        let takes_more = |one: &&Shared| {
            one.has_room() && one.is_usable() && addresses.still_has(one.link.address)
        };
        let begun = own.iter().find(takes_more)?.begin(key);
        drop(places);
        Some(self.wrap_stream(upstream, index, target, begun))
    }

    /// A connection that any caller may have, where there is one: it is this caller's from
    /// now on.
    fn free_connection(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        target: &Arc<Target>,
        key: ShareKey,
    ) -> Option<Lease<B>> {
        let (addresses, _) = upstream.place(index)?;
        let mut places = self.places();
        let place = places.get_mut(target)?;
        place.look();
        let free = place.take_free(|one| addresses.still_has(one.link.address))?;
        let begun = free.begin(key);
        place.shared.entry(key).or_default().push(free);
        // Other requests of this caller that wait have no need to any more.
        place.freed.notify.notify_waiters();
        drop(places);
        Some(self.wrap_stream(upstream, index, target, begun))
    }

    /// A stream where the endpoint may have no more connections: of one that the caller
    /// has, though it has as many streams as it should, or of another caller's where the
    /// upstream allows that. Of a worn one only where there are enough of these.
    fn share_full(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        target: &Arc<Target>,
        key: ShareKey,
    ) -> Option<Lease<B>> {
        let (addresses, _) = upstream.place(index)?;
        let places = self.places();
        let place = places.get(target)?;
        let is_there = |one: &&Shared| addresses.still_has(one.link.address);
        let own = || {
            place
                .shared
                .get(&key)
                .into_iter()
                .flatten()
                .filter(is_there)
        };
        let worn = own().filter(|one| one.is_worn()).count();
        let fresh = own().find(|one| !one.is_worn());
        let others = || {
            let may = upstream.config().share == Sharing::WhenFull && !place.is_troubled(key);
            let untroubled = place
                .shared
                .iter()
                .filter(|(owner, _)| may && !place.is_troubled(**owner));
            untroubled
                .flat_map(|(_, shared)| shared)
                .filter(is_there)
                .find(|one| one.has_room())
        };
        let any = || own().next().filter(|_| worn >= MAX_WORN);
        let begun = fresh.or_else(others).or_else(any)?.begin(key);
        drop(places);
        Some(self.wrap_stream(upstream, index, target, begun))
    }

    fn wrap_stream(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        target: &Arc<Target>,
        (client, stream, link): (Client, Stream, Link),
    ) -> Lease<B> {
        let sender = Sender::Http2(client, stream);
        self.wrap(upstream, index, target, sender, link, true)
    }

    async fn open(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        target: &Arc<Target>,
        slot: Option<Slot>,
        key: ShareKey,
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
            Opened::Http1(sender, driver) => Sender::Http1(sender, driver, slots.begin_use(key)),
            Opened::Http2(client) => {
                let of = Arc::clone(upstream);
                let tell = move |code, cause| of.connection_ended(index, code, cause);
                client.state().set_on_error(Box::new(tell));
                let mut places = self.places();
                let place = places.entry(Arc::clone(target)).or_default();
                let streams = Arc::new(Streams::new(&client, target, slots, &place.freed));
                let stream = Stream::begin(&streams, key);
                place.shared.entry(key).or_default().push(Shared {
                    client: client.clone(),
                    streams,
                    idle_timeout: upstream.config().idle_timeout,
                    link: link.clone(),
                    has_slot,
                });
                place.freed.notify.notify_waiters();
                Sender::Http2(client, stream)
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
