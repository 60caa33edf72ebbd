//! `TokenClaims`: the claims of an accepted token.
//!
//! Only [`crate::authn`] creates this type. If the request also has a client certificate, the
//! certificate names the caller, and not the token.

use std::sync::OnceLock;

use serde_json::{Map, Value};

/// The claims of an accepted token of a configured issuer. They become the object `token` in
/// assertions.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenClaims {
    /// The `iss` claim.
    pub issuer: String,
    /// The `sub` claim: the user on whose behalf the caller acts. It is never the caller's name.
    pub subject: Option<String>,
    /// The `client_id` claim. If the token has none, the `azp` claim.
    pub client_id: Option<String>,
    /// The scopes of the token, separated by single spaces.
    pub scope: Option<String>,
    /// The `jti` claim.
    pub token_id: Option<String>,
    /// The base64url SHA-256 hash of the token, as in the `ath` claim of RFC 9449 section 4.2.
    pub hash: String,
    /// The `exp` claim in whole seconds since the Unix epoch. Assertions about this token must not
    /// be valid for longer.
    pub expires: u64,
    /// Whether the token is bound to the client certificate of the connection (RFC 8705).
    pub bound: bool,
    /// Further claims. The issuer's configuration names them, and they are copied into assertions.
    pub kept: Map<String, Value>,
    /// The object `token` as JSON text. It is computed by the first call of [`Self::json`].
    pub text: OnceLock<String>,
}

impl TokenClaims {
    /// Returns the object `token` of assertions as JSON text. The text is computed only once,
    /// because a token usually comes with many requests.
    #[must_use]
    pub fn json(&self) -> &str {
        self.text.get_or_init(|| self.to_json().to_string())
    }

    /// Estimates how many bytes of memory the claims use.
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

    /// Returns the object `token` of assertions. If a claim in `kept` has the name of a standard
    /// member of this object, the standard member stays.
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

/// Estimates how many bytes of memory a JSON value uses at most.
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
