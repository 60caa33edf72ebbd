//! How much memory the bodies that are read whole may take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::refusal::Refusal;
use crate::reason::ReasonCode;

/// How much memory held bodies take, in all of the process.
#[derive(Debug, Default)]
pub struct BufferBudget(AtomicU64);

/// A part of it, until it is dropped.
#[derive(Debug)]
pub(crate) struct BufferReservation {
    held: Arc<BufferBudget>,
    bytes: u64,
}

impl BufferReservation {
    /// Of nothing yet.
    pub(crate) const fn new(held: Arc<BufferBudget>) -> Self {
        Self { held, bytes: 0 }
    }

    /// How much it is.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes more, unless all of them would have more than `most` then.
    pub(crate) fn grow(&mut self, more: u64, most: u64) -> Result<(), Refusal> {
        let before = self.held.0.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
        if before.saturating_add(more) > most {
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
        self.held.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
