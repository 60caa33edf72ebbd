//! `TargetPool`: the connections of one worker to one target: idle ones in HTTP/1.1, and all
//! in h2.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http_body::Body;
use hyper::client::conn::http1;

use super::h2_streams::{Stream, Streams};
use super::local_waiters::LocalWaiters;
use crate::clock;
use crate::identity::{ShareKey, ShareMap};
use crate::upstream::config::MAX_STREAMS;
use crate::upstream::connection::http1::Driver;
use crate::upstream::connection::http2::Client;
use crate::upstream::limits::connection_limit::ConnectionLimit;

/// How long a caller shares no connection after one of its connections was ended with an error.
const TROUBLED_FOR: Duration = Duration::from_secs(600);

/// How long a pooled connection may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_millis(100);

/// Number of requests of one h2 connection that were reset before their response was complete,
/// after which the connection takes no more requests. A service ends a connection with too many
/// resets (CVE-2023-44487); the lowest known limit is several hundred.
const MAX_RESETS: usize = 100;

/// The connections to one target.
pub(super) struct TargetPool<B> {
    pub(super) idle: Vec<IdleHttp1<B>>,
    /// Connections in h2, by the caller that uses or last used them.
    pub(super) shared: ShareMap<Vec<H2Connection>>,
    /// Held while an h2 connection is being opened for a caller, so that further requests of
    /// the caller wait for it.
    pub(super) opening: ShareMap<Arc<tokio::sync::Mutex<()>>>,
    /// Callers whose connections were ended with an error, and when that was.
    pub(super) troubled: ShareMap<Instant>,
    /// Requests that wait for a connection to be returned.
    pub(super) waiters: Arc<LocalWaiters>,
    /// Whether the last returned connection was closed for a request of another worker.
    pub(super) yielded_last: bool,
}

/// An idle connection in HTTP/1.1.
pub(super) struct IdleHttp1<B> {
    pub(super) sender: http1::SendRequest<B>,
    pub(super) driver: Driver,
    pub(super) since: Instant,
    pub(super) idle_timeout: Duration,
    pub(super) meta: ConnectionMeta,
}

/// A connection in h2.
pub(super) struct H2Connection {
    pub(super) client: Client,
    pub(super) streams: Arc<Streams>,
    pub(super) idle_timeout: Duration,
    pub(super) meta: ConnectionMeta,
    /// Whether the connection counts against the limit of its endpoint. A connection that was
    /// opened over the limit does not.
    pub(super) has_slot: bool,
}

/// The pool's data about a connection.
#[derive(Clone)]
pub(super) struct ConnectionMeta {
    /// Until when the service's certificate is good.
    pub(super) good_until: Option<i64>,
    pub(super) address: SocketAddr,
    /// The connection limit that the connection counts against.
    pub(super) limit: Arc<ConnectionLimit>,
}

impl<B> Default for TargetPool<B> {
    fn default() -> Self {
        Self {
            idle: Vec::new(),
            shared: ShareMap::default(),
            opening: ShareMap::default(),
            troubled: ShareMap::default(),
            waiters: Arc::default(),
            yielded_last: false,
        }
    }
}

impl<B> TargetPool<B> {
    /// Drops connections in h2 that are not usable any more.
    pub(super) fn remove_closed(&mut self) {
        let troubled = &mut self.troubled;
        troubled.retain(|_, since| since.elapsed() < TROUBLED_FOR);
        self.shared.retain(|_, shared| {
            shared.retain(|one| {
                let is_usable = one.is_usable();
                if !is_usable {
                    troubled.extend(one.suspects());
                }
                is_usable
            });
            !shared.is_empty()
        });
        self.opening
            .retain(|_, opening| Arc::strong_count(opening) > 1);
    }

    /// Takes out an h2 connection that any caller may use and that `suits`.
    pub(super) fn take_free(
        &mut self,
        suits: impl Fn(&H2Connection) -> bool,
    ) -> Option<H2Connection> {
        self.take_out(|one| one.is_free() && suits(one))
    }

