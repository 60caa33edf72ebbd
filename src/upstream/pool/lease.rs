//! `Lease`: a connection while a request uses it.

use std::error::Error as _;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};

use super::PoolShard;
use super::kept::{Idle, Link, Stream};
use crate::upstream::HttpProtocol;
use crate::upstream::balance::{InProgress, Target};
use crate::upstream::driver::Driver;
use crate::upstream::tunnel::Own;

/// Most idle HTTP/1.1 connections kept per endpoint and worker.
const MAX_IDLE: usize = 64;

/// A connection in use. Give it back with [`Lease::release`] once both bodies
/// have ended, or end it with [`Lease::close`].
pub struct Lease<B> {
    pub(super) sender: Sender<B>,
    pub(super) target: Arc<Target>,
    pub(super) index: usize,
    pub(super) idle_timeout: Duration,
    pub(super) link: Link,
    pub(super) reused: bool,
    /// No other request may use the connection after this one.
    pub(super) last: bool,
    pub(super) shard: Arc<PoolShard<B>>,
    /// Counts the request among those of its endpoint.
    pub(super) _in_progress: Option<InProgress>,
}

pub(super) enum Sender<B> {
    Http1(http1::SendRequest<B>, Driver),
    Http2(http2::SendRequest<B>, Stream),
    /// A whole connection in h2.
    Own(http2::SendRequest<B>, Own),
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
                driver.awaits_answer();
                let mut sending = pin!(sender.try_send_request(request));
                let answer = poll_fn(|context| {
                    driver.drive(context);
                    sending.as_mut().poll(context)
                })
                .await;
                driver.has_answer();
                answer
            }
            Sender::Http2(sender, stream) => {
                let sent = sender.try_send_request(request).await;
                if sent.as_ref().is_err_and(is_not_ours) {
                    stream.over();
                }
                sent
            }
            Sender::Own(sender, _) => sender.try_send_request(request).await,
        }
    }
}

/// Whether a stream ended without a reset of ours: the service did it, or the request
/// never came so far.
fn is_not_ours<T>(error: &TrySendError<T>) -> bool {
    let of_h2 = error
        .error()
        .source()
        .and_then(|source| source.downcast_ref());
    error.message().is_some() || of_h2.is_some_and(h2::Error::is_remote)
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

    /// Ends a connection that was taken over. One in h2 may still send what it has, for
    /// at most so long.
    pub fn settle(self, longest: Duration) {
        if let Sender::Own(sender, own) = self.sender {
            // It ends by itself when nobody can send requests any more.
            drop(sender);
            own.settle(longest);
        }
    }

    /// Lets no other request use the connection after this one. A shared one stays.
    pub const fn spend(&mut self) {
        self.last = true;
    }

    /// Gives the connection back to the pool.
    pub fn release(mut self) {
        if let Sender::Http2(_, stream) = &mut self.sender {
            stream.over();
        }
        let (sender, mut driver) = match self.sender {
            Sender::Http1(sender, driver)
                if !sender.is_closed()
                    && !self.last
                    && self.target.protocol == HttpProtocol::Http1 =>
            {
                (sender, driver)
            }
            // A shared connection never left (the end of its stream tells who waits), and
            // one of its own is for one request.
            Sender::Http1(..) | Sender::Http2(..) | Sender::Own(..) => return,
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
        if let Sender::Http2(_, Stream { streams, .. }) = &self.sender
            && let Some(place) = self.shard.places().get_mut(&self.target)
        {
            place
                .shared
                .retain(|shared| !Arc::ptr_eq(&shared.streams, streams));
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
