//! `Lifetime`: how long a certificate or a revocation list is valid.
//!
//! Examples of the text form are `24h`, `7d`, `90m`, `30s` and `1h30m`: whole numbers with a unit,
//! the largest unit first. The profile decides which lifetimes are allowed.

use std::fmt;
use std::str::FromStr;

/// A lifetime in seconds, which is always positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lifetime(i64);

/// The reason why a text is not a lifetime.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LifetimeError {
    /// The text is empty, has a unit without a number, or has a number without a unit.
    #[error("a lifetime is whole numbers with units d, h, m or s, such as 24h or 1h30m")]
    Form,
    /// The text contains this character where a unit (d, h, m or s) must be.
    #[error("a lifetime's units are d, h, m and s, not {0:?}")]
    Unit(char),
    /// A unit occurs twice, or the units are not in the order d, h, m, s.
    #[error("a lifetime names each unit once, the largest first")]
    Order,
    /// The lifetime is zero.
    #[error("a lifetime of zero would be over before it began")]
    Zero,
    /// The lifetime is longer than 1000 years.
    #[error("the lifetime is longer than 1000 years")]
    TooLong,
}

/// Maximum lifetime in seconds, about 1000 years. So every notAfter is before the year 9999, which
/// is the last year that X.509 can express.
const MAXIMUM: i64 = 1000 * 366 * 86_400;

const UNITS: [(char, i64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

impl Lifetime {
    /// Creates a lifetime of this many days. Zero days become one second.
    #[must_use]
    pub const fn days(days: u16) -> Self {
        Self::from_seconds(days as i64 * 86_400)
    }

    /// Creates a lifetime of this many hours. Zero hours become one second.
    #[must_use]
    pub const fn hours(hours: u16) -> Self {
        Self::from_seconds(hours as i64 * 3_600)
    }

    /// Creates a lifetime of this many seconds. Less than one second becomes one second.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(if seconds < 1 { 1 } else { seconds })
    }

    /// Returns the lifetime in seconds.
    #[must_use]
    pub const fn as_seconds(self) -> i64 {
        self.0
    }
}

impl FromStr for Lifetime {
    type Err = LifetimeError;

    fn from_str(text: &str) -> Result<Self, LifetimeError> {
        let mut total = 0_i64;
        let mut number: Option<i64> = None;
        let mut units = UNITS.iter();
        for character in text.chars() {
            if let Some(digit) = character.to_digit(10) {
                number = number
                    .unwrap_or(0)
                    .checked_mul(10)
                    .and_then(|value| value.checked_add(i64::from(digit)))
                    .filter(|value| *value <= MAXIMUM)
                    .ok_or(LifetimeError::TooLong)
                    .map(Some)?;
                continue;
            }
            if !UNITS.iter().any(|(unit, _)| *unit == character) {
                return Err(LifetimeError::Unit(character));
            }
            let count = number.take().ok_or(LifetimeError::Form)?;
            let (_, seconds) = units
                .find(|(unit, _)| *unit == character)
                .ok_or(LifetimeError::Order)?;
            total = count
                .checked_mul(*seconds)
                .and_then(|part| total.checked_add(part))
                .filter(|sum| *sum <= MAXIMUM)
                .ok_or(LifetimeError::TooLong)?;
        }
        // A number without a unit (`24`) or no text at all.
        if number.is_some() || text.is_empty() {
            return Err(LifetimeError::Form);
        }
        match total {
            0 => Err(LifetimeError::Zero),
            total => Ok(Self(total)),
        }
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        for (unit, seconds) in UNITS {
            let count = rest / seconds;
            rest %= seconds;
            if count > 0 {
                write!(formatter, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, seconds) in [
            ("24h", 86_400),
            ("7d", 604_800),
            ("90m", 5_400),
            ("30s", 30),
            ("1h30m", 5_400),
            ("1d2h3m4s", 93_784),
        ] {
            assert_eq!(text.parse::<Lifetime>().unwrap().as_seconds(), seconds);
        }
    }

    #[test]
    fn refuses_everything_else() {
        use LifetimeError::{Form, Order, TooLong, Unit, Zero};
        for (text, error) in [
            ("", Form),
            ("24", Form),
            ("h", Form),
            ("1h30", Form),
            ("hh", Form),
            ("-1h", Unit('-')),
            ("1.5h", Unit('.')),
            ("1 h", Unit(' ')),
            ("1w", Unit('w')),
            ("1H", Unit('H')),
            ("1m1h", Order),
            ("1h1h", Order),
            ("0s", Zero),
            ("0d0h", Zero),
            ("9999999d", TooLong),
            ("99999999999999999999s", TooLong),
        ] {
            assert_eq!(text.parse::<Lifetime>(), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn prints_what_it_reads(seconds in 1_i64..MAXIMUM) {
            let text = Lifetime(seconds).to_string();
            prop_assert_eq!(text.parse::<Lifetime>(), Ok(Lifetime(seconds)));
        }

        #[test]
        fn never_panics(text in ".{0,30}") {
            let _ = text.parse::<Lifetime>();
        }
    }
}
