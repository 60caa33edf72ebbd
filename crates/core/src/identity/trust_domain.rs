//! `TrustDomain`: the name of a trust domain. A trust domain is the set of all identities that one
//! group of authorities certifies.

use std::fmt;
use std::sync::Arc;

/// Maximum length of a trust domain's name in bytes (SPIFFE-ID section 2.1).
pub const MAX_LENGTH: usize = 255;

/// The name of a trust domain: lower-case letters, digits, `.`, `-`, `_` (SPIFFE-ID section 2.1).
///
/// Clones share the text, so a clone is cheap.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// The reason why a text is not a trust domain name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustDomainError {
    /// The name is empty.
    #[error("a trust domain name must not be empty")]
    Empty,
    /// The name is longer than 255 bytes.
    #[error("a trust domain name has at most 255 bytes")]
    TooLong,
    /// The name contains this character, which is not allowed.
    #[error("a trust domain name has only lower-case letters, digits, '.', '-' and '_', not {0:?}")]
    Character(char),
}

impl TrustDomain {
    /// Parses the name of a trust domain, for example `example.org`. It has no `spiffe://`.
    ///
    /// # Errors
    /// If the name is empty, longer than 255 bytes, or has characters outside `[a-z0-9._-]`.
    pub fn parse(name: &str) -> Result<Self, TrustDomainError> {
        if name.is_empty() {
            return Err(TrustDomainError::Empty);
        }
        if name.len() > MAX_LENGTH {
            return Err(TrustDomainError::TooLong);
        }
        let allowed =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
        match name.chars().find(|c| !allowed(*c)) {
            Some(character) => Err(TrustDomainError::Character(character)),
            None => Ok(Self(name.into())),
        }
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "TrustDomain({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_the_allowed_characters() {
        assert!(TrustDomain::parse("example.org").is_ok());
        assert!(TrustDomain::parse("a_b-c.9").is_ok());
        for bad in ["", "Example.org", "exa mple", "a/b", "a:1", "a%62", "é"] {
            assert!(TrustDomain::parse(bad).is_err(), "{bad}");
        }
        assert!(TrustDomain::parse(&"a".repeat(256)).is_err());
    }
}
