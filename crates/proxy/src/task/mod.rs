//! Helpers that box and poll futures.
//!
//! - `box_in_place`: builds large futures directly on the heap
//! - `poll_on_wake`: polls a future only if the future's own waker was called
//! - `yield_once`: lets the other ready tasks of a worker run first

pub(crate) mod box_in_place;
pub(crate) mod poll_on_wake;
pub(crate) mod yield_once;
