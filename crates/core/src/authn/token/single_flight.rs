//! `SingleFlight`: concurrent requests with the same key share one query.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A query in progress. The request that holds the lock runs the query. Other requests with the
/// same key wait for the result.
type Flight<T> = tokio::sync::Mutex<Option<T>>;

/// All queries in progress, by key.
pub(crate) struct SingleFlight<K: Copy + Eq + Hash, T>(Mutex<HashMap<K, Arc<Flight<T>>>>);

/// The result of a query.
pub(crate) enum FlightResult<T> {
    /// A result for all requests that wait for the query.
    Shared(T),
    /// A result only for the request that ran the query. The next waiting request runs the query
    /// again.
    Own(T),
}

impl<K: Copy + Eq + Hash, T: Clone> SingleFlight<K, T> {
    /// Runs the query `asking`. If another request is already running a query with the same key,
    /// waits for the result of that query instead. Results are not cached, so a later request runs
    /// the query again.
    pub(crate) async fn join<F>(&self, key: K, asking: F) -> T
    where
        F: Future<Output = FlightResult<T>>,
    {
        let participant = Participant::take(self, key);
        let mut slot = participant.flight.lock().await;
        if let Some(answer) = slot.as_ref() {
            return answer.clone();
        }
        match asking.await {
            FlightResult::Own(answer) => answer,
            FlightResult::Shared(answer) => {
                self.land(&key, &participant.flight);
                *slot = Some(answer.clone());
                answer
            }
        }
    }

    fn land(&self, key: &K, flight: &Arc<Flight<T>>) {
        let mut flights = self.lock();
        if flights
            .get(key)
            .is_some_and(|other| Arc::ptr_eq(other, flight))
        {
            flights.remove(key);
        }
    }
}

impl<K: Copy + Eq + Hash, T> SingleFlight<K, T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Arc<Flight<T>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of running queries.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }
}

impl<K: Copy + Eq + Hash, T> Default for SingleFlight<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// A request that runs or waits for a query. If the request that runs the query is dropped, the
/// next waiting request runs it. When no request is left, the query is removed from the map.
struct Participant<'a, K: Copy + Eq + Hash, T> {
    flights: &'a SingleFlight<K, T>,
    key: K,
    flight: Arc<Flight<T>>,
}

impl<'a, K: Copy + Eq + Hash, T> Participant<'a, K, T> {
    fn take(flights: &'a SingleFlight<K, T>, key: K) -> Self {
        let new = || Arc::new(Flight::new(None));
        let flight = Arc::clone(flights.lock().entry(key).or_insert_with(new));
        Self {
            flights,
            key,
            flight,
        }
    }
}

impl<K: Copy + Eq + Hash, T> Drop for Participant<'_, K, T> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        // Only the map and this value hold the query, so no other request waits for it.
        if Arc::strong_count(&self.flight) == 2
            && flights
                .get(&self.key)
                .is_some_and(|other| Arc::ptr_eq(other, &self.flight))
        {
            flights.remove(&self.key);
        }
    }
}
