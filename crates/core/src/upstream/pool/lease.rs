//! `Lease`: a connection that a request uses.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::client::conn::{http1, http2};

use super::h2_streams::Stream;
use super::shard::PoolShard;
use super::target_pool::{ConnectionMeta, IdleHttp1};
use crate::upstream::balance::{InProgress, Upstream};
use crate::upstream::config::target::{HttpProtocol, Target};
use crate::upstream::connection::body::UpstreamBody;
use crate::upstream::connection::dedicated_h2::DedicatedTasks;
use crate::upstream::connection::error::SendError;
use crate::upstream::connection::http1::Driver;
use crate::upstream::connection::http2::Client;
use crate::upstream::limits::connection_limit::InUse;
use crate::upstream::limits::preemption::PreemptionSignal;

/// Maximum number of idle HTTP/1.1 connections to one endpoint in one worker's pool.
const MAX_IDLE: usize = 64;

/// A connection in use. After the bodies of the request and the response have ended,
/// [`Lease::release`] returns the connection to the pool. [`Lease::close`] closes it.
pub struct Lease<B> {
    pub(super) sender: Sender<B>,
    pub(super) target: Arc<Target>,
    pub(super) index: usize,
    pub(super) idle_timeout: Duration,
    pub(super) meta: ConnectionMeta,
    pub(super) reused: bool,
    /// If true, the connection is closed after this request and not used again.
    pub(super) last: bool,
    pub(super) shard: Arc<PoolShard<B>>,
    /// Counts the request as in progress at the endpoint until the lease is dropped.
    pub(super) _in_progress: Option<InProgress>,
}

pub(super) enum Sender<B> {
    Http1(http1::SendRequest<B>, Driver, InUse),
    Http2(Client, Stream),
    /// A dedicated h2 connection, which carries one tunnel.
    Dedicated(http2::SendRequest<B>, DedicatedTasks, InUse),
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Sends a request and waits for the head of its response. For each interim response before
    /// that head, calls `on_interim` with the status.
    ///
    /// # Errors
    /// Returns an error if there is no response. The error contains the request if no byte of it
    /// was sent.
    pub async fn send(
        &mut self,
        mut request: Request<B>,
        on_interim: Option<impl Fn(StatusCode) + Clone + Send + Sync + 'static>,
    ) -> Result<Response<UpstreamBody>, SendError<B>> {
        let has_listener = on_interim.is_some();
        let tell = move |status| {
            if let Some(tell) = &on_interim {
                tell(status);
            }
        };
        if has_listener && !matches!(self.sender, Sender::Http2(..)) {
            let tell = tell.clone();
            hyper::ext::on_informational(&mut request, move |interim| tell(interim.status()));
        }
        let answer = match &mut self.sender {
            Sender::Http1(sender, driver, _) => {
                driver.awaits_response();
                let mut sending = pin!(sender.try_send_request(request));
                let answer = poll_fn(|context| {
                    driver.drive(context);
                    sending.as_mut().poll(context)
                })
                .await;
                driver.has_response();
                answer
            }
            Sender::Http2(client, _) => {
                let answer = client.send(request, tell).await?;
                return Ok(answer.map(UpstreamBody::from));
            }
            Sender::Dedicated(sender, ..) => sender.try_send_request(request).await,
        };
        Ok(answer?.map(UpstreamBody::from))
    }
}

impl<B> Lease<B> {
    /// Whether the connection has served a request before. While such a connection was idle, the
    /// service may have closed it.
    #[must_use]
    pub const fn is_reused(&self) -> bool {
        self.reused
    }

    /// Returns the signal that asks the request to end, because another caller needs the
    /// connection's slot. Returns `None` if the connection never has to give up its slot.
    #[must_use]
    pub fn preemption(&self) -> Option<Arc<PreemptionSignal>> {
        match &self.sender {
            Sender::Http1(.., in_use) | Sender::Dedicated(.., in_use) => in_use.preemption(),
            Sender::Http2(_, stream) => stream.preemption.clone(),
        }
    }

