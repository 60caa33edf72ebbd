//! `Running`: the configuration that is in service, kept as it was read, and the
//! loading of its material.
//!
//! The present content of the file on disk does not matter here: a load of material reads the files
//! that the configuration in service names, one unit at a time. So no edit, typo or permission of
//! the configuration delays a revocation.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnostics::{ConfigErrors, Diagnostic, Diagnostics};
use super::document::Document;
use super::material::files::{Access, Progress, Unanswered};
use super::material::units::{Unit, UnitKey, UnitLoad, Units};
use super::resolve::{ResolveInput, ResolveReport, Resolved, resolve};
use crate::file_stamp::{FileStamp, FileStamps};
use crate::identity::TrustDomain;
use crate::snapshot::Snapshot;

/// A configuration as it was read, with its units of material.
#[derive(Debug, Clone)]
pub struct Running {
    path: PathBuf,
    source: Arc<str>,
    /// Stamp of the configuration file, taken before it was read.
    stamp: Option<FileStamp>,
    units: Units,
    suspended: BTreeMap<TrustDomain, i64>,
    unanswered: Unanswered,
}

/// A unit that was loaded.
#[derive(Debug)]
pub struct LoadedUnit {
    unit: Arc<Unit>,
    /// Whether the unit is identical to the one in service.
    pub is_unchanged: bool,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
    /// Parts that cannot be used and are replaced by the last good ones.
    pub degraded: Vec<String>,
    /// Whether the system failed to read a file that may exist.
    pub system_failure: bool,
}

impl LoadedUnit {
    /// Whether every part of the unit could be used, so that no last good part replaces it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.degraded.is_empty() && !self.system_failure
    }

    /// Returns the stamps of the unit's files, taken before they were read.
    #[must_use]
    pub fn stamps(&self) -> &FileStamps {
        &self.unit.stamps
    }
}

/// Why a unit cannot be loaded: the last good one stays.
#[derive(Debug, Clone)]
pub struct UnitError {
    /// The errors, each with file, line and remedy.
    pub errors: Vec<String>,
    /// The files that were read, as they were before.
    pub stamps: FileStamps,
    /// Whether the system failed to read a file that may exist.
    pub system_failure: bool,
}

impl UnitError {
    /// Creates the error for a unit that cannot be read because the system refuses a thread.
    pub fn system(error: &io::Error) -> Self {
        Self {
            errors: vec![format!("it cannot be read now: {error}")],
            stamps: FileStamps::new(),
            system_failure: true,
        }
    }

    /// Creates the error for a panic while the unit was read.
    #[must_use]
    pub fn panicked(panic: &str) -> Self {
        Self {
            errors: vec![format!("reading it panicked; please report this: {panic}")],
            stamps: FileStamps::new(),
            system_failure: false,
        }
    }

    /// Creates the error for a unit from the errors of a configuration that contains the unit.
    #[must_use]
    pub fn of(errors: &ConfigErrors) -> Self {
        Self {
            errors: errors
                .errors()
                .iter()
                .map(|error| error.message().to_owned())
                .collect(),
            stamps: FileStamps::new(),
            system_failure: false,
        }
    }
}

impl Running {
    pub(super) fn new(
        (path, source): (&Path, &str),
        stamp: Option<FileStamp>,
        units: Units,
    ) -> Self {
        Self {
            path: path.to_owned(),
            source: source.into(),
            stamp,
            units,
            suspended: BTreeMap::new(),
            unanswered: Unanswered::default(),
        }
    }

    /// Returns the path of the configuration file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the configuration file's stamp before it was read.
    #[must_use]
    pub const fn stamp(&self) -> Option<&FileStamp> {
        self.stamp.as_ref()
    }

    /// Iterates over all units with the stamps of their files. Units without files are omitted,
    /// because they never change.
    pub fn units(&self) -> impl Iterator<Item = (&UnitKey, &FileStamps)> {
        self.units
            .iter()
            .filter(|(_, unit)| !unit.stamps.is_empty())
            .map(|(key, unit)| (key, &unit.stamps))
    }

    pub(super) const fn all_units(&self) -> &Units {
        &self.units
    }

    /// Takes the stamps of a unit's files again; files whose file system does not respond have none.
    #[must_use]
    pub fn stamps_now(&self, key: &UnitKey, progress: &Progress) -> Option<FileStamps> {
        let access = Access {
            progress: progress.clone(),
            unanswered: Some(self.unanswered.clone()),
        };
        let paths = self.units.get(key)?.stamps.keys();
        Some(
            paths
                .map(|path| (path.clone(), access.stamp(path)))
                .collect(),
        )
    }

    /// Puts a unit in the place of the one before.
    pub fn replace(&mut self, key: &UnitKey, loaded: &LoadedUnit) {
        self.units.insert(key.clone(), Arc::clone(&loaded.unit));
        // Revocation lists that could be read are valid again.
        if loaded.is_whole() {
            self.suspended
                .retain(|domain, _| UnitKey::trust_domain(domain) != *key);
        }
    }

    /// Suspends a trust domain's revocation lists, because nothing newer could be read since
    /// `since` (seconds since the Unix epoch).
    pub fn suspend(&mut self, domain: &TrustDomain, since: i64) {
        self.suspended.entry(domain.clone()).or_insert(since);
    }

    /// Whether the unit belongs to a trust domain whose revocation lists are suspended.
    #[must_use]
    pub fn is_suspended_unit(&self, key: &UnitKey) -> bool {
        self.suspended()
            .any(|domain| UnitKey::trust_domain(domain) == *key)
    }

