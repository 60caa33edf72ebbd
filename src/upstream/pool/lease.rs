//! `Lease`: a connection while a request uses it.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::client::conn::{http1, http2};

use super::PoolShard;
use super::kept::{Idle, Link, Stream};
use crate::upstream::answer::AnswerBody;
use crate::upstream::balance::{InProgress, Target};
use crate::upstream::driver::Driver;
use crate::upstream::error::SendError;
use crate::upstream::http2::Client;
use crate::upstream::slots::InUse;
use crate::upstream::tunnel::Own;
use crate::upstream::{GiveWay, HttpProtocol};

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
    Http1(http1::SendRequest<B>, Driver, InUse),
    Http2(Client, Stream),
    /// A whole connection in h2.
    Own(http2::SendRequest<B>, Own, InUse),
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Sends a request and waits for the head of its answer; `on_interim` is told the
    /// status of each interim answer before it.
    ///
    /// # Errors
    /// When there is no answer. A request comes back where none of it was sent.
    pub async fn send(
        &mut self,
        mut request: Request<B>,
        on_interim: Option<impl Fn(StatusCode) + Clone + Send + Sync + 'static>,
    ) -> Result<Response<AnswerBody>, SendError<B>> {
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
            Sender::Http2(client, _) => {
                let answer = client.send(request, tell).await?;
                return Ok(answer.map(AnswerBody::from));
            }
            Sender::Own(sender, ..) => sender.try_send_request(request).await,
        };
        Ok(answer?.map(AnswerBody::from))
    }
}

impl<B> Lease<B> {
    /// Whether the connection has served a request before, so that it may have
    /// been closed by the other side meanwhile.
    #[must_use]
    pub const fn is_reused(&self) -> bool {
        self.reused
    }

    /// Tells when another caller needs the connection more than the one that has it; absent
    /// where that will not be.
    #[must_use]
    pub fn give_way(&self) -> Option<Arc<GiveWay>> {
        match &self.sender {
            Sender::Http1(.., in_use) | Sender::Own(.., in_use) => in_use.give_way(),
            Sender::Http2(_, stream) => stream.give_way.clone(),
        }
    }

    /// The error with which the service has ended the connection, and what may have been
    /// its cause, where that is known.
    #[must_use]
    pub fn ended_with(&self) -> Option<(h2::Reason, Option<&'static str>)> {
        match &self.sender {
            Sender::Http2(client, _) => client.state().ended_with(),
            Sender::Http1(..) | Sender::Own(..) => None,
        }
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
            Sender::Http1(_, driver, _) if !driver.has_task() => {
                driver.drive(context);
                true
            }
            _ => false,
        }
    }

    /// Lets the connection move by itself, whether or not the answer's body is
    /// polled.
    pub fn detach(&mut self) {
        if let Sender::Http1(_, driver, _) = &mut self.sender {
            driver.detach();
        }
    }

    /// Ends a connection that was taken over. One in h2 may still send what it has, for
    /// at most so long.
    pub fn settle(self, longest: Duration) {
        if let Sender::Own(sender, own, _) = self.sender {
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
    pub fn release(self) {
        let (sender, mut driver) = match self.sender {
            Sender::Http1(sender, driver, _)
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
            let here = place.freed.waiting();
            place.gives_way = !place.gives_way && self.link.slots.waiting() > here;
            if here == 0 || place.gives_way {
                return;
            }
            place.freed.notify.notify_one();
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
        if let Sender::Http1(_, driver, _) = self.sender {
            driver.close();
        }
    }

    /// Takes a connection that does not take requests any more out of the pool.
    pub fn retire(self) {
        if let Sender::Http2(_, Stream { streams, .. }) = &self.sender
            && let Some(place) = self.shard.places().get_mut(&self.target)
        {
            place.retire(streams);
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
