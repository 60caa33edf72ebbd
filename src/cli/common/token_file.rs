//! Reads an access token from a file.

use std::path::Path;

use countersign_verify::jose::MAX_TOKEN_BYTES;

use super::input;
use super::output::CliError;

/// Maximum number of bytes that are read. It is larger than the gateway's limit on tokens, so that
/// the same check as in the gateway refuses a token that is too long.
const MAX_FILE: u64 = 64 * MAX_TOKEN_BYTES as u64;

/// Reads a token. Removes the line ending that editors and shells add. If the content is not text,
/// returns an error about an invalid token.
pub(in crate::cli) fn read_token(path: &Path) -> Result<String, CliError> {
    let content = input::read(path, MAX_FILE)?;
    let text = String::from_utf8_lossy(&content);
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}
