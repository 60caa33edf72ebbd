//! The only place that reads the wall clock.
//!
//! Monotonic time (`std::time::Instant`) may be read anywhere, because changes of the wall clock do
//! not affect it. Code that compares the current time with dates in certificates or tokens must use
//! this module.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the current wall-clock time.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the wall clock"
)]
pub fn now() -> SystemTime {
    #[cfg(any(test, feature = "testing"))]
    if let Some(time) = testing::set_time() {
        return time;
    }
    SystemTime::now()
}

/// Lets a unit test set the time of its thread.
#[cfg(any(test, feature = "testing"))]
pub mod testing {
    use std::cell::Cell;
    use std::time::SystemTime;

    thread_local! {
        static TIME: Cell<Option<SystemTime>> = const { Cell::new(None) };
    }

    pub(super) fn set_time() -> Option<SystemTime> {
        TIME.get()
    }

    /// Runs `test`. Until it returns, this thread always reads `time` as the current time. Other
    /// threads read the system's time.
    pub fn at<T>(time: SystemTime, test: impl FnOnce() -> T) -> T {
        struct Restore(Option<SystemTime>);
        impl Drop for Restore {
            fn drop(&mut self) {
                TIME.set(self.0);
            }
        }
        let _restore = Restore(TIME.replace(Some(time)));
        test()
    }
}

/// Returns the seconds since 1970-01-01T00:00:00Z. Returns 0 if the clock is set to an earlier
/// time.
#[must_use]
pub fn unix_now() -> u64 {
    unix(now())
}

/// Returns the seconds since the Unix epoch as a signed number, as certificates use it. Returns 0
/// if the clock is set to an earlier time.
#[must_use]
pub fn certificate_now() -> i64 {
    certificate_time(unix_now())
}

/// Converts seconds since the Unix epoch to a signed number, as certificates use it. Certificates
/// may contain dates before the epoch.
#[must_use]
pub fn certificate_time(unix_seconds: u64) -> i64 {
    i64::try_from(unix_seconds).unwrap_or(i64::MAX)
}

/// Returns the duration since the Unix epoch. Returns zero if the clock is set to an earlier time.
#[must_use]
pub fn since_epoch() -> Duration {
    now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Returns the whole seconds from the Unix epoch to `time`. Returns 0 if `time` is earlier.
#[must_use]
pub fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map(|elapsed| elapsed.as_secs())
        .unwrap_or_default()
}

/// Returns whether a certificate has expired. Both times are in seconds since the Unix epoch.
///
/// A certificate is valid until the end of the second `notAfter` (RFC 5280 section 4.1.2.5). A
/// token or key is not valid any more in the second in which it expires, so do not use this
/// function for tokens or keys.
#[must_use]
pub const fn certificate_is_over(not_after: i64, now: i64) -> bool {
    now > not_after
}

/// Returns the time from `now` until a certificate expires. The second `not_after` belongs to this
/// time.
#[must_use]
pub fn certificate_time_left(not_after: i64, now: i64) -> Duration {
    let seconds = not_after.saturating_sub(now).saturating_add(1);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Formats a time as RFC 3339 in UTC with whole seconds, for example `2026-01-31T12:00:00Z`. A time
/// after the year 9999 is formatted as a number of seconds.
#[must_use]
pub fn rfc3339(unix_seconds: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(unix_seconds)
        .ok()
        .and_then(|moment| {
            moment
                .format(&time::format_description::well_known::Rfc3339)
                .ok()
        })
        .unwrap_or_else(|| unix_seconds.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_valid_through_its_last_second() {
        for (now, is_over, left) in [
            (98, false, 3),
            (100, false, 1),
            (101, true, 0),
            (102, true, 0),
        ] {
            assert_eq!(certificate_is_over(100, now), is_over, "{now}");
            assert_eq!(
                certificate_time_left(100, now),
                Duration::from_secs(left),
                "{now}"
            );
        }
        assert!(!certificate_is_over(i64::MAX, i64::MAX));
        assert!(certificate_time_left(i64::MAX, i64::MIN) > Duration::from_secs(1));
    }

    #[test]
    fn a_test_sets_the_time_of_its_thread_only() {
        let time = UNIX_EPOCH + Duration::from_secs(1_000);
        testing::at(time, || {
            assert_eq!(unix_now(), 1_000);
            testing::at(UNIX_EPOCH, || assert_eq!(unix_now(), 0));
            assert_eq!(certificate_now(), 1_000);
            let elsewhere = std::thread::spawn(unix_now).join().unwrap();
            assert!(elsewhere > 1_000_000);
        });
        assert!(unix_now() > 1_000_000);
    }

    #[test]
    fn formats_whole_seconds_in_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(i64::MAX), i64::MAX.to_string());
    }
}
