//! Words that several `pki` verbs print: moments, and arguments for a shell.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::CliError;
use crate::clock;
use crate::pki::Lifetime;

/// Largest file that is read: a revocation list of some hundred thousand entries.
const LARGEST: u64 = 64 * 1024 * 1024;

/// The content of a file, or of standard input for `-`.
pub(super) fn read_file_or_stdin(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut content = Vec::new();
    if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(LARGEST)
            .read_to_end(&mut content)
    } else {
        File::open(path).and_then(|file| file.take(LARGEST).read_to_end(&mut content))
    }
    .map_err(|error| CliError::failed(format!("cannot read {}: {error}", path.display())))?;
    Ok(content)
}

/// Seconds since the Unix epoch.
pub(super) fn now() -> i64 {
    i64::try_from(clock::unix_now()).unwrap_or(i64::MAX)
}

/// A time as RFC 3339, as seconds since the Unix epoch, or as a time ago.
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

/// `2026-01-31T12:00:00Z (in 24 hours)`.
pub(super) fn moment(unix_seconds: i64) -> String {
    let distance = unix_seconds.saturating_sub(now());
    let amount = amount(distance.saturating_abs());
    let relative = if distance < 0 {
        format!("{amount} ago")
    } else {
        format!("in {amount}")
    };
    format!("{} ({relative})", clock::rfc3339(unix_seconds))
}

/// The largest unit that leaves at least two, rounded to the nearest.
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

/// A path as one word of a POSIX shell.
pub(super) fn shell(path: &Path) -> String {
    shell_word(&path.to_string_lossy())
}

/// A text as one word of a POSIX shell.
pub(super) fn shell_word(text: &str) -> String {
    let plain = !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/._-@%+=:,".contains(&b));
    if plain {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// An absolute path for machines; the path itself where there is none.
pub(super) fn absolute(path: &Path) -> String {
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

    #[test]
    fn times_are_absolute_or_ago() {
        assert_eq!(point_in_time("1970-01-01T00:01:00Z"), Ok(60));
        assert_eq!(point_in_time("60"), Ok(60));
        assert!((now() - 3_600..=now()).contains(&point_in_time("1h").unwrap()));
        assert!(point_in_time("yesterday").is_err());
    }

    #[test]
    fn shell_words_survive_a_shell() {
        assert_eq!(shell_word("certs/a.pem"), "certs/a.pem");
        assert_eq!(shell_word("my certs"), "'my certs'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
    }
}
