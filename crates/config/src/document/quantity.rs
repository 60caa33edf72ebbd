//! [`TimeSpan`] and [`ByteSize`]: how durations and sizes are written.
//!
//! Examples: `"1h30m"`, `"250ms"`, `"32KiB"`. The unit is required, because the unit of a bare 30
//! would not be clear.

use std::fmt;
use std::time::Duration;

/// The reason why a text is not a duration or a size. The message says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct QuantityError(String);

const TIME_FORM: &str =
    "write a duration as numbers with the units h, m, s and ms, for example \"30s\" or \"1h30m\"";
const SIZE_FORM: &str =
    "write a size as a whole number with B, KiB, MiB or GiB, for example \"32KiB\"";

/// Units of time with their length in milliseconds, largest first.
const TIME_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
/// Units of size with their number of bytes, largest first.
const SIZE_UNITS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// A duration in whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeSpan(u64);

impl TimeSpan {
    /// Parses one or more numbers with units, for example `1h30m` or `250ms`. Each unit may occur
    /// once, and larger units come first.
    ///
    /// # Errors
    /// [`QuantityError`], which says what to write instead.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let refuse = || QuantityError(TIME_FORM.to_owned());
        let mut units = TIME_UNITS.iter();
        let mut rest = text;
        let mut total: u64 = 0;
        loop {
            let (number, after) = leading_number(rest).ok_or_else(refuse)?;
            let end = after
                .find(|character: char| character.is_ascii_digit())
                .unwrap_or(after.len());
            let (unit, next) = after.split_at(end);
            // `units` continues after the last unit that was found. So the units must be in
            // descending order, and no unit can occur twice.
            let (_, milliseconds) = units.find(|(name, _)| *name == unit).ok_or_else(refuse)?;
            total = number
                .checked_mul(*milliseconds)
                .and_then(|part| total.checked_add(part))
                .ok_or_else(|| QuantityError("this duration is too long".to_owned()))?;
            if next.is_empty() {
                return Ok(Self(total));
            }
            rest = next;
        }
    }

    /// Returns the duration as a [`Duration`].
    #[must_use]
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// Converts a [`Duration`]. Rounds down to whole milliseconds.
    #[must_use]
    pub fn from_duration(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return formatter.write_str("0s");
        }
        let mut rest = self.0;
        for (unit, milliseconds) in TIME_UNITS {
            let count = rest / milliseconds;
            rest %= milliseconds;
            if count > 0 {
                write!(formatter, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

/// A number of bytes, written with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

impl ByteSize {
    /// Parses a whole number with a unit, for example `32KiB`.
    ///
    /// # Errors
    /// [`QuantityError`], which says what to write instead.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let refuse = || QuantityError(SIZE_FORM.to_owned());
        let (number, unit) = leading_number(text).ok_or_else(refuse)?;
        let (_, bytes) = SIZE_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(refuse)?;
        number
            .checked_mul(*bytes)
            .map(Self)
            .ok_or_else(|| QuantityError("this size is too large".to_owned()))
    }

    /// Creates a size from a number of bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Returns the number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, bytes) = SIZE_UNITS
            .iter()
            .find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes))
            .copied()
            .unwrap_or(("B", 1));
        write!(formatter, "{}{unit}", self.0 / bytes)
    }
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, milliseconds) in [
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("1h1m1s1ms", 3_661_001),
            ("0s", 0),
            ("90m", 5_400_000),
        ] {
            let read = TimeSpan::parse(text).unwrap();
            assert_eq!(read.get(), Duration::from_millis(milliseconds), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_durations() {
        for text in [
            "",
            "s",
            "30",
            "30 s",
            "-1s",
            "1.5s",
            "30S",
            "1m1h",
            "1s1s",
            "1d",
            "1ms1s",
            "s30",
            "١s",
            "18446744073709551616s",
            "18446744073709551615h",
            "30s ",
        ] {
            assert!(TimeSpan::parse(text).is_err(), "{text:?}");
        }
        let error = TimeSpan::parse("30").unwrap_err().to_string();
        assert!(error.contains("\"30s\""), "{error}");
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0B", 0),
            ("512B", 512),
            ("32KiB", 32_768),
            ("1MiB", 1 << 20),
            ("2GiB", 2 << 30),
        ] {
            assert_eq!(ByteSize::parse(text).unwrap().bytes(), bytes, "{text}");
        }
        for text in [
            "",
            "32",
            "32kb",
            "32KB",
            "1.5MiB",
            "-1B",
            "1 MiB",
            "99999999999GiB",
        ] {
            assert!(ByteSize::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn durations_read_back_what_was_printed(milliseconds: u64) {
            let span = TimeSpan(milliseconds);
            prop_assert_eq!(TimeSpan::parse(&span.to_string()), Ok(span));
        }

        #[test]
        fn sizes_read_back_what_was_printed(bytes: u64, shift in 0_u32..40) {
            let size = ByteSize(bytes >> shift << shift);
            prop_assert_eq!(ByteSize::parse(&size.to_string()), Ok(size));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,12}") {
            let _ = TimeSpan::parse(&text);
            let _ = ByteSize::parse(&text);
        }

        #[test]
        fn what_is_read_is_never_shorter_than_its_largest_part(hours in 0_u64..1000, minutes in 0_u64..1000) {
            let text = format!("{hours}h{minutes}m");
            let read = TimeSpan::parse(&text).unwrap().get();
            prop_assert_eq!(read.as_secs(), hours * 3600 + minutes * 60);
        }
    }
}
