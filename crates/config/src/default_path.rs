//! The default paths of the configuration file.

use std::path::{Path, PathBuf};

/// The environment variable with the path of the configuration file.
pub const PATH_VARIABLE: &str = "COUNTERSIGN_CONFIG";

/// The paths at which countersign looks for the configuration file, in this order. They are used
/// only if neither `--config` nor [`PATH_VARIABLE`] gives a path.
pub const DEFAULT_PATHS: [&str; 2] = ["./countersign.toml", "/etc/countersign/countersign.toml"];

/// The error if neither `--config` nor [`PATH_VARIABLE`] gives a path, and none of
/// [`DEFAULT_PATHS`] exists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no configuration file: ${PATH_VARIABLE} is not set, and neither {} nor {} exists; \
     name one with --config FILE, or make one with: countersign init",
    DEFAULT_PATHS[0],
    DEFAULT_PATHS[1]
)]
pub struct NoConfiguration;

/// Returns the path of the configuration file if there is no `--config`. If [`PATH_VARIABLE`] is
/// set and not empty, returns the path in this variable, even if no such file exists. Otherwise,
/// returns the first path of [`DEFAULT_PATHS`] that exists.
///
/// # Errors
/// If [`PATH_VARIABLE`] is not set or empty, and none of [`DEFAULT_PATHS`] exists.
pub fn default_path() -> Result<PathBuf, NoConfiguration> {
    choose_path(std::env::var_os(PATH_VARIABLE), Path::exists)
}

/// Returns `named`, which is the path in `--config`. If `named` is `None`, returns the result of
/// [`default_path`].
///
/// # Errors
/// If `named` is `None` and there is no default path.
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
