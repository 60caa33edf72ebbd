//! [`Running`]: the configuration in service, and its material: certificates, keys and CRLs.
//!
//! A load of material reads again the files that the configuration in service names, one unit at a
//! time ([`Unit`]). This load does not read the configuration file. So an edit or a mistake in the
//! configuration file never delays a revocation.

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

/// A configuration as it was read, with its units of material. A unit is a set of files that are
/// read and take effect together.
#[derive(Debug, Clone)]
pub struct Running {
    path: PathBuf,
    source: Arc<str>,
    /// The stamp of the configuration file, taken before it was read.
    stamp: Option<FileStamp>,
    units: Units,
    suspended: BTreeMap<TrustDomain, i64>,
    unanswered: Unanswered,
}

/// A unit of material that was read again.
#[derive(Debug)]
pub struct LoadedUnit {
    unit: Arc<Unit>,
    /// Whether the unit has the same content as the unit in service. Always false if the unit is
    /// not a trust domain, because only trust domains are compared.
    pub is_unchanged: bool,
    /// The warnings about the unit.
    pub warnings: Vec<String>,
    /// Errors in files, patterns and URLs that cannot be used. The last good content of these
    /// files, patterns and URLs stays in use.
    pub degraded: Vec<String>,
    /// Whether the operating system failed to read a file or to list a directory, for example
    /// because of too few descriptors.
    pub system_failure: bool,
}

impl LoadedUnit {
    /// Whether all files of the unit could be read and used. If false, the last good content of
    /// some files may be in use.
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

/// The error if a unit cannot be loaded. The unit in service stays in service.
#[derive(Debug, Clone)]
pub struct UnitError {
    /// The errors, each with the file, the line and how to fix it.
    pub errors: Vec<String>,
    /// The stamps of the unit's files, taken before they were read.
    pub stamps: FileStamps,
    /// Whether the operating system failed to read a file or to list a directory, for example
    /// because of too few descriptors.
    pub system_failure: bool,
}

impl UnitError {
    /// Creates the error for a unit that cannot be read because the operating system
    /// refused to start a thread.
    pub fn system(error: &io::Error) -> Self {
        Self {
            errors: vec![format!("it cannot be read now: {error}")],
            stamps: FileStamps::new(),
            system_failure: true,
        }
    }

    /// Creates the error for a load of a unit that ended in a panic.
    #[must_use]
    pub fn panicked(panic: &str) -> Self {
        Self {
            errors: vec![format!("reading it panicked; please report this: {panic}")],
            stamps: FileStamps::new(),
            system_failure: false,
        }
    }

    /// Creates the error for a unit from the errors of a whole configuration.
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

    /// Returns the stamp of the configuration file, taken before the file was read.
    #[must_use]
    pub const fn stamp(&self) -> Option<&FileStamp> {
        self.stamp.as_ref()
    }

    /// Returns all units with the stamps of their files. Units without files are left out, because
    /// no file can change them.
    pub fn units(&self) -> impl Iterator<Item = (&UnitKey, &FileStamps)> {
        self.units
            .iter()
            .filter(|(_, unit)| !unit.stamps.is_empty())
            .map(|(key, unit)| (key, &unit.stamps))
    }

    pub(super) const fn all_units(&self) -> &Units {
        &self.units
    }

    /// Returns the current stamps of a unit's files. The stamp of a file is `None` if the file does
    /// not exist or its file system does not respond. Returns `None` if there is no such unit.
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

    /// Replaces a unit by `loaded`, which was read again.
    pub fn replace(&mut self, key: &UnitKey, loaded: &LoadedUnit) {
        self.units.insert(key.clone(), Arc::clone(&loaded.unit));
        // If all files of a trust domain could be read, its suspension ends (see
        // [`Self::suspend`]).
        if loaded.is_whole() {
            self.suspended
                .retain(|domain, _| UnitKey::trust_domain(domain) != *key);
        }
    }

    /// Suspends a trust domain: all its certificates are refused, because its CRLs may be outdated.
    /// The files of the domain could not be read since `since` (in seconds since the Unix epoch).
    pub fn suspend(&mut self, domain: &TrustDomain, since: i64) {
        self.suspended.entry(domain.clone()).or_insert(since);
    }

    /// Whether the unit belongs to a suspended trust domain.
    #[must_use]
    pub fn is_suspended_unit(&self, key: &UnitKey) -> bool {
        self.suspended()
            .any(|domain| UnitKey::trust_domain(domain) == *key)
    }

    /// Returns the suspended trust domains.
    pub fn suspended(&self) -> impl Iterator<Item = &TrustDomain> {
        self.suspended.keys()
    }

    /// Whether a trust domain is suspended.
    #[must_use]
    pub fn is_suspended(&self, domain: &TrustDomain) -> bool {
        self.suspended.contains_key(domain)
    }

    /// Reads the files of one unit, and builds a snapshot with the new unit. Waits at most 250 ms
    /// for each file. Only reads of a directory of signing keys have no time limit.
    ///
    /// # Errors
    /// The errors in the unit's files. The unit in service stays in service.
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
        // The first attempt may have failed because of new roots, for example if another trust
        // domain has the same root. Such an error must not delay a new CRL, so the second attempt
        // reads only the CRLs.
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
        // This attempt assumes that all files can be read, and ends a suspension of the domain. If
        // some files cannot be read, the code below restores the suspension.
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
                // The domain was suspended, and some of its files still cannot be read or used.
                // `assemble` builds a snapshot in which the domain is still suspended.
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

    /// Builds a snapshot of this configuration from its current units. Reads no files.
    ///
    /// # Errors
    /// If the units contradict each other, for example if two trust domains got the same root at
    /// the same time.
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
        // `stamps` also contains the configuration file. A change of that file does not mean that
        // the files of this unit have to be read again.
        stamps.remove(&self.path);
        UnitError {
            errors: self.lines(errors),
            stamps,
            system_failure: report.system_failure,
        }
    }
}
