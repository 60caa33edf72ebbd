//! `PathEncodings`: which unusual forms of paths a route accepts.

use std::fmt;

/// A form of paths that a gateway and a service can read differently. A route must name it, or
/// requests with such a path are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathEncoding {
    /// None of the other forms.
    Strict,
    /// `%2F`: a slash inside a segment.
    EncodedSlash,
    /// `%25` before two hexadecimal digits: a percent-encoding that is encoded again.
    DoubleEncoding,
    /// `//`: a segment without characters, before the last one.
    EmptySegments,
    /// Percent-encoded bytes that are not UTF-8.
    NonUtf8,
}

impl PathEncoding {
    /// All forms, in the order in which the configuration's documentation names them.
    pub const ALL: [Self; 5] = [
        Self::Strict,
        Self::EncodedSlash,
        Self::DoubleEncoding,
        Self::EmptySegments,
        Self::NonUtf8,
    ];

    /// Returns the word for this form in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::EncodedSlash => "allow-encoded-slash",
            Self::DoubleEncoding => "allow-double-encoding",
            Self::EmptySegments => "allow-empty-segments",
            Self::NonUtf8 => "allow-non-utf8",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Strict => 0,
            Self::EncodedSlash => 1,
            Self::DoubleEncoding => 1 << 1,
            Self::EmptySegments => 1 << 2,
            Self::NonUtf8 => 1 << 3,
        }
    }
}

/// A set of [`PathEncoding`]: the forms that a route accepts, or those that a path has.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct PathEncodings(u8);

impl PathEncodings {
    /// No unusual form.
    pub const STRICT: Self = Self(0);

    /// Adds a form.
    pub const fn insert(&mut self, encoding: PathEncoding) {
        self.0 |= encoding.bit();
    }

    /// Whether there is no unusual form in the set.
    #[must_use]
    pub const fn is_strict(self) -> bool {
        self.0 == 0
    }

    /// Returns a form of this set that `allowed` does not contain.
    #[must_use]
    pub fn outside(self, allowed: Self) -> Option<PathEncoding> {
        PathEncoding::ALL
            .into_iter()
            .find(|encoding| self.0 & !allowed.0 & encoding.bit() != 0)
    }
}

impl FromIterator<PathEncoding> for PathEncodings {
    fn from_iter<I: IntoIterator<Item = PathEncoding>>(encodings: I) -> Self {
        let mut set = Self::STRICT;
        for encoding in encodings {
            set.insert(encoding);
        }
        set
    }
}

/// Prints the words of the configuration, separated by commas.
impl fmt::Display for PathEncodings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_strict() {
            return formatter.write_str(PathEncoding::Strict.as_str());
        }
        let contained = PathEncoding::ALL.into_iter();
        let contained = contained.filter(|encoding| self.0 & encoding.bit() != 0);
        for (index, encoding) in contained.enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(formatter, "{comma}{}", encoding.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Debug for PathEncodings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let contained = PathEncoding::ALL.into_iter();
        let contained = contained.filter(|encoding| self.0 & encoding.bit() != 0);
        formatter.debug_set().entries(contained).finish()
    }
}
