//! `CallerConnections`: the open connections of each caller.
//!
//! A caller that already has its share of `[limits] connections` can open another
//! connection only if one of its connections ends. The gateway then closes the oldest
//! connection of this caller that has no request.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::in_flight::InFlightRequests;
use crate::identity::{ShareKey, ShareMap};
use crate::policy::Denial;
use crate::policy::share::{CallerLimit, NoPlace, Place, PlaceLimits, Places};

/// How long a new connection waits until another connection of the same caller has closed.
const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// Maximum number of new connections of one caller that wait at the same time.
const MAX_WAITING: usize = 16;

/// All connections after their handshake, by caller.
#[derive(Debug, Default)]
pub struct CallerConnections {
    places: Arc<Places>,
    open: Mutex<ShareMap<BTreeMap<u64, OpenConnection>>>,
    next_id: AtomicU64,
}

/// An open connection of a caller.
#[derive(Debug)]
struct OpenConnection {
    in_flight: Arc<InFlightRequests>,
    yielding: Arc<YieldSignal>,
}

/// Asks a connection to close because its caller opens another one.
#[derive(Debug, Default)]
pub(crate) struct YieldSignal {
    is_set: AtomicBool,
    notify: Notify,
}

impl YieldSignal {
    /// Resolves when the connection is asked to close.
    pub(crate) async fn asked(&self) {
        self.notify.notified().await;
    }

    /// Asks the connection to close. Returns false if it was asked before.
    fn ask(&self) -> bool {
        let is_first = !self.is_set.swap(true, Ordering::Relaxed);
        if is_first {
            // The notification is stored if the connection does not wait for it yet.
            self.notify.notify_one();
        }
        is_first
    }
}

/// Counts a connection for its caller until this value is dropped.
#[derive(Debug)]
pub(crate) struct CallerConnection {
    all: Arc<CallerConnections>,
    key: ShareKey,
    id: u64,
    _place: Place,
}

impl CallerConnections {
    /// Counts a new connection for its caller.
    ///
    /// # Errors
    /// If the caller has reached its limit, and no idle connection of it closes in time.
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

    /// Asks the caller's oldest connection without requests to close. Returns whether
    /// there is such a connection.
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
