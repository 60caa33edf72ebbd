//! `NumericDate` of RFC 7519 section 2: seconds since 1970, possibly fractional.

use serde_json::Value;

use super::JoseError;

/// 9999-12-31T23:59:59Z. Larger values are mistakes (milliseconds) or attacks.
const LATEST: f64 = 253_402_300_799.0;

/// A point in time from a token.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct NumericDate(f64);

impl NumericDate {
    /// Reads a claim. The number may be fractional or in exponent form. A text
    /// is not a number.
    ///
    /// # Errors
    ///
    /// [`JoseError::NumericDate`] if it is not a JSON number between 0 and the
    /// end of the year 9999.
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

    /// Returns the last whole second that is not after this time. Use it for an
    /// expiry, so that rounding never extends it.
    #[must_use]
    pub fn floor(self) -> u64 {
        whole(self.0.floor())
    }

    /// Returns the first whole second that is not before this time. Use it for a
    /// "not before".
    #[must_use]
    pub fn ceil(self) -> u64 {
        whole(self.0.ceil())
    }
}

/// Converts to an integer. The cast is exact, because the range was checked
/// before.
fn whole(seconds: f64) -> u64 {
    seconds as u64
}
