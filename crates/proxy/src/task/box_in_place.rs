//! `box_in_place`: builds a large future directly on the heap.

use std::pin::Pin;

/// Boxes a future. `Box::pin` would build the future on the stack first, and then copy all its
/// bytes to the heap.
#[inline]
pub(crate) fn box_in_place<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    let allocation = Box::new_uninit();
    Box::into_pin(Box::write(allocation, make()))
}
