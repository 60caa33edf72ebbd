//! How futures are placed and polled.

pub(crate) mod box_in_place;
pub(crate) mod poll_on_wake;
pub(crate) mod yield_once;
