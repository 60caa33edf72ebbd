//! Dedicated connections: each carries one tunnel and nothing else.

use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;

use super::lease::{Lease, Sender};
use super::search::Search;
use super::shard::PoolShard;
use super::target_pool::ConnectionMeta;
use crate::identity::ShareKey;
use crate::upstream::balance::{Affinity, Tried, Upstream};
use crate::upstream::config::target::HttpProtocol;
use crate::upstream::connection::connect::{OpenedDedicated, connect_dedicated};
use crate::upstream::connection::error::ConnectError;
use crate::upstream::limits::connection_limit::IdleHolder;

/// The kind of dedicated connection that a request needs.
#[derive(Clone, Copy)]
struct Wanted {
    protocol: HttpProtocol,
    /// The key of the caller for which the connection is counted.
    key: ShareKey,
    /// Whether the request may wait for a slot until another connection is closed.
    may_wait: bool,
}

impl<B> PoolShard<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Opens a connection to one of the upstream's endpoints, in `protocol`, for one tunnel. The
    /// connection never enters the pool. Over h2, the service must have announced extended CONNECT.
    ///
    /// # Errors
    /// Returns [`ConnectError::NoTunnels`] if no endpoint announces extended CONNECT, and another
    /// error if no connection could be opened for another reason.
    pub async fn lease_dedicated(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        affinity: Affinity<'_>,
        protocol: HttpProtocol,
    ) -> Result<Lease<B>, ConnectError> {
        let in_h2 = protocol == HttpProtocol::Http2;
        let wanted = Wanted {
            protocol,
            key: affinity.share.unwrap_or(ShareKey::EVERYBODY),
            may_wait: false,
        };
        let mut search = Search::new(Tried::default());
        if in_h2 && upstream.has_endpoint_without_tunnels() {
            search.last = ConnectError::NoTunnels;
        }
        // An endpoint without tunnels does not count as an attempt, but `note_no_tunnels` excludes
        // it from later rounds. Therefore one round for each endpoint is enough.
        for _ in 0..upstream.config().endpoints.len() {
            let picked = match in_h2 {
                true => upstream.pick_for_tunnel(affinity, &search.tried),
                false => upstream.pick(affinity, &search.tried),
            };
            let Some(index) = picked else { break };
            match self.dedicated_at(upstream, index, wanted).await {
                Ok(lease) => return Ok(lease),
                Err(error) => search.note(upstream, index, error),
            }
        }
        match search.full {
            Some(index) => {
                let _pending = upstream.begin_waiting().ok_or(ConnectError::Full)?;
                let wanted = Wanted {
                    may_wait: true,
                    ..wanted
                };
                self.dedicated_at(upstream, index, wanted).await
            }
            None => Err(search.last),
        }
    }

    /// Opens a dedicated connection to the endpoint `index`.
    async fn dedicated_at(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        wanted: Wanted,
    ) -> Result<Lease<B>, ConnectError> {
        let target = upstream.target(index).ok_or(ConnectError::NoEndpoint)?;
        let (addresses, _) = upstream.location(index).ok_or(ConnectError::NoEndpoint)?;
        let limit = upstream
            .connection_limit(index)
            .ok_or(ConnectError::NoEndpoint)?;
        limit.register(Arc::downgrade(&(Arc::clone(self) as Arc<dyn IdleHolder>)));
        let timeout = upstream.config().connect_timeout;
        let opening = async {
            let slot = match limit.take() {
                Some(slot) => slot,
                None if wanted.may_wait => limit
                    .wait(target, wanted.key)
                    .await
                    .ok_or(ConnectError::Full)?,
                None => return Err(ConnectError::Full),
            };
            connect_dedicated(addresses, upstream.config(), wanted.protocol, slot).await
        };
        let connected = match tokio::time::timeout(timeout, opening).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => {
                if matches!(error, ConnectError::NoTunnels) {
                    upstream.note_no_tunnels(index);
                }
                return Err(error);
            }
            Err(_) if wanted.may_wait => return Err(ConnectError::Full),
            Err(_) => return Err(ConnectError::Timeout(timeout)),
        };
        let meta = ConnectionMeta {
            good_until: connected.good_until,
            address: connected.address,
            limit: Arc::clone(limit),
        };
        let in_use = limit.begin_use(wanted.key);
        let sender = match connected.opened {
            OpenedDedicated::Http1(sender, driver) => Sender::Http1(sender, driver, in_use),
            OpenedDedicated::Http2(sender, tasks) => Sender::Dedicated(sender, tasks, in_use),
        };
        Ok(self.wrap(upstream, index, target, sender, meta, false))
    }
}
