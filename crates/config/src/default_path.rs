//! The default paths of the configuration file.

use std::path::{Path, PathBuf};

/// The environment variable that names the configuration file.
pub const PATH_VARIABLE: &str = "COUNTERSIGN_CONFIG";

/// Paths of the configuration file if there is neither `--config` nor [`PATH_VARIABLE`], in this
/// order.
pub const DEFAULT_PATHS: [&str; 2] = ["./countersign.toml", "/etc/countersign/countersign.toml"];

/// No configuration file is named, and there is none at the default paths.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no configuration file: ${PATH_VARIABLE} is not set, and neither {} nor {} exists; \
     name one with --config FILE, or make one with: countersign init",
    DEFAULT_PATHS[0],
    DEFAULT_PATHS[1]
)]
pub struct NoConfiguration;

/// Returns the configuration file to use without `--config`: the file that `$COUNTERSIGN_CONFIG`
/// names (whether it exists or not), or the first that exists of `./countersign.toml` and
/// `/etc/countersign/countersign.toml`.
///
/// # Errors
/// When there is none; the error lists all three.
pub fn default_path() -> Result<PathBuf, NoConfiguration> {
    choose_path(std::env::var_os(PATH_VARIABLE), Path::exists)
}

/// Returns the configuration file to use: the named one, or [`default_path`].
///
/// # Errors
/// When none is named and there is none in the usual places.
pub fn path(named: Option<&Path>) -> Result<PathBuf, NoConfiguration> {
    match named {
        Some(path) => Ok(path.to_owned()),
        None => default_path(),
    }
}

pub(super) fn choose_path(
    named: Option<std::ffi::OsString>,
    exists: impl Fn(&Path) -> bool,
) -> Result<PathBuf, NoConfiguration> {
    if let Some(path) = named.filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    DEFAULT_PATHS
        .iter()
        .map(Path::new)
        .find(|path| exists(path))
        .map(Path::to_owned)
        .ok_or(NoConfiguration)
}
