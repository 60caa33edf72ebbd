//! A set of public keys (RFC 7517 section 5) and the choice of one for a token.

use serde_json::{Value, json};

use super::{Header, JoseError, Jwk, json as strict_json};

/// The longest key set that is read, in octets.
pub const MAX_JWK_SET_BYTES: usize = 1024 * 1024;

/// The most keys a set may have.
pub const MAX_JWK_SET_KEYS: usize = 128;

/// The usable keys of a set, and why the others are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwkSet {
    keys: Vec<Jwk>,
    refused: Vec<JoseError>,
}

impl JwkSet {
    /// Reads a set from its JSON text.
    ///
    /// Keys of another type, curve, algorithm or use are left out, as RFC 7517
    /// section 5 asks; so are private, symmetric, weak and malformed keys.
    /// [`JwkSet::refused`] says why. A set may be left without keys.
    ///
    /// # Errors
    ///
    /// [`JoseError::TooLarge`], [`JoseError::TooManyKeys`],
    /// [`JoseError::NotJson`], [`JoseError::NotObject`],
    /// [`JoseError::DuplicateMember`] (anywhere in the text), or
    /// [`JoseError::Member`] when `keys` is not an array of objects.
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
                // The same key listed twice is still one key.
                Ok(key) if set.keys.contains(&key) => {}
                Ok(key) => set.keys.push(key),
                Err(reason) => set.refused.push(reason),
            }
        }
        Ok(set)
    }

    /// The keys that can be used.
    #[must_use]
    pub fn keys(&self) -> &[Jwk] {
        &self.keys
    }

    /// Why keys of the text were left out, one entry each.
    #[must_use]
    pub fn refused(&self) -> &[JoseError] {
        &self.refused
    }

    /// Whether no key can be used.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The one key for a token: by `kid` if the token has one, else the only
    /// key that permits the algorithm.
    ///
    /// # Errors
    ///
    /// [`JoseError::UnknownKey`] when no key has the `kid`,
    /// [`JoseError::AlgorithmMismatch`] when those that have it are for another
    /// algorithm, [`JoseError::AmbiguousKey`] when several would do.
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

    /// The set as it is published.
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
