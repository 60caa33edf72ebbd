//! `Gate`: how many of something there may be at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts what is inside, and lets no more in than a bound allows.
#[derive(Debug, Default)]
pub struct Gate(AtomicUsize);

/// One place inside, until it is dropped.
#[derive(Debug)]
pub struct Pass(Arc<Gate>);

impl Gate {
    /// A place, unless there are `most` already.
    #[must_use]
    pub fn enter(self: &Arc<Self>, most: usize) -> Option<Pass> {
        let pass = Pass(Arc::clone(self));
        (self.0.fetch_add(1, Ordering::Relaxed) < most).then_some(pass)
    }

    /// How many are inside.
    #[must_use]
    pub fn inside(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_bound_are_inside() {
        let gate = Arc::new(Gate::default());
        let first = gate.enter(2).unwrap();
        let _second = gate.enter(2).unwrap();
        assert!(gate.enter(2).is_none());
        assert_eq!(gate.inside(), 2);
        drop(first);
        assert!(gate.enter(2).is_some());
        assert_eq!(gate.inside(), 1);
    }
}
