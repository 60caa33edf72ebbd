//! Large futures on the heap, made where they stay.

use std::pin::Pin;

/// A boxed future. `Box::pin` makes it on the stack and copies all of its room,
/// most of which is for what it will only hold later.
#[inline]
pub(crate) fn box_in_place<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, make()))
}