    /// Returns the error with which the service has ended an h2 connection, and the likely cause of
    /// this error. Returns `None` if there was no such error.
    #[must_use]
    pub fn ended_with(&self) -> Option<(h2::Reason, Option<&'static str>)> {
        match &self.sender {
            Sender::Http2(client, _) => client.state().ended_with(),
            Sender::Http1(..) | Sender::Dedicated(..) => None,
        }
    }

    /// Returns the index of the endpoint in the upstream's list of endpoints.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Drives the connection if no separate task drives it. Must be called before the response's
    /// body is polled, in the same task. Returns false if a separate task drives the connection.
    pub fn drive(&mut self, context: &mut Context<'_>) -> bool {
        match &mut self.sender {
            Sender::Http1(_, driver, _) if !driver.has_task() => {
                driver.drive(context);
                true
            }
            _ => false,
        }
    }

    /// Spawns a task that drives the connection, so that it makes progress even if the response's
    /// body is not polled.
    pub fn detach(&mut self) {
        if let Sender::Http1(_, driver, _) = &mut self.sender {
            driver.detach();
        }
    }

    /// Closes a connection that a tunnel has used. Over h2, the remaining data is sent first, for
    /// at most `timeout`.
    pub fn close_gracefully(self, timeout: Duration) {
        if let Sender::Dedicated(sender, tasks, _) = self.sender {
            // Without its sender, the connection ends after the remaining data is sent.
            drop(sender);
            tasks.close_gracefully(timeout);
        }
    }

    /// Closes the connection after this request, so that no other request uses it. Has no effect on
    /// an h2 connection in the pool, which other requests may use.
    pub const fn mark_last(&mut self) {
        self.last = true;
    }

    /// Returns an HTTP/1.1 connection to the pool, if another request can use it.
    pub fn release(self) {
        let (sender, mut driver) = match self.sender {
            Sender::Http1(sender, driver, _)
                if !sender.is_closed()
                    && !self.last
                    && self.target.protocol == HttpProtocol::Http1 =>
            {
                (sender, driver)
            }
            // An HTTP/1.1 connection that is closed or must not be used again is dropped. An h2
            // connection never left the pool. A dedicated connection serves only one request.
            Sender::Http1(..) | Sender::Http2(..) | Sender::Dedicated(..) => return,
        };
        driver.become_idle();
        let mut targets = self.shard.targets();
        let pool = targets.entry(self.target).or_default();
        if self.meta.limit.has_waiters() {
            // If requests of other workers wait, the connection is closed here, which gives its
            // slot to one of them. If requests of this worker wait too, only every second
            // connection is closed.
            let here = pool.waiters.waiting();
            pool.yielded_last = !pool.yielded_last && self.meta.limit.waiting() > here;
            if here == 0 || pool.yielded_last {
                return;
            }
            pool.waiters.notify.notify_one();
        }
        let idle = &mut pool.idle;
        if let Some(first) = idle.first()
            && (idle.len() >= MAX_IDLE || first.since.elapsed() >= self.idle_timeout)
        {
            idle.remove(0);
        }
        idle.push(IdleHttp1 {
            sender,
            driver,
            since: Instant::now(),
            idle_timeout: self.idle_timeout,
            meta: self.meta,
        });
    }

    /// Closes an HTTP/1.1 connection immediately, even while data is being sent on it. An h2
    /// connection stays open: its stream is reset when the bodies of the request and the response
    /// are dropped.
    pub fn close(self) {
        if let Sender::Http1(_, driver, _) = self.sender {
            driver.close();
        }
    }

    /// Removes an h2 connection from the pool, because it does not accept requests any more.
    pub fn retire(self) {
        if let Sender::Http2(_, Stream { streams, .. }) = &self.sender
            && let Some(pool) = self.shard.targets().get_mut(&self.target)
        {
            pool.retire(streams);
        }
    }
}

impl<B> PoolShard<B> {
    /// Creates the lease of a connection for one request.
    pub(super) fn wrap(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        index: usize,
        target: &Arc<Target>,
        sender: Sender<B>,
        meta: ConnectionMeta,
        reused: bool,
    ) -> Lease<B> {
        Lease {
            sender,
            target: Arc::clone(target),
            index,
            idle_timeout: upstream.config().idle_timeout,
            meta,
            reused,
            last: false,
            shard: Arc::clone(self),
            _in_progress: upstream.begin(index),
        }
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
