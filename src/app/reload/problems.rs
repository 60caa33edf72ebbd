//! Reports problems of loads in `/readyz`, `status` and the log.

use std::time::Duration;

use super::events::Change;
use super::file_watch::Watched;
use super::reloader::Reloader;
use crate::admin::{Problem, ProblemCode};
use crate::config::UnitKey;
use crate::identity::TrustDomain;
use crate::trust::{DenyList, DenyListError};

/// The subject under which `/readyz` reports a problem with the deny list's file.
const DENY_LIST: &str = "deny list";
/// The subject under which `/readyz` reports that no thread can be started to watch files.
const WATCH: &str = "file watch";
/// The interval at which the files of a suspended trust domain are read again.
const SUSPENDED_RETRY: Duration = Duration::from_millis(500);
/// A load that takes longer than this is reported as stalled.
const SLOW_LOAD: Duration = Duration::from_secs(2);

impl Reloader {
    /// Raises a problem in `/readyz` if the unit has one, and clears it otherwise.
    pub(super) fn report_unit(&mut self, key: &UnitKey) {
        let Some(unit) = self.units.get(key) else {
            return;
        };
        let subject = key.to_string();
        let Some(trouble) = unit.trouble() else {
            if !unit.is_in_trouble()
                && self
                    .parts
                    .readiness
                    .clear(ProblemCode::MaterialUnreadable, &subject)
            {
                tracing::info!("{key} can be used again");
            }
            return;
        };
        let detail = format!(
            "{key} is in service as it was before; everything else goes on: {}",
            trouble.detail
        );
        let problem =
            Problem::new(ProblemCode::MaterialUnreadable, &detail).command(&self.check_command());
        if self.parts.readiness.raise(&subject, problem) {
            self.parts.metrics.material_loaded(false);
            tracing::error!("{detail}");
        }
    }

    /// Raises the problem that the configuration in service differs from the configuration on disk.
    /// `why` is the reason.
    pub(super) fn report_refusal(&self, why: &str) {
        let detail = format!(
            "the configuration in service stays, and revocations take effect as before: {why}"
        );
        let problem =
            Problem::new(ProblemCode::ConfigurationRefused, &detail).command(&self.check_command());
        self.parts.readiness.raise("", problem);
    }

    fn check_command(&self) -> String {
        format!(
            "countersign check --config {}",
            self.running.path().display()
        )
    }

    /// Clears the problems of the previous configuration, because a new configuration came into
    /// service.
    pub(super) fn clear_problems_of_before(&self) {
        let readiness = &self.parts.readiness;
        readiness.clear(ProblemCode::ConfigurationRefused, "");
        // A problem of the deny list stays until its file was read, because the new configuration
        // does not necessarily solve it.
        readiness.clear_others(ProblemCode::MaterialUnreadable, |subject| {
            subject == DENY_LIST
        });
    }

    /// Raises a problem for each file that hangs while it is watched or read. Also raises a problem
    /// if no thread can be started to watch files.
    pub(super) fn report_stalls(&self) {
        let readiness = &self.parts.readiness;
        let mut subjects = Vec::new();
        let mut raise = |subject: String, detail: String, command: Option<String>| {
            // A file may hang in the file watch and in a load. Both have the same subject, and only
            // the first problem of a subject is raised.
            if subjects.contains(&subject) {
                return;
            }
            let mut problem = Problem::new(ProblemCode::MaterialStalled, &detail);
            if let Some(command) = command {
                problem = problem.command(&command);
            }
            if readiness.raise(&subject, problem) {
                tracing::error!("{detail}");
            }
            subjects.push(subject);
        };
        for ((watched, path), stalled) in self.watch.stalled() {
            let what = match watched {
                Watched::Configuration => "the configuration".to_owned(),
                Watched::Unit(key) => key.to_string(),
                Watched::DenyList => DENY_LIST.to_owned(),
            };
            // A stamp that a slow disk returns within a second is not a problem.
            if stalled.since.elapsed() < SLOW_LOAD / 2 {
                continue;
            }
            let file = path.display();
            let detail = format!(
                "{file} does not answer: changes of {what} are not seen; everything else is \
                 watched and goes on"
            );
            raise(what, detail, Some(format!("stat {file}")));
        }
        for (key, unit) in &self.units {
            if let Some((file, since)) = unit.reading()
                && since.elapsed() >= SLOW_LOAD
            {
                let file = file.display();
                let detail = format!(
                    "reading {file} does not end: {key} is in service as it was before; \
                     everything else goes on"
                );
                raise(key.to_string(), detail, Some(format!("stat {file}")));
            }
        }
        if let Some(load) = &self.configuration.loading
            && load.began.elapsed() >= SLOW_LOAD
            && let Some(file) = load.progress.reading()
        {
            let file = file.display();
            let detail = format!(
                "reading {file} does not end: the configuration in service stays, and \
                 revocations take effect as before"
            );
            raise(
                "configuration load".to_owned(),
                detail,
                Some(format!("stat {file}")),
            );
        }
        if self.watch.is_without_thread() {
            let detail = "the system gives no thread to watch files with: changes are not seen";
            raise(WATCH.to_owned(), detail.to_owned(), None);
        }
        readiness.clear_others(ProblemCode::MaterialStalled, |subject| {
            subjects.iter().any(|known| known == subject)
        });
    }

