//! `TokenClaims`: the claims of an accepted token.
//!
//! Built by [`crate::authn`] alone. The claims do not name the caller if there is a certificate:
//! the certificate then names it, and the token's subject does not matter.

use std::sync::OnceLock;

use serde_json::{Map, Value};

/// A token that was accepted: the assertion's `token` object.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenClaims {
    /// `iss`
    pub issuer: String,
    /// `sub`: on whose behalf; never the caller's name.
    pub subject: Option<String>,
    /// `client_id`; without one, `azp`.
    pub client_id: Option<String>,
    /// Scopes, separated by single spaces.
    pub scope: Option<String>,
    /// `jti`
    pub token_id: Option<String>,
    /// `ath`: base64url SHA-256 of the token (RFC 9449 section 4.2).
    pub hash: String,
    /// `exp`, in whole seconds; an assertion must not outlive it.
    pub expires: u64,
    /// Whether the token is bound to the certificate with which it was presented.
    pub bound: bool,
    /// Claims that the issuer's rules keep.
    pub kept: Map<String, Value>,
    /// The `token` object as text, written once.
    pub text: OnceLock<String>,
}

impl TokenClaims {
    /// Returns the assertion's `token` object as text; kept with the claims, since a token comes
    /// with many requests.
    #[must_use]
    pub fn json(&self) -> &str {
        self.text.get_or_init(|| self.to_json().to_string())
    }

    /// Estimates the memory of the claims' texts, in bytes.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        let texts = [&self.subject, &self.client_id, &self.scope, &self.token_id];
        let kept = self
            .kept
            .iter()
            .map(|(name, value)| name.len() + value_size(value));
        self.issuer.len()
            + self.hash.len()
            + texts.into_iter().flatten().map(String::len).sum::<usize>()
            + kept.sum::<usize>()
    }

    /// Returns the `token` object of the assertion. A claim that is kept cannot replace one of the
    /// object's own members.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let texts = [
            ("sub", &self.subject),
            ("client_id", &self.client_id),
            ("scope", &self.scope),
            ("jti", &self.token_id),
        ];
        let mut object = Map::new();
        object.insert("iss".to_owned(), Value::from(self.issuer.as_str()));
        for (name, text) in texts {
            if let Some(text) = text {
                object.insert(name.to_owned(), Value::from(text.as_str()));
            }
        }
        object.insert("ath".to_owned(), Value::from(self.hash.as_str()));
        for (name, value) in &self.kept {
            object.entry(name.as_str()).or_insert_with(|| value.clone());
        }
        Value::Object(object)
    }
}

/// Estimates an upper bound of the memory of a JSON value.
fn value_size(value: &Value) -> usize {
    let own = size_of::<Value>();
    own + match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(value_size).sum(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| own + name.len() + value_size(value))
            .sum(),
    }
}
