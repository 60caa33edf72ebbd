//! `Presented`: the credentials that were taken out of a request's header fields.
//!
//! All credentials are removed before the gateway decides about the request. So no credential is
//! forwarded by mistake.

use std::fmt;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};

/// A field that carries a credential.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Field {
    /// The field is absent.
    #[default]
    Absent,
    /// The field occurs once.
    One(HeaderValue),
    /// The field occurs more than once.
    Several,
}

impl Field {
    /// Removes all fields with this name and returns their content.
    #[must_use]
    pub fn take(headers: &mut HeaderMap, name: &HeaderName) -> Self {
        let several = headers.get_all(name).iter().nth(1).is_some();
        match headers.remove(name) {
            None => Self::Absent,
            Some(_) if several => Self::Several,
            Some(value) => Self::One(value),
        }
    }
}

/// The credentials of one request.
#[derive(Clone, Default)]
pub struct Presented {
    /// The `Authorization` field.
    pub authorization: Field,
    /// The field that carries API keys.
    pub api_key: Field,
}

impl Presented {
    /// Removes the credentials from the header fields of a request.
    #[must_use]
    pub fn take(headers: &mut HeaderMap, api_key: &HeaderName) -> Self {
        Self {
            authorization: Field::take(headers, &AUTHORIZATION),
            api_key: Field::take(headers, api_key),
        }
    }
}

/// Prints whether the field is present. Never prints the value, because the value is secret.
impl fmt::Debug for Field {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Absent => "Absent",
            Self::One(_) => "One",
            Self::Several => "Several",
        })
    }
}

impl fmt::Debug for Presented {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Presented")
            .field("authorization", &self.authorization)
            .field("api_key", &self.api_key)
            .finish()
    }
}