    /// Raises or clears the problems of the deny list after its file was checked.
    pub(super) fn deny_list_read(&self, list: &DenyList, outcome: Result<bool, DenyListError>) {
        let readiness = &self.parts.readiness;
        let unsaved = list.unsaved_count();
        if unsaved == 0 {
            readiness.clear(ProblemCode::DenyListUnsaved, DENY_LIST);
        }
        match outcome {
            Ok(changed) => {
                if changed {
                    tracing::info!("the deny list's file has changed and is in service");
                }
                if !list.is_damaged() {
                    readiness.clear(ProblemCode::MaterialUnreadable, DENY_LIST);
                }
            }
            Err(error) if unsaved > 0 => {
                let detail = format!(
                    "{unsaved} entries of the deny list are in force and not on disk; a restart \
                     would lose them: {error}"
                );
                let problem = Problem::new(ProblemCode::DenyListUnsaved, &detail)
                    .command("countersign deny list");
                if readiness.raise(DENY_LIST, problem) {
                    tracing::error!("{detail}");
                }
            }
            Err(error) => {
                let detail = format!("the deny list stays in force as it was: {error}");
                let problem = Problem::new(ProblemCode::MaterialUnreadable, &detail)
                    .command("countersign deny list");
                // Logged only if the problem is new, because each round of the file watch checks
                // the deny list.
                if readiness.raise(DENY_LIST, problem) {
                    tracing::error!("{detail}");
                }
            }
        }
    }

    /// Suspends a trust domain if its files could not be read for longer than `max_unread`. Its
    /// callers are then refused. The files of a suspended domain are read again at intervals.
    pub(super) fn suspend_unread(&mut self) {
        let stalled: Vec<UnitKey> = self
            .watch
            .stalled()
            .iter()
            .filter(|(_, stalled)| stalled.since.elapsed() >= SLOW_LOAD / 2)
            .filter_map(|((watched, _), _)| match watched {
                Watched::Unit(key) => Some(key.clone()),
                Watched::Configuration | Watched::DenyList => None,
            })
            .collect();
        let suspended: Vec<UnitKey> = self
            .running
            .suspended()
            .map(UnitKey::trust_domain)
            .collect();
        for key in stalled.iter().chain(&suspended) {
            // The file watch skips a file that hangs. Only a read of the unit can show that the
            // file works again.
            if let Some(unit) = self.units.get_mut(key) {
                unit.want_within(SUSPENDED_RETRY);
            }
        }
        let snapshot = self.parts.snapshot.load_full();
        for domain in snapshot.max_unread.keys() {
            let Some((_, since)) = self.unread(domain) else {
                continue;
            };
            if self.is_unread_for_too_long(domain)
                && !self.running.is_suspended(domain)
                && self.suspending.insert(domain.clone())
            {
                self.assemble(Change::Suspension {
                    domain: domain.clone(),
                    since,
                });
            }
        }
    }

    fn unread(&self, domain: &TrustDomain) -> Option<(std::time::Instant, i64)> {
        self.units
            .get(&UnitKey::trust_domain(domain))?
            .unread_since()
    }

    /// Whether a trust domain's files could not be read for longer than `max_unread`.
    pub(super) fn is_unread_for_too_long(&self, domain: &TrustDomain) -> bool {
        let snapshot = self.parts.snapshot.load();
        let bound = snapshot.max_unread.get(domain);
        let began = self.unread(domain).map(|(began, _)| began);
        began
            .zip(bound)
            .is_some_and(|(began, bound)| began.elapsed() >= *bound)
    }
}
