//! `TargetPool`: the connections of one worker to one target. For HTTP/1.1 it holds idle
//! connections only, for h2 all connections.

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

/// If a service ends a connection of a caller with an error, this caller shares no connections with
/// other callers for this time.
const TROUBLED_FOR: Duration = Duration::from_secs(600);

/// Maximum time that a pooled connection may take to become ready for a request.
const READY_TIMEOUT: Duration = Duration::from_millis(100);

/// An h2 connection normally gets no more requests if this number of its streams were reset before
/// their responses were complete. Services end a connection with too many resets (CVE-2023-44487).
/// The lowest known limit of a service is several hundred resets.
const MAX_RESETS: usize = 100;

/// The connections of one worker to one target.
pub(super) struct TargetPool<B> {
    pub(super) idle: Vec<IdleHttp1<B>>,
    /// The h2 connections, by the key of the caller that uses them or was the last to use them.
    pub(super) shared: ShareMap<Vec<H2Connection>>,
    /// One lock for each caller. The lock is held while an h2 connection is opened for the caller.
    /// The caller's other requests wait for this connection, instead of opening connections
    /// themselves.
    pub(super) opening: ShareMap<Arc<tokio::sync::Mutex<()>>>,
    /// The callers whose connections a service has ended with an error. The value is the time when
    /// this last happened to the caller.
    pub(super) troubled: ShareMap<Instant>,
    /// The requests of this worker that wait for a connection to this target.
    pub(super) waiters: Arc<LocalWaiters>,
    /// Whether the last returned connection was closed to give its slot to a request of another
    /// worker.
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

/// An h2 connection, with or without open streams.
pub(super) struct H2Connection {
    pub(super) client: Client,
    pub(super) streams: Arc<Streams>,
    pub(super) idle_timeout: Duration,
    pub(super) meta: ConnectionMeta,
    /// Whether the connection holds a slot of its endpoint's limit. A connection that was opened
    /// beyond the limit holds none.
    pub(super) has_slot: bool,
}

/// The properties of a connection that decide whether another request can use it.
#[derive(Clone)]
pub(super) struct ConnectionMeta {
    /// When the service's certificate expires, in seconds since the Unix epoch. `None` without TLS.
    pub(super) good_until: Option<i64>,
    pub(super) address: SocketAddr,
    /// The limit against which the connection is counted.
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
    /// Drops h2 connections that are not usable any more, and outdated entries of `troubled` and
    /// `opening`.
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

    /// Removes and returns an h2 connection that any caller may use and for which `suits` returns
    /// true.
    pub(super) fn take_free(
        &mut self,
        suits: impl Fn(&H2Connection) -> bool,
    ) -> Option<H2Connection> {
        self.take_out(|one| one.is_free() && suits(one))
    }

    /// Closes an h2 connection that has no streams and for which `suits` returns true.
    pub(super) fn close_unused(&mut self, suits: impl Fn(&H2Connection) -> bool) -> bool {
        self.take_out(|one| one.is_unused() && suits(one)).is_some()
    }

    /// Removes the connection to which `streams` belongs.
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

    /// Whether the service has ended a connection of the caller `key` with an error during the last
    /// [`TROUBLED_FOR`].
    pub(super) fn is_troubled(&self, key: ShareKey) -> bool {
        self.troubled
            .get(&key)
            .is_some_and(|since| since.elapsed() < TROUBLED_FOR)
    }
}

impl ConnectionMeta {
    /// Whether the connection's server certificate has not expired yet. Always true without TLS.
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
    /// Whether the connection accepts a request. A connection that a separate task drives may take
    /// up to `READY_TIMEOUT` to become ready. Any other connection is either ready immediately or
    /// unusable.
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
    /// If the service ended the connection with an error, returns the callers that may be the
    /// cause, each with the current time. Otherwise the iterator is empty.
    fn suspects(&self) -> impl Iterator<Item = (ShareKey, Instant)> + use<> {
        let ended = self.client.state().ended_with().is_some();
        let callers = ended.then(|| self.streams.suspects()).into_iter().flatten();
        callers.map(|caller| (caller, Instant::now()))
    }

    /// Counts a new stream of the caller `key`, and returns the values that the stream's lease
    /// needs.
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

    /// Whether any caller may use the connection. This is true if the connection has no streams,
    /// and nothing that was sent on it could make the service end it.
    pub(super) fn is_free(&self) -> bool {
        self.is_unused() && self.client.state().is_unspent()
    }

    /// Whether the connection is worn: too many of its streams were reset. A worn connection
    /// normally gets no further streams, and is closed after its last stream.
    pub(super) fn is_worn(&self) -> bool {
        self.client.state().resets() >= MAX_RESETS
    }
}
