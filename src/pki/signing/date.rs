//! Dates in the form that the encoder takes.

use time::OffsetDateTime;

/// A date from seconds since the Unix epoch, in the years X.509 can express.
pub(in crate::pki) fn date(unix_seconds: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(unix_seconds)
        .ok()
        .filter(|date| (1950..=9999).contains(&date.year()))
}
