//! `NumericDate` of RFC 7519 section 2: seconds since 1970, possibly with a fraction.

use serde_json::Value;

use super::JoseError;

/// 9999-12-31T23:59:59Z. A larger value comes from a mistake, for example milliseconds instead of
/// seconds, or from an attack.
const LATEST: f64 = 253_402_300_799.0;

/// A point in time from a token.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct NumericDate(f64);

impl NumericDate {
    /// Reads a date from a claim. The number may have a fraction or an exponent. A JSON
    /// string is refused, even if it contains a number.
    ///
    /// # Errors
    ///
    /// [`JoseError::NumericDate`] if `value` is not a JSON number between 0 and the end of
    /// the year 9999.
    pub fn from_json(value: &Value) -> Result<Self, JoseError> {
        match value {
            Value::Number(number) => number
                .as_f64()
                .filter(|seconds| (0.0..=LATEST).contains(seconds))
                .map(Self)
                .ok_or(JoseError::NumericDate),
            _ => Err(JoseError::NumericDate),
        }
    }

    /// Returns the date, rounded down to a whole second. Use this method for an expiry, so
    /// that rounding never extends it.
    #[must_use]
    pub fn floor(self) -> u64 {
        whole(self.0.floor())
    }

    /// Returns the date, rounded up to a whole second. Use this method for a "not before",
    /// so that rounding never makes a token valid earlier.
    #[must_use]
    pub fn ceil(self) -> u64 {
        whole(self.0.ceil())
    }
}

/// Converts seconds to an integer. The cast is exact, because `from_json` checked the
/// range.
fn whole(seconds: f64) -> u64 {
    seconds as u64
}
