//! The only place of this crate that reads the system clock.
//!
//! Everything else is given a [`Clock`], so that tests, and services with a
//! clock of their own, decide what time it is. This file must not know what
//! the time is used for.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// Tells the time as whole seconds since 1970-01-01T00:00:00Z, leap seconds
/// ignored (the `NumericDate` of RFC 7519 section 2).
pub(crate) type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The clock of the operating system.
pub(crate) fn system_clock() -> Clock {
    Arc::new(now)
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the time"
)]
fn now() -> u64 {
    // A clock before 1970 reads as 0: every assertion is then "not yet valid",
    // which is the safe side.
    std::time::SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}
