//! The only file of this crate that reads the system clock.
//!
//! All other code uses a [`Clock`], so that tests and services can replace the system clock.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// Returns the time as whole seconds since 1970-01-01T00:00:00Z, without leap
/// seconds (the `NumericDate` of RFC 7519 section 2).
pub(crate) type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Returns the clock of the operating system.
pub(crate) fn system_clock() -> Clock {
    Arc::new(now)
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the time"
)]
fn now() -> u64 {
    // If the system clock is before 1970, this function returns 0. The verifier then refuses
    // every assertion as "not yet valid", which is safe.
    std::time::SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}
