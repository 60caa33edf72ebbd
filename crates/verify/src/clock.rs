//! The only place of this crate that reads the system clock.
//!
//! All other code gets a [`Clock`], so that tests and services can provide
//! another clock. This file must not depend on how the time is used.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// Returns the time as whole seconds since 1970-01-01T00:00:00Z, without leap
/// seconds (the `NumericDate` of RFC 7519 section 2).
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
    // A clock before 1970 counts as 0. Every assertion is then "not yet valid",
    // which is safe.
    std::time::SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}
