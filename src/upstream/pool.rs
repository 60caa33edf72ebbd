//! Pooled keep-alive connections to endpoints, one shard per worker.
//!
//! A shard belongs to one worker, so its lock is never contended. A connection
//! is out of the pool while a request uses it and comes back when the response
//! has been read to its end.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Endpoint, Upstream};

/// Most idle connections kept per endpoint and worker.
const MAX_IDLE: usize = 64;
/// Most bytes of a response's head.
const MAX_RESPONSE_HEAD: usize = 64 * 1024;

/// Why no connection could be had.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The upstream has no endpoint.
    #[error("the upstream has no endpoint")]
    NoEndpoint,
    /// Connecting took longer than `connect_timeout`.
    #[error("connecting took longer than {0:?}")]
    Timeout(Duration),
    /// The endpoint refused or could not be reached.
    #[error("connecting failed: {0}")]
    Io(#[from] io::Error),
    /// The HTTP connection could not be set up.
    #[error("the connection failed at once: {0}")]
    Handshake(hyper::Error),
}

struct Idle<B> {
    sender: SendRequest<B>,
    since: Instant,
}

/// The pool of one worker; `B` is the type of request bodies.
pub struct PoolShard<B> {
    idle: Mutex<HashMap<Endpoint, Vec<Idle<B>>>>,
}

impl<B> std::fmt::Debug for PoolShard<B> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PoolShard").finish_non_exhaustive()
    }
}

/// A connection in use. Give it back with [`Lease::release`]; dropping it closes it.
pub struct Lease<B> {
    sender: SendRequest<B>,
    endpoint: Endpoint,
    idle_timeout: Duration,
    reused: bool,
    shard: Arc<PoolShard<B>>,
}

impl<B> std::fmt::Debug for Lease<B> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Lease")
            .field("endpoint", &self.endpoint)
            .field("reused", &self.reused)
            .finish_non_exhaustive()
    }
}

impl<B> Default for PoolShard<B> {
    fn default() -> Self {
        Self {
            idle: Mutex::new(HashMap::new()),
        }
    }
}

impl<B> PoolShard<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// A connection to the upstream's next endpoint: an idle one, or a new one
    /// where there is none or `fresh` is asked for.
    ///
    /// # Errors
    /// When no connection can be had within `connect_timeout`.
    pub async fn lease(
        self: &Arc<Self>,
        upstream: &Upstream,
        fresh: bool,
    ) -> Result<Lease<B>, ConnectError> {
        let endpoint = upstream.endpoint().ok_or(ConnectError::NoEndpoint)?;
        let config = upstream.config();
        if !fresh {
            while let Some(mut sender) = self.take_idle(endpoint, config.idle_timeout) {
                if sender.ready().await.is_ok() {
                    return Ok(self.wrap(sender, endpoint, config.idle_timeout, true));
                }
            }
        }
        let connecting = connect(endpoint);
        let sender = tokio::time::timeout(config.connect_timeout, connecting)
            .await
            .map_err(|_| ConnectError::Timeout(config.connect_timeout))??;
        Ok(self.wrap(sender, endpoint, config.idle_timeout, false))
    }

    fn wrap(
        self: &Arc<Self>,
        sender: SendRequest<B>,
        endpoint: &Endpoint,
        idle_timeout: Duration,
        reused: bool,
    ) -> Lease<B> {
        Lease {
            sender,
            endpoint: endpoint.clone(),
            idle_timeout,
            reused,
            shard: Arc::clone(self),
        }
    }

    fn take_idle(&self, endpoint: &Endpoint, idle_timeout: Duration) -> Option<SendRequest<B>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = idle.get_mut(endpoint)?;
        while let Some(last) = connections.pop() {
            // The most recently used comes last: once one is too old, all are.
            if last.since.elapsed() >= idle_timeout {
                connections.clear();
                return None;
            }
            if !last.sender.is_closed() {
                return Some(last.sender);
            }
        }
        None
    }
}

async fn connect<B>(endpoint: &Endpoint) -> Result<SendRequest<B>, ConnectError>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::connect((&*endpoint.host, endpoint.port)).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::Builder::new()
        .max_header_size(MAX_RESPONSE_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ConnectError::Handshake)?;
    tokio::spawn(async move {
        // Its errors reach the request that is in flight, if there is one.
        let _ = connection.await;
    });
    Ok(sender)
}

impl<B> Lease<B> {
    /// The connection's request side.
    pub const fn sender(&mut self) -> &mut SendRequest<B> {
        &mut self.sender
    }

    /// Whether the connection has served a request before, so that it may have
    /// been closed by the other side meanwhile.
    #[must_use]
    pub const fn is_reused(&self) -> bool {
        self.reused
    }

    /// Gives the connection back to the pool.
    pub fn release(self) {
        if self.sender.is_closed() {
            return;
        }
        let mut idle = self
            .shard
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let connections = idle.entry(self.endpoint).or_default();
        if let Some(first) = connections.first()
            && (connections.len() >= MAX_IDLE || first.since.elapsed() >= self.idle_timeout)
        {
            connections.remove(0);
        }
        connections.push(Idle {
            sender: self.sender,
            since: Instant::now(),
        });
    }
}
