//! Connections that a tunnel has for itself.

use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;

use super::kept::Link;
use super::lease::{Lease, Sender};
use super::{PoolShard, Search};
use crate::identity::ShareKey;
use crate::upstream::balance::Tried;
use crate::upstream::connect::{ConnectError, OpenedOwn, connect_own};
use crate::upstream::slots::Holder;
use crate::upstream::{Affinity, HttpProtocol, Upstream};

/// A connection that is asked for.
#[derive(Clone, Copy)]
struct Wish {
    protocol: HttpProtocol,
    /// Whose share of the connections it takes.
    key: ShareKey,
    /// It may wait for another one to end.
    may_wait: bool,
}

impl<B> PoolShard<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// A new connection to one of the upstream's endpoints, in `protocol`, that is
    /// used for one request and never comes into the pool. In h2 its service has
    /// announced extended CONNECT.
    ///
    /// # Errors
    /// [`ConnectError::NoTunnels`] when none of the endpoints announces it, and when no
    /// connection can be had.
    pub async fn own(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        affinity: Affinity<'_>,
        protocol: HttpProtocol,
    ) -> Result<Lease<B>, ConnectError> {
        let in_h2 = protocol == HttpProtocol::Http2;
        let wish = Wish {
            protocol,
            key: affinity.share.unwrap_or(ShareKey::EVERYBODY),
            may_wait: false,
        };
        let mut search = Search::beside(Tried::default());
        if in_h2 && upstream.knows_of_no_tunnels() {
            search.last = ConnectError::NoTunnels;
        }
        // An endpoint without tunnels is known for one from then on and does not count as
        // an attempt. Each is asked once at most, however long that takes.
        for _ in 0..upstream.config().endpoints.len() {
            let picked = match in_h2 {
                true => upstream.pick_for_tunnel(affinity, &search.tried),
                false => upstream.pick(affinity, &search.tried),
            };
            let Some(index) = picked else { break };
            match self.own_at(upstream, index, wish).await {
                Ok(lease) => return Ok(lease),
                Err(error) => search.pass_over(upstream, index, error),
            }
        }
        match search.full {
            Some(index) => {
                let _pending = upstream.wait().ok_or(ConnectError::Full)?;
                let wish = Wish {
                    may_wait: true,
                    ..wish
                };
                self.own_at(upstream, index, wish).await
            }
            None => Err(search.last),
        }
    }

    /// One to this endpoint.
    async fn own_at(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        wish: Wish,
    ) -> Result<Lease<B>, ConnectError> {
        let target = upstream.target(index).ok_or(ConnectError::NoEndpoint)?;
        let (addresses, _) = upstream.place(index).ok_or(ConnectError::NoEndpoint)?;
        let slots = upstream.slots(index).ok_or(ConnectError::NoEndpoint)?;
        slots.register(Arc::downgrade(&(Arc::clone(self) as Arc<dyn Holder>)));
        let timeout = upstream.config().connect_timeout;
        let opening = async {
            let slot = match slots.take() {
                Some(slot) => slot,
                None if wish.may_wait => slots
                    .wait(target, wish.key)
                    .await
                    .ok_or(ConnectError::Full)?,
                None => return Err(ConnectError::Full),
            };
            connect_own(addresses, upstream.config(), wish.protocol, slot).await
        };
        let connected = match tokio::time::timeout(timeout, opening).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => {
                if matches!(error, ConnectError::NoTunnels) {
                    upstream.note_no_tunnels(index);
                }
                return Err(error);
            }
            Err(_) if wish.may_wait => return Err(ConnectError::Full),
            Err(_) => return Err(ConnectError::Timeout(timeout)),
        };
        let link = Link {
            good_until: connected.good_until,
            address: connected.address,
            slots: Arc::clone(slots),
        };
        let in_use = slots.begin_use(wish.key);
        let sender = match connected.opened {
            OpenedOwn::Http1(sender, driver) => Sender::Http1(sender, driver, in_use),
            OpenedOwn::Http2(sender, own) => Sender::Own(sender, own, in_use),
        };
        Ok(self.wrap(upstream, index, target, sender, link, false))
    }
}
