//! `box_in_place`: puts large futures on the heap without a copy.

use std::pin::Pin;

/// Boxes a future. `Box::pin` would create it on the stack and copy its full size,
/// although most of that space is not used yet.
#[inline]
pub(crate) fn box_in_place<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    let allocation = Box::new_uninit();
    Box::into_pin(Box::write(allocation, make()))
}
