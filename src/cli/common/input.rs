//! Reads a file, or standard input for `-`. All commands share its limits, messages and exit code.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::output::CliError;

const MIB: u64 = 1 << 20;

/// Reads a file, or standard input for `-`.
///
/// # Errors
/// Exit code 2 if the file cannot be read or has more than `max` bytes. The message names the file.
pub(in crate::cli) fn read(path: &Path, max: u64) -> Result<Vec<u8>, CliError> {
    let mut content = Vec::new();
    // One byte more than allowed is read, to detect that the input is too long.
    let limit = max.saturating_add(1);
    let outcome = match is_stdin(path) {
        true => std::io::stdin()
            .lock()
            .take(limit)
            .read_to_end(&mut content),
        false => File::open(path).and_then(|file| file.take(limit).read_to_end(&mut content)),
    };
    let name = name(path);
    outcome.map_err(|error| CliError::usage(format_args!("cannot read {name}: {error}")))?;
    if u64::try_from(content.len()).is_ok_and(|length| length <= max) {
        return Ok(content);
    }
    let max = match max % MIB {
        0 => format!("{} MiB", max / MIB),
        _ => format!("{max} bytes"),
    };
    Err(CliError::usage(format_args!("{name} is larger than {max}")))
}

/// Refuses the arguments if more than one of them is `-`.
pub(in crate::cli) fn check_one_stdin<'a>(
    paths: impl IntoIterator<Item = &'a Path>,
) -> Result<(), CliError> {
    match paths.into_iter().filter(|path| is_stdin(path)).count() {
        0 | 1 => Ok(()),
        _ => Err(CliError::usage("only one file can be - (standard input)")),
    }
}

/// Whether the argument means standard input.
pub(in crate::cli) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Returns the name of a file for use in messages.
pub(in crate::cli) fn name(path: &Path) -> String {
    match is_stdin(path) {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    }
}