    /// Iterates over the trust domains whose revocation lists are suspended.
    pub fn suspended(&self) -> impl Iterator<Item = &TrustDomain> {
        self.suspended.keys()
    }

    /// Whether the revocation lists of a trust domain are suspended.
    #[must_use]
    pub fn is_suspended(&self, domain: &TrustDomain) -> bool {
        self.suspended.contains_key(domain)
    }

    /// Reads the files of one unit and builds a snapshot with the new unit instead of the one in
    /// service. Blocks as long as the file system does.
    ///
    /// # Errors
    /// The errors in the unit's files. Nothing has changed in that case.
    pub fn load_unit(
        &self,
        key: &UnitKey,
        previous: &Snapshot,
        progress: &Progress,
    ) -> Result<(LoadedUnit, Snapshot), UnitError> {
        let first = match self.try_unit(key, previous, progress, false) {
            Err(error) if key.is_trust_domain() => error,
            outcome => return outcome,
        };
        // New roots may contradict another trust domain. That must not keep a new
        // revocation list out.
        match self.try_unit(key, previous, progress, true) {
            Ok((mut loaded, snapshot)) => {
                loaded.degraded.extend(first.errors);
                Ok((loaded, snapshot))
            }
            Err(_) => Err(first),
        }
    }

    fn try_unit(
        &self,
        key: &UnitKey,
        previous: &Snapshot,
        progress: &Progress,
        crls_only: bool,
    ) -> Result<(LoadedUnit, Snapshot), UnitError> {
        let mut units = UnitLoad {
            known: self.units.clone(),
            suspended: self.suspended.clone(),
            keep_last_good: true,
            crls_only,
            ..UnitLoad::default()
        };
        // Revocation lists that can be read are valid again.
        units
            .suspended
            .retain(|domain, _| UnitKey::trust_domain(domain) != *key);
        let was_suspended = units.suspended.len() < self.suspended.len();
        if let Some(before) = units.known.remove(key) {
            units.before.insert(key.clone(), before);
        }
        let (resolved, report, mut diagnostics) = self.resolve(previous, units, progress);
        match resolved {
            Some(Resolved {
                snapshot, units, ..
            }) if !diagnostics.has_errors() => {
                let Some(unit) = units.get(key).map(Arc::clone) else {
                    return Err(self.unit_error(&[], report));
                };
                let before = self.units.get(key).and_then(|before| before.digest);
                let warnings = self.lines(&unit.warnings);
                let unit_digest = unit.digest;
                let loaded = LoadedUnit {
                    unit,
                    is_unchanged: before.is_some() && before == unit_digest,
                    warnings,
                    degraded: self.lines(&report.degraded),
                    system_failure: report.system_failure,
                };
                if !was_suspended || loaded.is_whole() {
                    return Ok((loaded, snapshot));
                }
                // A part could be read, and others still cannot.
                let mut running = self.clone();
                running.replace(key, &loaded);
                match running.assemble(previous) {
                    Ok(snapshot) => Ok((loaded, snapshot)),
                    Err(error) => Err(UnitError::of(&error)),
                }
            }
            _ => {
                let mut errors = diagnostics.take_errors_from(0);
                errors.extend(report.degraded.iter().cloned());
                Err(self.unit_error(&errors, report))
            }
        }
    }

    /// Builds the snapshot of this configuration with the units that it has now.
    /// Reads no file.
    ///
    /// # Errors
    /// When units that were loaded side by side do not fit each other.
    pub fn assemble(&self, previous: &Snapshot) -> Result<Snapshot, ConfigErrors> {
        let units = UnitLoad {
            known: self.units.clone(),
            suspended: self.suspended.clone(),
            keep_last_good: true,
            ..UnitLoad::default()
        };
        let (resolved, _, diagnostics) = self.resolve(previous, units, &Progress::default());
        match resolved {
            Some(Resolved { snapshot, .. }) if !diagnostics.has_errors() => Ok(snapshot),
            _ => Err(diagnostics.into_errors(&self.path, &self.source)),
        }
    }

    fn resolve(
        &self,
        previous: &Snapshot,
        units: UnitLoad,
        progress: &Progress,
    ) -> (Option<Resolved>, ResolveReport, Diagnostics) {
        let mut diagnostics = Diagnostics::default();
        let Some(document) = Document::read(&self.source, &mut diagnostics) else {
            return (None, ResolveReport::default(), diagnostics);
        };
        let input = ResolveInput {
            file: (&self.path, self.stamp.clone()),
            previous: Some(previous),
            units,
            access: Access {
                progress: progress.clone(),
                unanswered: Some(self.unanswered.clone()),
            },
        };
        let (resolved, report) = resolve(&document, input, &mut diagnostics);
        (resolved, report, diagnostics)
    }

    fn lines(&self, diagnostics: &[Diagnostic]) -> Vec<String> {
        let line = |one: &Diagnostic| one.one_line(&self.path, &self.source);
        diagnostics.iter().map(line).collect()
    }

    fn unit_error(&self, errors: &[Diagnostic], report: ResolveReport) -> UnitError {
        let mut stamps = report.stamps;
        // Only a load of the configuration reads the configuration file.
        stamps.remove(&self.path);
        UnitError {
            errors: self.lines(errors),
            stamps,
            system_failure: report.system_failure,
        }
    }
}
