//! Refuses requests with fields that are so large that the service would end the whole connection.

use http::HeaderMap;

use super::state::ConnectionState;
use crate::upstream::connection::error::ServiceError;

/// Number of bytes that are added to the size of each field's name and value (RFC 9113 section
/// 6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// Maximum size in bytes of one field for a service that announces no limit. nginx has a buffer of
/// this size for each field, and ends the connection if a field is longer.
const FIELD_GUESS: usize = 8 * 1024;

/// Refuses fields that are larger than the service allows. `fields` returns the length of the name
/// and of the value of each field.
pub(super) fn check_fields<I: Iterator<Item = (usize, usize)>>(
    state: &ConnectionState,
    fields: impl Fn() -> I,
) -> Result<(), ServiceError> {
    // The receiver counts the size of a field in the same way (RFC 9113 section 6.5.2).
    let size = fields()
        .map(|(name, value)| name.saturating_add(value).saturating_add(FIELD_OVERHEAD))
        .sum();
    let (size_to_check, max) = match state.head_limit() {
        Some(limit) => (size, usize::try_from(limit).unwrap_or(usize::MAX)),
        None => {
            let longest = fields()
                .map(|(name, value)| name.saturating_add(value))
                .max();
            (longest.unwrap_or(0), FIELD_GUESS)
        }
    };
    if size_to_check > max {
        return Err(ServiceError::HeadTooLarge {
            size: size_to_check,
            max,
        });
    }
    state.note_head(size);
    Ok(())
}

/// Returns the lengths of the names and values of all fields.
pub(super) fn field_sizes(headers: &HeaderMap) -> impl Iterator<Item = (usize, usize)> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str().len(), value.len()))
}
