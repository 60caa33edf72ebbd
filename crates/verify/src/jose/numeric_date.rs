//! `NumericDate` of RFC 7519 section 2: seconds since 1970, possibly fractional.

use serde_json::Value;

use super::JoseError;

/// 9999-12-31T23:59:59Z. Larger values are mistakes (milliseconds) or attacks.
const LATEST: f64 = 253_402_300_799.0;

/// A point in time from a token.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct NumericDate(f64);

impl NumericDate {
    /// Reads a claim. Numbers may be fractional or in exponent form; texts are
    /// not numbers.
    ///
    /// # Errors
    ///
    /// [`JoseError::NumericDate`] for anything but a JSON number between 0 and
    /// the end of the year 9999.
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

    /// The last whole second that is not after this time: what an expiry is
    /// compared with, so that rounding never prolongs it.
    #[must_use]
    pub fn floor(self) -> u64 {
        whole(self.0.floor())
    }

    /// The first whole second that is not before this time: what a "not before"
    /// is compared with.
    #[must_use]
    pub fn ceil(self) -> u64 {
        whole(self.0.ceil())
    }
}

/// The range was checked on construction, so the cast is exact.
fn whole(seconds: f64) -> u64 {
    seconds as u64
}
