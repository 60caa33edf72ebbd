//! Loads a configuration with all files that it names.

use std::path::{Path, PathBuf};

use super::diagnostics::{ConfigErrors, Diagnostics};
use super::document::Document;
use super::host::{self, RunningGateway};
use super::material::files::{self, Access, Progress};
use super::material::inventory::Inventory;
use super::material::units::UnitLoad;
use super::resolve::{self, ResolveInput};
use super::running::Running;
use crate::snapshot::{Settings, Snapshot};

/// A configuration that was loaded without errors, with everything that was built from it.
#[derive(Debug)]
pub struct Loaded {
    /// The settings that cannot change without a restart.
    pub settings: Settings,
    /// The immutable state that decides about requests.
    pub snapshot: Snapshot,
    /// Warnings for the operator. The configuration is used in spite of warnings.
    pub warnings: Vec<String>,
    /// Every file that was read, starting with the configuration file, and every directory that was
    /// listed.
    pub files: Vec<PathBuf>,
    /// The configuration as it was read. Later loads of certificates, keys and CRLs use it.
    pub running: Running,
}

/// Loads a configuration with all files that it names: certificates, keys, CRLs. Relative paths
/// start at the directory of the configuration file.
///
/// # Errors
/// All errors in the configuration and in the files that it names.
pub fn load(path: &Path) -> Result<Loaded, ConfigErrors> {
    inspect(path).map(|(loaded, _)| loaded)
}

/// Same as [`load`], but also returns a summary of the configuration's certificates and CRLs.
///
/// # Errors
/// All errors in the configuration and in the files that it names.
pub fn inspect(path: &Path) -> Result<(Loaded, Inventory), ConfigErrors> {
    inspect_with(path, &Progress::default())
}

/// Same as [`inspect`]. While this function runs, `progress` shows which file is being read.
///
/// # Errors
/// All errors in the configuration and in the files that it names.
pub fn inspect_with(path: &Path, progress: &Progress) -> Result<(Loaded, Inventory), ConfigErrors> {
    read(path, None, UnitLoad::default(), None, progress)
}

/// Same as [`inspect_with`], but also checks what a start needs from this machine: free addresses,
/// and files and directories that can be written. `running` is what is known about a gateway that
/// runs with this configuration.
///
/// # Errors
/// All errors in the configuration and in the files that it names, and everything on this machine
/// that would prevent a start.
pub fn inspect_on_host(
    path: &Path,
    running: &RunningGateway,
    progress: &Progress,
) -> Result<(Loaded, Inventory), ConfigErrors> {
    read(path, None, UnitLoad::default(), Some(running), progress)
}

fn read(
    path: &Path,
    previous: Option<&Snapshot>,
    units: UnitLoad,
    host: Option<&RunningGateway>,
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
        let resolved = resolve::resolve(&document, input, &mut diagnostics).0;
        if let Some(running) = host {
            let base = path.parent().unwrap_or(Path::new(""));
            host::check(&document, base, running, &mut diagnostics);
        }
        resolved
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

/// Loads the configuration file again, with all files that it names, to replace `running`, the
/// configuration in service. Blocks without a time limit if the file system does not respond.
///
/// # Errors
/// All errors in the configuration and in the files that it names.
pub fn load_after(
    running: &Running,
    previous: &Snapshot,
    progress: &Progress,
) -> Result<Loaded, ConfigErrors> {
    let units = UnitLoad {
        before: running.all_units().clone(),
        ..UnitLoad::default()
    };
    read(running.path(), Some(previous), units, None, progress).map(|(loaded, _)| loaded)
}
