//! `BufferBudget`: limits the memory that all buffered bodies use together, and divides it among
//! callers.
//!
//! No memory is reserved for callers without bodies. If there is not enough memory for a body, the
//! gateway selects the caller that uses the most memory. The gateway then ends one body of this
//! caller: the slowest body that is still being read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::refusal::Refusal;
use crate::identity::{ShareKey, ShareMap};
use crate::policy::Denial;
use crate::policy::share::{CallerLimit, Share};
use crate::reason::ReasonCode;

/// Counts the bytes of all buffered bodies of the process (`[limits] held_bodies`).
#[derive(Debug, Default)]
pub struct BufferBudget(Mutex<Holders>);

/// The memory that the bodies of all callers use together, and the memory of each caller.
#[derive(Debug, Default)]
struct Holders {
    total: u64,
    next_id: u64,
    callers: ShareMap<Holder>,
}

/// The buffered bodies of one caller.
#[derive(Debug, Default)]
struct Holder {
    /// Number of bytes that are reserved for this caller's bodies.
    bytes: u64,
    /// Number of bodies, including those that were read to their end.
    bodies: usize,
    /// The bodies that are still being read, by `BufferReservation::id`.
    reading: HashMap<u64, Reading>,
}

/// A body that is still being read.
#[derive(Debug)]
struct Reading {
    bytes: u64,
    since: Instant,
    /// Notified when the budget takes the body's memory for another body.
    ended: Arc<Notify>,
}

impl Reading {
    fn bytes_per_second(&self) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "rates are compared, not counted"
        )]
        let bytes = self.bytes as f64;
        bytes / self.since.elapsed().as_secs_f64().max(0.001)
    }
}

/// The limits for the memory of all bodies together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BudgetLimits {
    /// Maximum size of all bodies together in bytes.
    pub(crate) max_total: u64,
    /// The share of `max_total` that one caller may use.
    pub(crate) share: Share,
}

/// The memory that is counted for one body. It is released on drop.
#[derive(Debug)]
pub(crate) struct BufferReservation {
    budget: Arc<BufferBudget>,
    caller: ShareKey,
    id: u64,
    bytes: u64,
    is_complete: bool,
    ended: Arc<Notify>,
}

impl BufferReservation {
    /// Creates a reservation of 0 bytes.
    pub(crate) fn new(budget: &Arc<BufferBudget>, caller: ShareKey) -> Self {
        let ended = Arc::new(Notify::new());
        let mut holders = budget.lock();
        let id = holders.next_id;
        holders.next_id += 1;
        let holder = holders.callers.entry(caller).or_default();
        holder.bodies += 1;
        let reading = Reading {
            bytes: 0,
            since: Instant::now(),
            ended: Arc::clone(&ended),
        };
        holder.reading.insert(id, reading);
        drop(holders);
        Self {
            budget: Arc::clone(budget),
            caller,
            id,
            bytes: 0,
            is_complete: false,
            ended,
        }
    }

    /// Reserves `more` bytes. If there is not enough memory, ends the slowest body of the caller
    /// that uses the most memory. This may be the body of this reservation. In that case, or if no
    /// body can be ended, returns a refusal.
    pub(crate) fn grow(&mut self, more: u64, limits: BudgetLimits) -> Result<(), Refusal> {
        let mut holders = self.budget.lock();
        while let Some((holder, others)) = holders.of(self.caller, self.id) {
            if holder.may_grow(more, others, limits) {
                let reading = holder.reading.get_mut(&self.id);
                if let Some(reading) = reading {
                    reading.bytes += more;
                }
                holder.bytes += more;
                holders.total += more;
                self.bytes += more;
                return Ok(());
            }
            let is_whole_budget = others == 0 && holder.bodies == 1;
            match holders.slowest_of_largest(self.caller, more) {
                Some((caller, id)) if (caller, id) != (self.caller, self.id) => {
                    holders.end(caller, id);
                }
                Some(_) if !is_whole_budget => break,
                _ => {
                    return Err(Refusal::new(
                        ReasonCode::Overloaded,
                        "too many bodies are held at the moment",
                    ));
                }
            }
        }
        Err(self.refusal())
    }

    /// Resolves when the body must end, because another body needs this body's memory.
    pub(crate) async fn ended(&self) -> Refusal {
        self.ended.notified().await;
        self.refusal()
    }

