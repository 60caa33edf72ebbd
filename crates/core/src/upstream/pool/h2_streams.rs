//! `Streams`: counts the streams of an h2 connection, and remembers which callers have used the
//! connection.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::local_waiters::LocalWaiters;
use crate::identity::ShareKey;
use crate::upstream::config::MAX_STREAMS;
use crate::upstream::config::target::Target;
use crate::upstream::connection::http2::{Client, ConnectionState};
use crate::upstream::limits::connection_limit::{ConnectionLimit, InUse};
use crate::upstream::limits::preemption::PreemptionSignal;

/// The open streams of one connection, and the values that are needed to release the connection
/// after its last stream.
pub(super) struct Streams {
    now: Mutex<OpenStreams>,
    target: Arc<Target>,
    limit: Arc<ConnectionLimit>,
    waiters: Arc<LocalWaiters>,
    state: Arc<ConnectionState>,
}

struct OpenStreams {
    count: usize,
    /// Counts the connection as in use by its caller. `None` while the connection has no streams.
    in_use: Option<InUse>,
    /// The time when the connection's last stream ended. Meaningful only if `count` is zero.
    unused_since: Instant,
    /// The callers whose requests could make the service end the connection, at most the last
    /// [`MAX_SUSPECTS`]. There are several only if callers share connections. When a stream begins,
    /// the list is cleared if the connection has no other stream and is unspent
    /// (`ConnectionState::is_unspent`).
    callers: VecDeque<ShareKey>,
}

/// Maximum number of callers that are remembered for one connection. It is the number of callers
/// that can have a stream on the connection at the same time.
const MAX_SUSPECTS: usize = MAX_STREAMS;

impl Streams {
    pub(super) fn new(
        client: &Client,
        target: &Arc<Target>,
        limit: &Arc<ConnectionLimit>,
        waiters: &Arc<LocalWaiters>,
    ) -> Self {
        Self {
            now: Mutex::new(OpenStreams {
                count: 0,
                in_use: None,
                unused_since: Instant::now(),
                callers: VecDeque::new(),
            }),
            target: Arc::clone(target),
            limit: Arc::clone(limit),
            waiters: Arc::clone(waiters),
            state: Arc::clone(client.state()),
        }
    }

    fn now(&self) -> MutexGuard<'_, OpenStreams> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open(&self) -> usize {
        self.now().count
    }

    /// Returns the callers whose requests may be the cause if the service ends the connection with
    /// an error.
    pub(super) fn suspects(&self) -> VecDeque<ShareKey> {
        self.now().callers.clone()
    }

    /// Whether `condition` is true for at least one of the callers that [`Self::suspects`] returns.
    pub(super) fn any_suspect(&self, condition: impl Fn(ShareKey) -> bool) -> bool {
        self.now().callers.iter().copied().any(condition)
    }

    /// Returns the time since which the connection has had no streams. Returns `None` if the
    /// connection has a stream.
    pub(super) fn unused_since(&self) -> Option<Instant> {
        let now = self.now();
        (now.count == 0).then_some(now.unused_since)
    }
}

/// Counts one stream of a connection until this value is dropped.
pub(super) struct Stream {
    pub(super) streams: Arc<Streams>,
    /// Signals that the stream's request must end, because another caller needs the connection's
    /// slot.
    pub(super) preemption: Option<Arc<PreemptionSignal>>,
}

impl Stream {
    /// Counts a new stream of the caller `key`.
    pub(super) fn begin(streams: &Arc<Streams>, key: ShareKey) -> Self {
        let mut now = streams.now();
        // Earlier callers stay in the list as long as their requests could make the service end the
        // connection.
        if now.count == 0 && streams.state.is_unspent() {
            now.callers.clear();
        }
        if !now.callers.contains(&key) {
            if now.callers.len() == MAX_SUSPECTS {
                now.callers.pop_front();
            }
            now.callers.push_back(key);
        }
        now.count += 1;
        let in_use = (now.in_use).get_or_insert_with(|| streams.limit.begin_use(key));
        Self {
            preemption: in_use.preemption(),
            streams: Arc::clone(streams),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let ended = {
            let mut now = self.streams.now();
            now.count = now.count.saturating_sub(1);
            if now.count > 0 {
                return;
            }
            now.unused_since = Instant::now();
            now.in_use.take()
        };
        drop(ended);
        let Streams {
            limit,
            waiters,
            state,
            target,
            ..
        } = &*self.streams;
        // This code first removes the stream from the count, and then checks for waiting requests.
        // A request that begins to wait first counts itself as waiting, and then checks the
        // streams. Therefore this code sees the waiting request, or the request sees the free
        // connection.
        if !limit.has_waiters() {
            return;
        }
        // A waiting request of this worker takes the connection under two conditions. All waiting
        // requests belong to this worker, and nothing that was sent on this connection could make
        // the service end it. Otherwise an idle connection is closed, and its slot goes to the next
        // waiting request.
        if state.is_unspent() && waiters.waiting() == limit.waiting() {
            waiters.notify.notify_one();
        } else {
            limit.close_idle(target);
        }
    }
}
