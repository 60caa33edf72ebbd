//! Helpers that box and poll futures.
//!
//! - `box_in_place`: puts large futures on the heap without a copy
//! - `poll_on_wake`: polls a future only if its own waker was called
//! - `yield_once`: lets the other tasks of a worker run first

pub(crate) mod box_in_place;
pub(crate) mod poll_on_wake;
pub(crate) mod yield_once;
