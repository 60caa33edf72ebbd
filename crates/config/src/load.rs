//! Loading a configuration with everything that it names.

use std::path::{Path, PathBuf};

use super::diagnostics::{ConfigErrors, Diagnostics};
use super::document::Document;
use super::material::files::{self, Access, Progress};
use super::material::inventory::Inventory;
use super::material::units::UnitLoad;
use super::resolve::{self, ResolveInput};
use super::running::Running;
use crate::snapshot::{Settings, Snapshot};

/// A configuration, loaded and ready to serve.
#[derive(Debug)]
pub struct Loaded {
    /// Settings that cannot change without a restart.
    pub settings: Settings,
    /// The state for requests.
    pub snapshot: Snapshot,
    /// Warnings: an operator should look at them, although nothing is wrong.
    pub warnings: Vec<String>,
    /// Every file that was read, the configuration itself first, and every directory
    /// that was listed.
    pub files: Vec<PathBuf>,
    /// The configuration itself, from which its files can be loaded again.
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

/// Like [`load`], with a summary of the configuration.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn inspect(path: &Path) -> Result<(Loaded, Inventory), ConfigErrors> {
    inspect_with(path, &Progress::default())
}

/// Like [`inspect`]. Meanwhile `progress` shows which file is being read.
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
    let resolved = Document::read(&source, &mut diagnostics).and_then(|document| {
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

/// Loads a configuration with everything that it names, to replace the one in service. Blocks as
/// long as the file system does.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn load_after(
    running: &Running,
    previous: &Snapshot,
    progress: &Progress,
) -> Result<Loaded, ConfigErrors> {
    let units = UnitLoad {
        before: running.all_units().clone(),
        ..UnitLoad::default()
    };
    read(running.path(), Some(previous), units, progress).map(|(loaded, _)| loaded)
}
