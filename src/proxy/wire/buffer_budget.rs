//! `BufferBudget`: how much memory the bodies that are read whole take together, and how
//! callers share it.
//!
//! The callers need not reserve anything for each other, because a body that is still
//! being read can be ended: when memory is needed, the caller that holds most of it loses
//! its slowest body.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::refusal::Refusal;
use crate::identity::ShareKey;
use crate::policy::Denial;
use crate::policy::share::{CallerLimit, Share};
use crate::reason::ReasonCode;

/// Bytes of all buffered bodies of the process (`[limits] held_bodies`).
#[derive(Debug, Default)]
pub struct BufferBudget(Mutex<Holders>);

/// Who holds how much.
#[derive(Debug, Default)]
struct Holders {
    total: u64,
    next_id: u64,
    callers: HashMap<ShareKey, Holder>,
}

/// The bodies of one caller.
#[derive(Debug, Default)]
struct Holder {
    bytes: u64,
    /// Complete ones included.
    bodies: usize,
    /// Those that are still being read.
    reading: HashMap<u64, Reading>,
}

/// A body that is still being read.
#[derive(Debug)]
struct Reading {
    bytes: u64,
    since: Instant,
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

/// How much all bodies may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BudgetLimits {
    /// Most bytes of all bodies together.
    pub(crate) max_total: u64,
    /// How much of that one caller may hold.
    pub(crate) share: Share,
}

/// One body's part of the budget; given back when dropped.
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
    /// Reserves nothing yet.
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

    /// Reserves `more` bytes. If there is no room, the caller that holds most loses its
    /// slowest body.
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

    /// Resolves when the body was ended for another one.
    pub(crate) async fn ended(&self) -> Refusal {
        self.ended.notified().await;
        self.refusal()
    }

    /// The body was read to its end, so that it is not ended any more.
    ///
    /// # Errors
    /// If it was ended before.
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
            // Does nothing if the body was ended before.
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

    /// The body that has brought least for its time.
    fn slowest(&self) -> Option<u64> {
        let by_rate =
            |a: &Reading, b: &Reading| a.bytes_per_second().total_cmp(&b.bytes_per_second());
        let reading = self.reading.iter().filter(|(_, body)| body.bytes > 0);
        let slowest = reading.min_by(|(_, a), (_, b)| by_rate(a, b));
        slowest.map(|(id, _)| *id)
    }
}

impl Holders {
    /// The caller of a body that is being read, and what all others hold.
    fn of(&mut self, caller: ShareKey, id: u64) -> Option<(&mut Holder, u64)> {
        let total = self.total;
        let holder = self.callers.get_mut(&caller)?;
        let others = total.saturating_sub(holder.bytes);
        holder.reading.contains_key(&id).then_some((holder, others))
    }

    /// The body to end, so that `caller` gets `more` bytes: the slowest one of the caller
    /// that holds most, `caller` itself included. None if all that hold more than `caller`
    /// have complete bodies only.
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

    /// Ends a body that is being read. Its memory counts as free at once: its reader drops
    /// it as soon as it runs.
    fn end(&mut self, caller: ShareKey, id: u64) {
        let Some(holder) = self.callers.get_mut(&caller) else {
            return;
        };
        if let Some(reading) = holder.reading.remove(&id) {
            reading.ended.notify_one();
            self.give_back(caller, reading.bytes);
        }
    }

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
