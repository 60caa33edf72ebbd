//! Dates in the type of rcgen.

use time::OffsetDateTime;

/// Converts seconds since the Unix epoch to a date. Returns `None` if the year is not between 1950
/// and 9999, because X.509 cannot express it.
pub(crate) fn date(unix_seconds: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(unix_seconds)
        .ok()
        .filter(|date| (1950..=9999).contains(&date.year()))
}
