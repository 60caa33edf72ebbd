//! Gets a connection for a request: takes one from the pool, opens one, or waits for one.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;

use super::h2_streams::{Stream, Streams};
use super::lease::{Lease, Sender};
use super::search::Search;
use super::shard::PoolShard;
use super::target_pool::{ConnectionMeta, H2Connection};
use crate::identity::ShareKey;
use crate::upstream::balance::{Affinity, Tried, Upstream};
use crate::upstream::config::Sharing;
use crate::upstream::config::target::{HttpProtocol, Target};
use crate::upstream::connection::connect::{Opened, connect};
use crate::upstream::connection::error::ConnectError;
use crate::upstream::connection::http2::Client;
use crate::upstream::limits::connection_limit::{IdleHolder, Slot};
use crate::upstream::limits::descriptors::{self, IdleConnections};

/// Maximum number of slots that worn connections of one caller may occupy, for one target in one
/// worker. A connection is worn if too many of its streams were reset ([`H2Connection::is_worn`]).
/// It holds its slot until its last request has ended, and the caller can delay that end. If a
/// caller has this many worn connections and no slot is free, the caller's next request uses a worn
/// connection.
const MAX_WORN: usize = 4;

impl<B> PoolShard<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Leases a connection to one of the upstream's endpoints. Uses a connection of the pool, or
    /// opens a new connection. Over HTTP/1.1, `fresh` means that no connection of the pool may be
    /// used. If connecting to an endpoint fails, tries the next endpoint. Uses the endpoint with
    /// the index `avoid` only if there is no other endpoint.
    ///
    /// # Errors
    /// Returns an error if no connection could be leased.
    pub async fn lease(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        affinity: Affinity<'_>,
        (fresh, avoid): (bool, Option<usize>),
    ) -> Result<Lease<B>, ConnectError> {
        let key = upstream.share_key(affinity);
        let mut search = Search::new(Tried::avoiding(avoid, upstream));
        while let Some(index) = upstream.pick(affinity, &search.tried) {
            match self.lease_at(upstream, index, fresh, key).await {
                Ok(lease) => return Ok(lease),
                Err(error) => search.note(upstream, index, error),
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
                // This future is boxed. Otherwise the future of a request that uses a pooled
                // connection would become large too.
                let opening = Box::pin(self.open(upstream, index, target, Some(slot), key));
                tokio::time::timeout(timeout, opening).await
            }
            HttpProtocol::Http2 => {
                if let Some(lease) = self.own_stream(upstream, index, target, key) {
                    return Ok(lease);
                }
                let opening = Box::pin(self.stream_for(upstream, index, target, key));
                tokio::time::timeout(timeout, opening).await
            }
        }
        .map_err(|_| ConnectError::Timeout(timeout))?
    }

    /// Leases a stream of an h2 connection for this caller. Tries in this order: a connection that
    /// the caller already uses, a connection that any caller may use, a new connection.
    async fn stream_for(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        target: &Arc<Target>,
        key: ShareKey,
    ) -> Result<Lease<B>, ConnectError> {
        let opening = {
            let mut targets = self.targets();
            let pool = targets.entry(Arc::clone(target)).or_default();
            Arc::clone(pool.opening.entry(key).or_default())
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
            // No slot is free for a new connection, so the request has to use an existing
            // connection.
            if let Some(lease) = self.share_full(upstream, index, target, key) {
                return Ok(lease);
            }
            // If all callers share connections, other workers may have all connections that the
            // limit allows, and may never close them. A worker without a connection therefore opens
            // one beyond the limit.
            if upstream.config().share != Sharing::Always {
                return Err(ConnectError::Full);
            }
        }
        self.open(upstream, index, target, slot, key).await
    }

    /// Leases an idle HTTP/1.1 connection of the pool.
    async fn idle_lease(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        target: &Arc<Target>,
        key: ShareKey,
    ) -> Option<Lease<B>> {
        let (addresses, _) = upstream.location(index)?;
        while let Some(mut idle) = self.take_idle(target, addresses) {
            if idle.is_ready().await {
                let in_use = idle.meta.limit.begin_use(key);
                let sender = Sender::Http1(idle.sender, idle.driver, in_use);
                return Some(self.wrap(upstream, index, target, sender, idle.meta, true));
            }
        }
        None
    }

    /// Takes a slot for a new connection to the endpoint `index`.
    fn slot(self: &Arc<Self>, upstream: &Upstream, index: usize) -> Result<Slot, ConnectError> {
        let limit = upstream
            .connection_limit(index)
            .ok_or(ConnectError::NoEndpoint)?;
        limit.take().ok_or(ConnectError::Full)
    }

    /// Waits for at most `connect_timeout` for a connection to an endpoint that has reached its
    /// connection limit.
    async fn wait_at(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        key: ShareKey,
    ) -> Result<Lease<B>, ConnectError> {
        let target = upstream.target(index).ok_or(ConnectError::NoEndpoint)?;
        let limit = upstream
            .connection_limit(index)
            .ok_or(ConnectError::NoEndpoint)?;
        let _pending = upstream.begin_waiting().ok_or(ConnectError::Full)?;
        let waiters = Arc::clone(
            &self
                .targets()
                .entry(Arc::clone(target))
                .or_default()
                .waiters,
        );
        let waiting = async {
            loop {
                let here = waiters.begin_waiting();
                let mut back = pin!(waiters.notify.notified());
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
                    slot = limit.wait(target, key) => {
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

    /// Leases a stream of a connection that this caller already uses, if the connection accepts
    /// more streams.
    fn own_stream(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        target: &Arc<Target>,
        key: ShareKey,
    ) -> Option<Lease<B>> {
        let (addresses, _) = upstream.location(index)?;
        let mut targets = self.targets();
        let own = targets.get_mut(target)?.shared.get(&key)?;
        let takes_more = |one: &&H2Connection| {
            one.has_room() && one.is_usable() && addresses.still_has(one.meta.address)
        };
        let begun = own.iter().find(takes_more)?.begin(key);
        drop(targets);
        Some(self.wrap_stream(upstream, index, target, begun))
    }

    /// Leases a stream of a connection that any caller may use. After that, the connection belongs
    /// to the caller `key`.
    fn free_connection(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        target: &Arc<Target>,
        key: ShareKey,
    ) -> Option<Lease<B>> {
        let (addresses, _) = upstream.location(index)?;
        let mut targets = self.targets();
        let pool = targets.get_mut(target)?;
        pool.remove_closed();
        let free = pool.take_free(|one| addresses.still_has(one.meta.address))?;
        let begun = free.begin(key);
        pool.shared.entry(key).or_default().push(free);
        // Other waiting requests of the caller `key` can use this connection too.
        pool.waiters.notify.notify_waiters();
        drop(targets);
        Some(self.wrap_stream(upstream, index, target, begun))
    }

    /// Leases a stream on an existing connection, because the endpoint has reached its connection
    /// limit. A connection is worn if too many of its streams were reset
    /// ([`H2Connection::is_worn`]). A caller is troubled if the service has recently ended a
    /// connection of this caller with an error. Tries in this order:
    /// - a connection of the caller that is not worn, even if it already has `MAX_STREAMS` streams
    /// - another caller's connection, if the upstream allows sharing and neither caller is troubled
    /// - a worn connection of the caller, if the caller has at least `MAX_WORN` of them
    fn share_full(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        target: &Arc<Target>,
        key: ShareKey,
    ) -> Option<Lease<B>> {
        let (addresses, _) = upstream.location(index)?;
        let targets = self.targets();
        let pool = targets.get(target)?;
        let is_there = |one: &&H2Connection| addresses.still_has(one.meta.address);
        let own = || pool.shared.get(&key).into_iter().flatten().filter(is_there);
        let worn = own().filter(|one| one.is_worn()).count();
        let fresh = own().find(|one| !one.is_worn());
        let others = || {
            let is_troubled = |caller| pool.is_troubled(caller);
            let may = upstream.config().share == Sharing::WhenFull && !is_troubled(key);
            let untroubled = pool
                .shared
                .iter()
                .filter(|(owner, _)| may && !is_troubled(**owner));
            untroubled
                .flat_map(|(_, shared)| shared)
                .filter(is_there)
                .find(|one| one.has_room() && !one.streams.any_suspect(is_troubled))
        };
        let any = || own().next().filter(|_| worn >= MAX_WORN);
        let begun = fresh.or_else(others).or_else(any)?.begin(key);
        drop(targets);
        Some(self.wrap_stream(upstream, index, target, begun))
    }

    fn wrap_stream(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        target: &Arc<Target>,
        (client, stream, meta): (Client, Stream, ConnectionMeta),
    ) -> Lease<B> {
        let sender = Sender::Http2(client, stream);
        self.wrap(upstream, index, target, sender, meta, true)
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
        let (addresses, _) = upstream.location(index).ok_or(ConnectError::NoEndpoint)?;
        let limit = upstream
            .connection_limit(index)
            .ok_or(ConnectError::NoEndpoint)?;
        limit.register(Arc::downgrade(&(Arc::clone(self) as Arc<dyn IdleHolder>)));
        descriptors::register(Arc::downgrade(
            &(Arc::clone(self) as Arc<dyn IdleConnections>),
        ));
        let has_slot = slot.is_some();
        let connected = connect(addresses, upstream.config(), slot).await?;
        let meta = ConnectionMeta {
            good_until: connected.good_until,
            address: connected.address,
            limit: Arc::clone(limit),
        };
        let sender = match connected.opened {
            Opened::Http1(sender, driver) => Sender::Http1(sender, driver, limit.begin_use(key)),
            Opened::Http2(client) => {
                let of = Arc::clone(upstream);
                let tell = move |code, cause| of.record_goaway(index, code, cause);
                client.state().set_on_error(Box::new(tell));
                let mut targets = self.targets();
                let pool = targets.entry(Arc::clone(target)).or_default();
                let streams = Arc::new(Streams::new(&client, target, limit, &pool.waiters));
                let stream = Stream::begin(&streams, key);
                pool.shared.entry(key).or_default().push(H2Connection {
                    client: client.clone(),
                    streams,
                    idle_timeout: upstream.config().idle_timeout,
                    meta: meta.clone(),
                    has_slot,
                });
                pool.waiters.notify.notify_waiters();
                Sender::Http2(client, stream)
            }
        };
        Ok(self.wrap(upstream, index, target, sender, meta, false))
    }
}
