//! Where the configuration file is looked for.

use std::path::{Path, PathBuf};

/// The environment variable that names the configuration file.
pub const PATH_VARIABLE: &str = "COUNTERSIGN_CONFIG";

/// Where a configuration file is looked for without `--config`, after
/// [`PATH_VARIABLE`].
pub const DEFAULT_PATHS: [&str; 2] = ["./countersign.toml", "/etc/countersign/countersign.toml"];

/// No configuration file was named and none is in the usual places.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no configuration file: ${PATH_VARIABLE} is not set, and neither {} nor {} exists; \
     name one with --config FILE, or make one with: countersign init",
    DEFAULT_PATHS[0],
    DEFAULT_PATHS[1]
)]
pub struct NoConfiguration;

/// The configuration file to use without `--config`: what `$COUNTERSIGN_CONFIG`
/// names (whether it exists or not), `./countersign.toml`, or
/// `/etc/countersign/countersign.toml`, the first there is.
///
/// # Errors
/// When there is none; the error lists all three.
pub fn default_path() -> Result<PathBuf, NoConfiguration> {
    choose_path(std::env::var_os(PATH_VARIABLE), Path::exists)
}

/// The configuration file to use: the one named, or [`default_path`].
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
