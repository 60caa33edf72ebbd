//! Connections that a tunnel has for itself.

use std::sync::Arc;

use http_body::Body;

use super::kept::Link;
use super::lease::{Lease, Sender};
use super::{PoolShard, Search};
use crate::upstream::balance::Tried;
use crate::upstream::connect::{ConnectError, Opened, connect_own};
use crate::upstream::slots::Holder;
use crate::upstream::{Affinity, HttpProtocol, Upstream};

impl<B> PoolShard<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
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
            match self.own_at(upstream, index, protocol, false).await {
                Ok(lease) => return Ok(lease),
                Err(error) => search.pass_over(upstream, index, error),
            }
        }
        match search.full {
            Some(index) => {
                let _pending = upstream.wait().ok_or(ConnectError::Full)?;
                self.own_at(upstream, index, protocol, true).await
            }
            None => Err(search.last),
        }
    }

    /// One to this endpoint, which `may_wait` for another one to end.
    async fn own_at(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        protocol: HttpProtocol,
        may_wait: bool,
    ) -> Result<Lease<B>, ConnectError> {
        let target = upstream.target(index).ok_or(ConnectError::NoEndpoint)?;
        let (addresses, _) = upstream.place(index).ok_or(ConnectError::NoEndpoint)?;
        let slots = upstream.slots(index).ok_or(ConnectError::NoEndpoint)?;
        slots.register(Arc::downgrade(&(Arc::clone(self) as Arc<dyn Holder>)));
        let timeout = upstream.config().connect_timeout;
        let opening = async {
            let slot = match slots.take() {
                Some(slot) => slot,
                None if may_wait => slots.wait(target).await.ok_or(ConnectError::Full)?,
                None => return Err(ConnectError::Full),
            };
            connect_own(addresses, upstream.config(), protocol, slot).await
        };
        let connected = match tokio::time::timeout(timeout, opening).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => {
                if matches!(error, ConnectError::NoTunnels) {
                    upstream.note_no_tunnels(index);
                }
                return Err(error);
            }
            Err(_) if may_wait => return Err(ConnectError::Full),
            Err(_) => return Err(ConnectError::Timeout(timeout)),
        };
        let link = Link {
            good_until: connected.good_until,
            address: connected.address,
            slots: Arc::clone(slots),
        };
        let sender = match connected.opened {
            Opened::Http1(sender, driver) => Sender::Http1(sender, driver),
            Opened::Http2(sender, own) => Sender::Own(sender, own),
        };
        Ok(self.wrap(upstream, index, target, sender, link, false))
    }
}
