//! `EvictionLog`: counts evicted connections, so that their number is recorded at most once a
//! second. In a flood of connections, one record for each connection would hide all other records.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Minimum time between two records about the evictions of one listener.
const PAUSE: Duration = Duration::from_secs(1);

/// Counts the connections of one listener that were evicted since the last record about evictions.
#[derive(Debug, Default)]
pub struct EvictionLog(Mutex<Count>);

#[derive(Debug, Default)]
struct Count {
    noted: Option<Instant>,
    since: u64,
    /// Whether a task waits until the next record may be written.
    awaited: bool,
}

/// What a task must do after it has counted an eviction.
#[derive(Debug, PartialEq, Eq)]
enum Noting {
    Now(Option<NonZeroU64>),
    At(Instant),
    Elsewhere,
}

impl EvictionLog {
    /// Counts an eviction. Returns the number of evictions since the last record if the calling
    /// task must write the next record. This happens at most once a second. Otherwise returns
    /// `None`.
    pub async fn note(&self) -> Option<NonZeroU64> {
        let noting = self.count(|count| count.note(Instant::now()));
        match noting {
            Noting::Now(written) => written,
            Noting::At(next) => {
                tokio::time::sleep_until(next).await;
                self.count(|count| count.written(Instant::now()))
            }
            Noting::Elsewhere => None,
        }
    }

    fn count<T>(&self, act: impl FnOnce(&mut Count) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Count {
    fn note(&mut self, now: Instant) -> Noting {
        self.since += 1;
        match self.noted.map(|noted| noted + PAUSE) {
            Some(next) if now < next && self.awaited => Noting::Elsewhere,
            Some(next) if now < next => {
                self.awaited = true;
                Noting::At(next)
            }
            // The pause since the last record is over. If a task was waiting for the end of the
            // pause, that task is late or was dropped.
            _ => Noting::Now(self.written(now)),
        }
    }

    /// Returns the number of evictions since the last record, and resets the count.
    fn written(&mut self, now: Instant) -> Option<NonZeroU64> {
        let since = NonZeroU64::new(std::mem::take(&mut self.since))?;
        self.noted = Some(now);
        self.awaited = false;
        Some(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evictions_are_recorded_at_most_once_a_second() {
        let mut count = Count::default();
        let begin = Instant::now();
        assert_eq!(count.note(begin), Noting::Now(NonZeroU64::new(1)));
        // Only the first of these tasks waits. It then records the evictions that all these tasks
        // have counted.
        let next = begin + PAUSE;
        assert_eq!(count.note(begin), Noting::At(next));
        assert!((0..50).all(|_| count.note(begin) == Noting::Elsewhere));
        assert_eq!(count.written(next), NonZeroU64::new(51));
        assert_eq!(count.note(next), Noting::At(next + PAUSE));
        // The waiting task is late or was dropped, so the next task records the total.
        let later = next + PAUSE;
        assert_eq!(count.note(later), Noting::Now(NonZeroU64::new(2)));
        assert_eq!(count.written(later), None);
        assert_eq!(count.note(later), Noting::At(later + PAUSE));
    }
}