    /// Closes an h2 connection that has no streams and that `suits`.
    pub(super) fn close_unused(&mut self, suits: impl Fn(&H2Connection) -> bool) -> bool {
        self.take_out(|one| one.is_unused() && suits(one)).is_some()
    }

    /// Takes out the connection that these streams belong to.
    pub(super) fn retire(&mut self, streams: &Arc<Streams>) {
        let is_it = |one: &H2Connection| Arc::ptr_eq(&one.streams, streams);
        if let Some(retired) = self.take_out(is_it) {
            self.troubled.extend(retired.suspects());
        }
    }

    fn take_out(&mut self, suits: impl Fn(&H2Connection) -> bool) -> Option<H2Connection> {
        let (owner, index) = self.shared.iter().find_map(|(owner, shared)| {
            let index = shared.iter().position(&suits)?;
            Some((*owner, index))
        })?;
        let shared = self.shared.get_mut(&owner)?;
        let taken = shared.swap_remove(index);
        if shared.is_empty() {
            self.shared.remove(&owner);
        }
        Some(taken)
    }

    /// Whether a connection of this caller was recently ended with an error.
    pub(super) fn is_troubled(&self, key: ShareKey) -> bool {
        self.troubled
            .get(&key)
            .is_some_and(|since| since.elapsed() < TROUBLED_FOR)
    }
}

impl ConnectionMeta {
    /// Whether the service's certificate has not expired yet.
    pub(super) fn is_good(&self) -> bool {
        let now = || clock::certificate_now();
        self.good_until
            .is_none_or(|until| !clock::certificate_is_over(until, now()))
    }
}

impl<B> IdleHttp1<B> {
    pub(super) fn is_open(&self) -> bool {
        !self.driver.has_ended() && !self.sender.is_closed()
    }
}

impl<B: Body + Send + Unpin + 'static> IdleHttp1<B> {
    /// Whether the connection accepts a request. It was idle when it was returned, so this
    /// takes no time. If it does, something is wrong with the connection.
    pub(super) async fn is_ready(&mut self) -> bool {
        let Self { sender, driver, .. } = self;
        let has_task = driver.has_task();
        let ready = poll_fn(|context| {
            driver.drive(context);
            match sender.poll_ready(context) {
                Poll::Ready(ready) => Poll::Ready(ready.is_ok()),
                Poll::Pending if has_task => Poll::Pending,
                Poll::Pending => Poll::Ready(false),
            }
        });
        match has_task {
            false => ready.await,
            true => matches!(tokio::time::timeout(READY_TIMEOUT, ready).await, Ok(true)),
        }
    }
}

impl H2Connection {
    /// Returns the callers that may be the reason why the service ended the connection with an
    /// error, and the time; nothing if it did not.
    fn suspects(&self) -> impl Iterator<Item = (ShareKey, Instant)> + use<> {
        let ended = self.client.state().ended_with().is_some();
        let callers = ended.then(|| self.streams.suspects()).into_iter().flatten();
        callers.map(|caller| (caller, Instant::now()))
    }

    /// Begins a stream of this caller.
    pub(super) fn begin(&self, key: ShareKey) -> (Client, Stream, ConnectionMeta) {
        let stream = Stream::begin(&self.streams, key);
        (self.client.clone(), stream, self.meta.clone())
    }

    pub(super) fn is_unused(&self) -> bool {
        self.streams.open() == 0
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.client.is_closed()
            && self.meta.is_good()
            && match self.streams.unused_since() {
                None => true,
                Some(since) => !self.is_worn() && since.elapsed() < self.idle_timeout,
            }
    }

    /// Whether the connection accepts another stream now.
    pub(super) fn has_room(&self) -> bool {
        let max = MAX_STREAMS.min(self.client.max_streams());
        !self.is_worn() && self.streams.open() < max
    }

    /// Whether any caller may use the connection: it has no streams, and nothing that was sent
    /// on it so far could make the service end it.
    pub(super) fn is_free(&self) -> bool {
        self.is_unused() && self.client.state().is_unspent()
    }

    /// Whether so many of the connection's streams were reset that it gets no further ones, and
    /// is closed after its last one.
    pub(super) fn is_worn(&self) -> bool {
        self.client.state().resets() >= MAX_RESETS
    }
}
