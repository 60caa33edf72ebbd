//! Reports problems of loads in `/readyz`, `status` and the log.

use std::time::Duration;

use super::events::Change;
use super::file_watch::Watched;
use super::reloader::Reloader;
use crate::admin::{Problem, ProblemCode};
use crate::config::UnitKey;
use crate::identity::TrustDomain;
use crate::trust::{DenyList, DenyListError};

/// The subject of problems with the deny list's file.
const DENY_LIST: &str = "deny list";
/// The subject of the problem that the system refuses a thread for watching files.
const WATCH: &str = "file watch";
/// How often the files of a trust domain that is suspended are read again.
const SUSPENDED_RETRY: Duration = Duration::from_millis(500);
/// A load that takes longer than this is reported as stalled.
const SLOW_LOAD: Duration = Duration::from_secs(2);

impl Reloader {
    /// Reports the problem of a unit, or clears it if there is none any more.
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

    /// Reports why the configuration in service is not the one on disk.
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

    /// Clears the problems of the previous configuration, because a new one came into service.
    pub(super) fn clear_problems_of_before(&self) {
        let readiness = &self.parts.readiness;
        readiness.clear(ProblemCode::ConfigurationRefused, "");
        // Except for the deny list, whose problems may continue.
        readiness.clear_others(ProblemCode::MaterialUnreadable, |subject| {
            subject == DENY_LIST
        });
    }

    /// Reports the files that are not watched because their file system hangs.
    pub(super) fn report_stalls(&self) {
        let readiness = &self.parts.readiness;
        let mut subjects = Vec::new();
        let mut raise = |subject: String, detail: String, command: Option<String>| {
            // Watching and reading of the same file may both stall.
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
            // A disk that is slow now and then is no problem.
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

    /// Handles the outcome of reading the deny list.
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
                // A deny list that cannot be read is tried again and again.
                if readiness.raise(DENY_LIST, problem) {
                    tracing::error!("{detail}");
                }
            }
        }
    }

    /// Suspends the CRLs of a trust domain if the system has failed to read its files for
    /// longer than the domain allows. The files of a suspended domain are read again and again.
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
            // A file that hangs is noticed when the unit is read.
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

    /// Whether the system has failed to read a trust domain's files for longer than the
    /// domain allows.
    pub(super) fn is_unread_for_too_long(&self, domain: &TrustDomain) -> bool {
        let snapshot = self.parts.snapshot.load();
        let bound = snapshot.max_unread.get(domain);
        let began = self.unread(domain).map(|(began, _)| began);
        began
            .zip(bound)
            .is_some_and(|(began, bound)| began.elapsed() >= *bound)
    }
}
