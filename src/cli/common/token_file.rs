//! Reads an access token.

use std::path::Path;

use countersign_verify::jose::MAX_TOKEN_BYTES;

use super::input;
use super::output::CliError;

/// Most bytes of a file with a token. Far more than a token may have, so that the gateway
/// refuses a token that is too long.
const MAX_FILE: u64 = 64 * MAX_TOKEN_BYTES as u64;

/// Reads a token without the line ending that editors and shells add. Content that is not text
/// is refused as an invalid token.
pub(in crate::cli) fn read_token(path: &Path) -> Result<String, CliError> {
    let content = input::read(path, MAX_FILE)?;
    let text = String::from_utf8_lossy(&content);
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}
