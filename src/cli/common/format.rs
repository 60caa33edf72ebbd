//! Formats times, and quotes arguments for a shell.

use std::path::Path;

use crate::clock;

/// Formats a time as `2026-01-31T12:00:00Z (in 24 hours)`.
pub(in crate::cli) fn moment(unix_seconds: i64) -> String {
    let now = clock::certificate_now();
    let distance = unix_seconds.saturating_sub(now);
    let amount = amount(distance.saturating_abs());
    let relative = if distance < 0 {
        format!("{amount} ago")
    } else {
        format!("in {amount}")
    };
    format!("{} ({relative})", clock::rfc3339(unix_seconds))
}

/// Formats a duration in the largest unit that gives at least 2. Rounds to the nearest whole
/// number.
fn amount(seconds: i64) -> String {
    for (unit, length) in [
        ("years", 31_557_600),
        ("days", 86_400),
        ("hours", 3_600),
        ("minutes", 60),
    ] {
        if seconds >= 2 * length {
            return format!("{} {unit}", (seconds + length / 2) / length);
        }
    }
    format!("{seconds} seconds")
}

/// Makes a path absolute, for the JSON output. Returns the path unchanged if that fails.
pub(in crate::cli) fn absolute(path: &Path) -> String {
    std::path::absolute(path)
        .unwrap_or_else(|_| path.to_owned())
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_use_the_unit_a_person_would() {
        for (seconds, words) in [
            (0, "0 seconds"),
            (90, "90 seconds"),
            (300, "5 minutes"),
            (86_399, "24 hours"),
            (7 * 86_400 - 1, "7 days"),
            (3652 * 86_400, "10 years"),
        ] {
            assert_eq!(amount(seconds), words);
        }
    }
}
