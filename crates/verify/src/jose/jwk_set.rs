//! A set of public keys (RFC 7517 section 5), and the selection of the key for a token.

use serde_json::{Value, json};

use super::{Header, JoseError, Jwk, json as strict_json};

/// The maximum size of the JSON text of a key set, in bytes.
pub const MAX_JWK_SET_BYTES: usize = 1024 * 1024;

/// The maximum number of keys in a set.
pub const MAX_JWK_SET_KEYS: usize = 128;

/// The usable keys of a set, and for each other key the reason why it is not usable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwkSet {
    keys: Vec<Jwk>,
    refused: Vec<JoseError>,
}

impl JwkSet {
    /// Parses a key set from its JSON text.
    ///
    /// Keys with an unsupported type, curve, algorithm or use are ignored, as
    /// RFC 7517 section 5 requires. Private, symmetric, weak and malformed keys
    /// are ignored too. [`JwkSet::refused`] returns the reasons. A set may have
    /// no usable keys.
    ///
    /// # Errors
    ///
    /// [`JoseError::TooLarge`], [`JoseError::TooManyKeys`],
    /// [`JoseError::NotJson`], [`JoseError::NotObject`],
    /// [`JoseError::DuplicateMember`] (anywhere in the text), or [`JoseError::Member`] if
    /// `keys` is not an array of objects.
    pub fn from_json(text: &[u8]) -> Result<Self, JoseError> {
        if text.len() > MAX_JWK_SET_BYTES {
            return Err(JoseError::TooLarge {
                limit: MAX_JWK_SET_BYTES,
            });
        }
        let members = strict_json::parse_object(text, "key set")?;
        let Some(Value::Array(items)) = members.get("keys") else {
            return Err(JoseError::Member { member: "keys" });
        };
        if items.len() > MAX_JWK_SET_KEYS {
            return Err(JoseError::TooManyKeys {
                limit: MAX_JWK_SET_KEYS,
            });
        }
        let mut set = Self::default();
        for item in items {
            let Value::Object(members) = item else {
                return Err(JoseError::Member { member: "keys" });
            };
            match Jwk::from_members(members) {
                // A key that the text lists twice counts once.
                Ok(key) if set.keys.contains(&key) => {}
                Ok(key) => set.keys.push(key),
                Err(reason) => set.refused.push(reason),
            }
        }
        Ok(set)
    }

    /// Returns the usable keys.
    #[must_use]
    pub fn keys(&self) -> &[Jwk] {
        &self.keys
    }

    /// Returns the reasons why keys of the text were ignored, one reason per ignored key.
    #[must_use]
    pub fn refused(&self) -> &[JoseError] {
        &self.refused
    }

    /// Returns whether the set has no usable key.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the key for a token. If the token has a `kid`, selects by `kid`. Otherwise
    /// returns the only key that permits the token's algorithm.
    ///
    /// # Errors
    ///
    /// [`JoseError::UnknownKey`] if no key has the `kid`, or if the set is empty.
    /// [`JoseError::AlgorithmMismatch`] if no selected key permits the token's algorithm.
    /// [`JoseError::AmbiguousKey`] if several selected keys permit this algorithm.
    pub fn key_for(&self, header: &Header) -> Result<&Jwk, JoseError> {
        let mut named = self
            .keys
            .iter()
            .filter(|key| header.key_id().is_none_or(|id| key.is_named(id)))
            .peekable();
        if named.peek().is_none() {
            return Err(JoseError::UnknownKey);
        }
        let mut fitting = named.filter(|key| key.permits(header.algorithm()));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key),
            (Some(_), Some(_)) => Err(JoseError::AmbiguousKey),
            (None, _) => Err(JoseError::AlgorithmMismatch),
        }
    }

    /// Returns the set as a public JWK set.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({"keys": self.keys.iter().map(Jwk::to_json).collect::<Vec<_>>()})
    }
}

impl FromIterator<Jwk> for JwkSet {
    fn from_iter<I: IntoIterator<Item = Jwk>>(keys: I) -> Self {
        Self {
            keys: keys.into_iter().collect(),
            refused: Vec::new(),
        }
    }
}
