//! Dates in the form that the encoder takes.

use time::OffsetDateTime;

/// Converts seconds since the Unix epoch to a date, in the years that X.509 can express.
pub(crate) fn date(unix_seconds: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(unix_seconds)
        .ok()
        .filter(|date| (1950..=9999).contains(&date.year()))
}
