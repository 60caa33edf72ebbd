//! `CallerConnections`: counts the open connections of each caller.
//!
//! A caller that has used up its share of `[limits] connections` can open a new connection only if
//! one of its connections ends. Of the caller's connections without requests in progress, the
//! gateway therefore closes the oldest.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::in_flight::InFlightRequests;
use crate::identity::{ShareKey, ShareMap};
use crate::policy::Denial;
use crate::policy::share::{CallerLimit, NoPlace, Place, PlaceLimits, Places};

/// Maximum time that a new connection waits until another connection of the same caller has closed.
const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// Maximum number of new connections of one caller that wait at the same time.
const MAX_WAITING: usize = 16;

/// All connections that have completed their handshake, grouped by caller.
#[derive(Debug, Default)]
pub struct CallerConnections {
    places: Arc<Places>,
    open: Mutex<ShareMap<BTreeMap<u64, OpenConnection>>>,
    next_id: AtomicU64,
}

/// An open connection and the signal that asks it to close.
#[derive(Debug)]
struct OpenConnection {
    in_flight: Arc<InFlightRequests>,
    yielding: Arc<YieldSignal>,
}

/// Asks a connection to close because its caller opens a new connection.
#[derive(Debug, Default)]
pub(crate) struct YieldSignal {
    is_set: AtomicBool,
    notify: Notify,
}

impl YieldSignal {
    /// Resolves when the connection was asked to close.
    pub(crate) async fn asked(&self) {
        self.notify.notified().await;
    }

    /// Asks the connection to close. Returns `false` if the connection was asked before.
    fn ask(&self) -> bool {
        let is_first = !self.is_set.swap(true, Ordering::Relaxed);
        if is_first {
            // If the connection does not wait in `asked` yet, `notify_one` stores the notification.
            self.notify.notify_one();
        }
        is_first
    }
}

/// Counts a connection in its caller's limit until this value is dropped.
#[derive(Debug)]
pub(crate) struct CallerConnection {
    all: Arc<CallerConnections>,
    key: ShareKey,
    id: u64,
    _place: Place,
}

impl CallerConnections {
    /// Counts a new connection in its caller's limit.
    ///
    /// # Errors
    /// Returns a denial if the caller has reached its limit, and none of the caller's idle
    /// connections closes within [`CLOSE_WAIT`].
    pub(crate) async fn admit(
        self: &Arc<Self>,
        key: ShareKey,
        limits: PlaceLimits,
        in_flight: &Arc<InFlightRequests>,
        yielding: &Arc<YieldSignal>,
    ) -> Result<CallerConnection, Denial> {
        let mut entered = self.places.enter(key, limits);
        if entered.is_err() && self.close_idle(key) {
            let waiting = self
                .places
                .enter_within(key, limits, CLOSE_WAIT, MAX_WAITING);
            entered = waiting.await;
        }
        let place = entered.map_err(|refused| {
            Denial::caller_limit(
                CallerLimit::Connections,
                match refused {
                    NoPlace::Caller => "this caller has its share of the connections",
                    NoPlace::Full => "all connections are in use",
                },
            )
        })?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let connection = OpenConnection {
            in_flight: Arc::clone(in_flight),
            yielding: Arc::clone(yielding),
        };
        self.open().entry(key).or_default().insert(id, connection);
        Ok(CallerConnection {
            all: Arc::clone(self),
            key,
            id,
            _place: place,
        })
    }

    /// Asks one connection of the caller to close: the oldest that has no requests in progress and
    /// was not asked before. Returns whether there is such a connection.
    fn close_idle(&self, key: ShareKey) -> bool {
        let open = self.open();
        let mut connections = open.get(&key).into_iter().flat_map(BTreeMap::values);
        connections.any(|connection| connection.in_flight.is_empty() && connection.yielding.ask())
    }

    fn open(&self) -> MutexGuard<'_, ShareMap<BTreeMap<u64, OpenConnection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CallerConnection {
    fn drop(&mut self) {
        let mut open = self.all.open();
        if let Some(connections) = open.get_mut(&self.key) {
            connections.remove(&self.id);
            if connections.is_empty() {
                open.remove(&self.key);
            }
        }
    }
}
