//! The configuration file: reading it and building what it describes.
//!
//! ```text
//! document.rs   the file as it is written, section by section
//! raw.rs        the one table of known keys
//!  └─ value.rs      single values with their places; demands.rs, quantity.rs: grammars
//! resolve/      what the values mean together: builds the domain types
//!  ├─ files.rs      reads certificates, keys and lists, and remembers which
//!  └─ units.rs      what takes effect as a whole, and is read again by itself
//! running       the configuration in service, and loads of its material
//! diagnostics   every error with file, line, caret and remedy; all at once
//! inventory     what was found, for `countersign check`
//! profiles      `profiles.toml` of an authority, with the same machinery
//! socket        the operators' socket alone, also of a file that does not load
//! template      the first file, for `countersign init`
//! ```
//!
//! Domain modules own their types and know nothing of the file; only this one
//! knows both. It never opens a socket and never writes a file.

mod demands;
mod diagnostics;
mod document;
mod files;
mod health_check;
mod inventory;
mod profiles;
pub mod quantity;
mod raw;
mod resolve;
mod running;
mod socket;
mod suggest;
mod template;
mod units;
mod url;
mod value;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use diagnostics::{ConfigErrors, Diagnostic, ErrorRecord};
use files::Access;
pub use files::Progress;
pub use inventory::{
    CertificateSummary, Inventory, ListSummary, ServerNameSummary, TrustDomainSummary,
};
pub use profiles::profiles;
pub use running::{LoadedUnit, Running, UnitError, load_after};
pub use socket::{SocketUnknown, admin_socket};
pub use template::{Starter, StarterError};
pub use units::UnitKey;

use crate::snapshot::{Settings, Snapshot};
use diagnostics::Diagnostics;
use resolve::ResolveInput;
use units::UnitLoad;

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

fn choose_path(
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

/// A configuration, loaded and ready to serve.
#[derive(Debug)]
pub struct Loaded {
    /// What cannot change without a restart.
    pub settings: Settings,
    /// The state for requests.
    pub snapshot: Snapshot,
    /// What an operator should look at, although nothing is wrong.
    pub warnings: Vec<String>,
    /// Every file that was read, the configuration itself first, and every directory
    /// that was listed.
    pub files: Vec<PathBuf>,
    /// The configuration itself, to load what it names again.
    pub running: Running,
}

/// Loads a configuration with everything it names: certificates, keys,
/// revocation lists. Relative paths in it start at its own directory.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn load(path: &Path) -> Result<Loaded, ConfigErrors> {
    inspect(path).map(|(loaded, _)| loaded)
}

/// Like [`load`], with a summary of what was found.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn inspect(path: &Path) -> Result<(Loaded, Inventory), ConfigErrors> {
    inspect_with(path, &Progress::default())
}

/// Like [`inspect`]; `progress` says meanwhile which file is being read.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn inspect_with(path: &Path, progress: &Progress) -> Result<(Loaded, Inventory), ConfigErrors> {
    read(path, None, UnitLoad::default(), progress)
}

fn read(
    path: &Path,
    previous: Option<&Snapshot>,
    units: UnitLoad,
    progress: &Progress,
) -> Result<(Loaded, Inventory), ConfigErrors> {
    let access = Access {
        progress: progress.clone(),
        unanswered: None,
    };
    let stamp = access.stamp(path);
    let source = files::read_configuration(path, &access)?;
    let mut diagnostics = Diagnostics::default();
    let resolved = document::Document::read(&source, &mut diagnostics).and_then(|document| {
        let input = ResolveInput {
            file: (path, stamp.clone()),
            previous,
            units,
            access,
        };
        resolve::resolve(&document, input, &mut diagnostics).0
    });
    match resolved {
        Some(resolved) if !diagnostics.has_errors() => {
            let loaded = Loaded {
                settings: resolved.settings,
                snapshot: resolved.snapshot,
                warnings: diagnostics.warnings(path, &source),
                files: resolved.files,
                running: Running::new((path, &source), stamp, resolved.units),
            };
            Ok((loaded, resolved.inventory))
        }
        _ => Err(diagnostics.into_errors(path, &source)),
    }
}
