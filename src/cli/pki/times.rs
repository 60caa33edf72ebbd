//! Parses times in arguments of `pki` commands.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::clock;
use crate::pki::Lifetime;

/// Returns the current time in seconds since the Unix epoch.
pub(super) fn now() -> i64 {
    clock::certificate_now()
}

/// Parses a time in RFC 3339, in seconds since the Unix epoch, or as a duration before now. Returns
/// seconds since the Unix epoch.
pub(super) fn point_in_time(text: &str) -> Result<i64, String> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(seconds);
    }
    if let Ok(ago) = text.parse::<Lifetime>() {
        return Ok(now().saturating_sub(ago.as_seconds()));
    }
    OffsetDateTime::parse(text, &Rfc3339)
        .map(OffsetDateTime::unix_timestamp)
        .map_err(|_| {
            "a time is written as 2026-01-31T12:00:00Z, as seconds since the Unix epoch, or as \
             a time ago such as 1h"
                .to_owned()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_ago() {
        assert_eq!(point_in_time("1970-01-01T00:01:00Z"), Ok(60));
        assert_eq!(point_in_time("60"), Ok(60));
        assert!((now() - 3_600..=now()).contains(&point_in_time("1h").unwrap()));
        assert!(point_in_time("yesterday").is_err());
    }
}
