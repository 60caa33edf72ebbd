//! `SpiffeId`: a parsed `spiffe://` URI (SPIFFE-ID section 2).

use std::fmt;
use std::sync::Arc;

use super::trust_domain::{TrustDomain, TrustDomainError};

/// Maximum length of a SPIFFE ID in bytes (SPIFFE-ID section 2.3).
pub const MAX_LENGTH: usize = 2048;

/// A well-formed SPIFFE ID. Two SPIFFE IDs are equal if all their bytes are equal.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

/// The reason why a text is not a SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// The text does not begin with `spiffe://` in lower case.
    #[error("a SPIFFE ID begins with spiffe:// in lower case")]
    Scheme,
    /// The text is longer than 2048 bytes.
    #[error("a SPIFFE ID has at most 2048 bytes")]
    TooLong,
    /// The part of the SPIFFE ID that names the trust domain is malformed.
    #[error("its trust domain is malformed: {0}")]
    TrustDomain(#[from] TrustDomainError),
    /// A segment of the path is empty. This includes a trailing slash, after which the last segment
    /// is empty.
    #[error("its path has an empty segment or a trailing slash")]
    EmptySegment,
    /// A path segment is `.` or `..`.
    #[error("its path has a '.' or '..' segment")]
    DotSegment,
    /// A path segment has a character outside `[A-Za-z0-9._-]`.
    #[error("its path has only letters, digits, '.', '-' and '_', not {0:?}")]
    Character(char),
}

impl SpiffeId {
    /// Whether a URI has the scheme `spiffe`, in upper or lower case. Such a URI must be a
    /// well-formed SPIFFE ID. So `SPIFFE://…` is refused as malformed, and not accepted as a URI of
    /// another kind.
    #[must_use]
    pub fn is_claimed_by(uri: &str) -> bool {
        uri.as_bytes()
            .get(..7)
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"spiffe:"))
    }

    /// Parses a SPIFFE ID.
    ///
    /// # Errors
    /// If the text breaks a rule of SPIFFE-ID section 2. The error names the rule.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        let rest = text
            .strip_prefix("spiffe://")
            .ok_or(SpiffeIdError::Scheme)?;
        if text.len() > MAX_LENGTH {
            return Err(SpiffeIdError::TooLong);
        }
        let (domain, path) = match rest.split_once('/') {
            Some((domain, path)) => (domain, Some(path)),
            None => (rest, None),
        };
        let trust_domain = TrustDomain::parse(domain)?;
        for segment in path.into_iter().flat_map(|path| path.split('/')) {
            if segment.is_empty() {
                return Err(SpiffeIdError::EmptySegment);
            }
            if matches!(segment, "." | "..") {
                return Err(SpiffeIdError::DotSegment);
            }
            if let Some(character) = segment
                .chars()
                .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')))
            {
                return Err(SpiffeIdError::Character(character));
            }
        }
        Ok(Self {
            text: text.into(),
            trust_domain,
        })
    }

    /// Returns the whole ID, for example `spiffe://example.org/ns/shop/sa/checkout`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the trust domain that the SPIFFE ID contains.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Returns the path with its leading slash. It is empty for the SPIFFE ID of a trust domain
    /// itself.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text
            .get("spiffe://".len() + self.trust_domain.as_str().len()..)
            .unwrap_or_default()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SpiffeId({})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn splits_domain_and_path() {
        let id = SpiffeId::parse("spiffe://example.org/ns/shop/sa/checkout").unwrap();
        assert_eq!(id.trust_domain().as_str(), "example.org");
        assert_eq!(id.path(), "/ns/shop/sa/checkout");
        assert_eq!(SpiffeId::parse("spiffe://example.org").unwrap().path(), "");
    }

    #[test]
    fn refuses_what_the_standard_refuses() {
        for bad in [
            "spiffe:/example.org/a",
            "SPIFFE://example.org/a",
            "spiffe://",
            "spiffe:///a",
            "spiffe://example.org/",
            "spiffe://example.org/a/",
            "spiffe://example.org//a",
            "spiffe://example.org/./a",
            "spiffe://example.org/a/..",
            "spiffe://example.org/a%2fb",
            "spiffe://user@example.org/a",
            "spiffe://example.org:8443/a",
            "spiffe://example.org/a?b",
            "spiffe://example.org/a#b",
            "spiffe://Example.org/a",
            "spiffe://example.org/a\0",
            "https://example.org/a",
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad}");
        }
        let long = format!("spiffe://example.org/{}", "a".repeat(2048));
        assert_eq!(SpiffeId::parse(&long), Err(SpiffeIdError::TooLong));
    }

    proptest! {
        #[test]
        fn prints_what_it_parsed(text in "spiffe://[a-z0-9._-]{1,20}(/[A-Za-z0-9_-]{1,10}){0,4}") {
            let id = SpiffeId::parse(&text).unwrap();
            prop_assert_eq!(id.as_str(), &text);
            prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
        }

        #[test]
        fn never_panics(text in ".{0,80}") {
            let _ = SpiffeId::parse(&text);
        }
    }
}
