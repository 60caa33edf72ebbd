//! `BufferBudget`: how much memory the bodies that are read whole take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::refusal::Refusal;
use crate::reason::ReasonCode;

/// Bytes of all buffered bodies of the process (`[limits] held_bodies`).
#[derive(Debug, Default)]
pub struct BufferBudget(AtomicU64);

/// One body's part of the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct BufferReservation {
    budget: Arc<BufferBudget>,
    bytes: u64,
}

impl BufferReservation {
    /// Reserves nothing yet.
    pub(crate) const fn new(budget: Arc<BufferBudget>) -> Self {
        Self { budget, bytes: 0 }
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reserves `more` bytes, unless all bodies together would then have more than
    /// `max_total`.
    pub(crate) fn grow(&mut self, more: u64, max_total: u64) -> Result<(), Refusal> {
        let before = self.budget.0.fetch_add(more, Ordering::Relaxed);
        // Counted even if it is too much: the drop gives it back.
        self.bytes += more;
        if before.saturating_add(more) > max_total {
            return Err(Refusal::new(
                ReasonCode::Overloaded,
                "too many bodies are held at the moment",
            ));
        }
        Ok(())
    }
}

impl Drop for BufferReservation {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
