//! Parses JSON and refuses duplicate members at any depth.
//!
//! If a JSON object has two members with the same name, RFC 8259 allows parsers
//! to use either of them. Two parsers could then read different content from the
//! same signed token. Therefore this module first checks the whole text for
//! duplicate members, and then parses the text.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::JoseError;

/// Parses a JSON object. `part` names the text in the error.
///
/// # Errors
///
/// [`JoseError::NotJson`], [`JoseError::NotObject`] or
/// [`JoseError::DuplicateMember`] (at any depth).
pub fn parse_object(text: &[u8], part: &'static str) -> Result<Map<String, Value>, JoseError> {
    refuse_duplicate_members(text, part)?;
    match serde_json::from_slice(text) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(JoseError::NotObject { part }),
        Err(_) => Err(JoseError::NotJson { part }),
    }
}

/// Checks that `text` is a JSON object without duplicate members at any depth. Call this function
/// before you deserialize `text` into a Rust type.
///
/// # Errors
///
/// The errors of [`parse_object`].
pub fn refuse_duplicate_members(text: &[u8], part: &'static str) -> Result<(), JoseError> {
    let mut found_duplicate = false;
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let outcome = Scan {
        found_duplicate: &mut found_duplicate,
    }
    .deserialize(&mut deserializer)
    .and_then(|kind| deserializer.end().map(|()| kind));
    match outcome {
        _ if found_duplicate => Err(JoseError::DuplicateMember { part }),
        Ok(Kind::Object) => Ok(()),
        Ok(Kind::Other) => Err(JoseError::NotObject { part }),
        Err(_) => Err(JoseError::NotJson { part }),
    }
}

/// The type of the outermost JSON value.
#[derive(Clone, Copy)]
enum Kind {
    Object,
    Other,
}

/// Visits one JSON value and all values inside it. `serde_json` limits the depth to 128.
struct Scan<'a> {
    found_duplicate: &'a mut bool,
}

impl<'de> DeserializeSeed<'de> for Scan<'_> {
    type Value = Kind;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scan<'_> {
    type Value = Kind;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Kind, A::Error> {
        let mut names = HashSet::new();
        while let Some(Name(name)) = members.next_key()? {
            if !names.insert(name) {
                *self.found_duplicate = true;
                return Err(serde::de::Error::custom("duplicate member"));
            }
            members.next_value_seed(Scan {
                found_duplicate: &mut *self.found_duplicate,
            })?;
        }
        Ok(Kind::Object)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Kind, A::Error> {
        while items
            .next_element_seed(Scan {
                found_duplicate: &mut *self.found_duplicate,
            })?
            .is_some()
        {}
        Ok(Kind::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Kind, E> {
        Ok(Kind::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Kind, E> {
        Ok(Kind::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Kind, E> {
        Ok(Kind::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Kind, E> {
        Ok(Kind::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Kind, E> {
        Ok(Kind::Other)
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Other)
    }
}

/// The name of a member, after its escapes were decoded: `"a"` and `"\u0061"` are the
/// same name.
#[derive(PartialEq, Eq, Hash)]
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}