    /// Records that the body was read to its end. After this, the budget cannot take the body's
    /// memory for another body.
    ///
    /// # Errors
    /// Returns the refusal if the budget has already ended the body.
    pub(crate) fn complete(&mut self) -> Result<(), Refusal> {
        let mut holders = self.budget.lock();
        let Some((holder, _)) = holders.of(self.caller, self.id) else {
            drop(holders);
            return Err(self.refusal());
        };
        holder.reading.remove(&self.id);
        self.is_complete = true;
        Ok(())
    }

    #[expect(clippy::unused_self, reason = "says whose refusal it is")]
    fn refusal(&self) -> Refusal {
        Denial::caller_limit(
            CallerLimit::BufferedBodies,
            "this caller's bodies take more memory than others need, and this one is the slowest",
        )
        .into()
    }
}

impl Drop for BufferReservation {
    fn drop(&mut self) {
        let mut holders = self.budget.lock();
        if self.is_complete {
            holders.give_back(self.caller, self.bytes);
        } else {
            // If the budget has ended the body before, `end` does nothing.
            holders.end(self.caller, self.id);
        }
    }
}

impl Holder {
    fn may_grow(&self, more: u64, others: u64, limits: BudgetLimits) -> bool {
        let own = self.bytes.saturating_add(more);
        let BudgetLimits { max_total, share } = limits;
        let is_first = self.bytes == 0 || (others == 0 && self.bodies == 1);
        own.saturating_add(others) <= max_total
            && (is_first || share.allows(max_total, own, others))
    }

    /// Returns the body with the lowest average rate, among the bodies that are still being read
    /// and have received bytes. Returns `None` if there is no such body.
    fn slowest(&self) -> Option<u64> {
        let by_rate =
            |a: &Reading, b: &Reading| a.bytes_per_second().total_cmp(&b.bytes_per_second());
        let reading = self.reading.iter().filter(|(_, body)| body.bytes > 0);
        let slowest = reading.min_by(|(_, a), (_, b)| by_rate(a, b));
        slowest.map(|(id, _)| *id)
    }
}

impl Holders {
    /// Returns the entry of `caller`, and the number of bytes that all other callers use. Returns
    /// `None` if the body `id` is no longer being read.
    fn of(&mut self, caller: ShareKey, id: u64) -> Option<(&mut Holder, u64)> {
        let total = self.total;
        let holder = self.callers.get_mut(&caller)?;
        let others = total.saturating_sub(holder.bytes);
        holder.reading.contains_key(&id).then_some((holder, others))
    }

    /// Returns the body that must end so that `caller` gets `more` bytes. It is the slowest body of
    /// the caller that uses the most memory, which may be `caller` itself. Only a body that is
    /// still being read and has received bytes can end. Returns `None` if neither `caller` nor a
    /// caller that uses more memory has such a body.
    fn slowest_of_largest(&self, caller: ShareKey, more: u64) -> Option<(ShareKey, u64)> {
        let weight = |key: ShareKey, holder: &Holder| match key == caller {
            true => holder.bytes.saturating_add(more),
            false => holder.bytes,
        };
        let own = self.callers.get(&caller)?;
        let largest = self
            .callers
            .iter()
            .filter_map(|(key, holder)| Some((*key, holder, holder.slowest()?)))
            .filter(|(key, holder, _)| *key == caller || holder.bytes > weight(caller, own))
            .max_by_key(|(key, holder, _)| weight(*key, holder))?;
        Some((largest.0, largest.2))
    }

    /// Ends a body that is still being read. The memory of the body counts as free immediately,
    /// because the reader of the body drops the body as soon as the reader's task runs.
    fn end(&mut self, caller: ShareKey, id: u64) {
        let Some(holder) = self.callers.get_mut(&caller) else {
            return;
        };
        if let Some(reading) = holder.reading.remove(&id) {
            reading.ended.notify_one();
            self.give_back(caller, reading.bytes);
        }
    }

    /// Releases `bytes` and removes one body from the count of `caller`.
    fn give_back(&mut self, caller: ShareKey, bytes: u64) {
        self.total = self.total.saturating_sub(bytes);
        if let Some(holder) = self.callers.get_mut(&caller) {
            holder.bytes = holder.bytes.saturating_sub(bytes);
            holder.bodies = holder.bodies.saturating_sub(1);
            if holder.bodies == 0 {
                self.callers.remove(&caller);
            }
        }
    }
}

impl BufferBudget {
    fn lock(&self) -> MutexGuard<'_, Holders> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "buffer_budget_tests.rs"]
mod tests;
