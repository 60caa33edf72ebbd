//! `Readiness`: whether the gateway should get traffic, and which problems it has.
//!
//! A part that notices a problem raises it here and clears it when it is over; `/readyz` shows
//! them. A problem alone does not make the gateway unready: an alarm is never an outage.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::clock;
use crate::identity::text::printable;

/// The stage of the process's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The process does not serve yet.
    Starting,
    /// Serving.
    Ready,
    /// Requests in progress are served; no new ones should come.
    Draining,
}

/// How much a problem matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is lost yet.
    Warning,
    /// Something does not work, or soon will not.
    Error,
}

/// The kinds of problems: stable names for people, alerts and scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemCode {
    /// The configuration file was refused: the earlier configuration stays in service.
    ConfigurationRefused,
    /// A file that the configuration in service names cannot be used: its last good content
    /// stays in service.
    MaterialUnreadable,
    /// A file system hangs: changes of the files on it are not noticed.
    MaterialStalled,
    /// Entries of the deny list are in force, but not on disk.
    DenyListUnsaved,
    /// A revocation list cannot be fetched.
    CrlUnavailable,
    /// A revocation list is past half of its life.
    CrlHalfLife,
    /// A revocation list is past its nextUpdate, or not valid yet.
    CrlStale,
    /// A root certificate or a revocation list in service has a problem.
    Trust,
    /// The shared store of rate limits does not respond.
    StoreUnreachable,
    /// The keys or the introspection of a token issuer are not available.
    TokenIssuerUnavailable,
    /// There are fewer file descriptors than the limits allow connections.
    DescriptorsLow,
}

impl ProblemCode {
    /// Whether the problem is about files that do not take effect.
    #[must_use]
    pub const fn concerns_files(self) -> bool {
        matches!(
            self,
            Self::ConfigurationRefused
                | Self::MaterialUnreadable
                | Self::MaterialStalled
                | Self::DenyListUnsaved
        )
    }

    /// How much problems of this kind matter.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::CrlHalfLife | Self::Trust | Self::DescriptorsLow => Severity::Warning,
            Self::ConfigurationRefused
            | Self::MaterialUnreadable
            | Self::MaterialStalled
            | Self::DenyListUnsaved
            | Self::CrlUnavailable
            | Self::CrlStale
            | Self::StoreUnreachable
            | Self::TokenIssuerUnavailable => Severity::Error,
        }
    }
}

/// The state of the process, shared by the parts that change or show it.
#[derive(Debug)]
pub struct Readiness {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    /// The problems, by kind and subject.
    problems: BTreeMap<(ProblemCode, String), Problem>,
}

/// A problem that an operator should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The kind of the problem.
    pub code: ProblemCode,
    /// The problem's severity.
    pub severity: Severity,
    /// When the problem began, RFC 3339, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The problem, and what still works, on one line.
    pub detail: String,
    /// The command that helps, or shows more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

impl Problem {
    /// Creates a problem. `detail` may quote files and peers, and is made safe to print.
    #[must_use]
    pub fn new(code: ProblemCode, detail: &str) -> Self {
        Self {
            code,
            severity: code.severity(),
            since: None,
            detail: printable(detail),
            command: None,
        }
    }

    /// Adds the command that fixes the problem.
    #[must_use]
    pub fn command(mut self, command: &str) -> Self {
        self.command = Some(printable(command));
        self
    }
}

impl Readiness {
    /// Creates the state of a process that has just begun.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                stage: Stage::Starting,
                problems: BTreeMap::new(),
            }),
        }
    }

    /// Notes that everything listens.
    pub fn set_ready(&self) {
        self.state().stage = Stage::Ready;
    }

    /// Notes that the process is about to end.
    pub fn set_draining(&self) {
        self.state().stage = Stage::Draining;
    }

    /// Returns the stage of the process's life.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.state().stage
    }

    /// Raises a problem of a subject, for example a file. A problem that was raised before gets
    /// the new detail and keeps its beginning. Returns whether the problem is new.
    pub fn raise(&self, subject: &str, problem: Problem) -> bool {
        let mut state = self.state();
        let key = (problem.code, subject.to_owned());
        let before = state.problems.get(&key);
        let is_news = before.is_none_or(|before| before.detail != problem.detail);
        let since = match before {
            Some(before) => before.since.clone(),
            None => {
                let now = clock::certificate_now();
                Some(clock::rfc3339(now))
            }
        };
        state.problems.insert(key, Problem { since, ..problem });
        is_news
    }

    /// Clears a problem that is over. Returns whether there was one.
    pub fn clear(&self, code: ProblemCode, subject: &str) -> bool {
        let mut state = self.state();
        state.problems.remove(&(code, subject.to_owned())).is_some()
    }

    /// Clears all problems of a kind whose subjects are not among these.
    pub fn clear_others(&self, code: ProblemCode, mut keep: impl FnMut(&str) -> bool) {
        let mut state = self.state();
        state
            .problems
            .retain(|(other, subject), _| *other != code || keep(subject));
    }

    /// Returns all problems, by kind and subject.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        self.state().problems.values().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before the lock is released.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_come_and_go_by_kind_and_subject() {
        use ProblemCode::{ConfigurationRefused, MaterialUnreadable};
        let readiness = Readiness::new();
        assert_eq!(readiness.stage(), Stage::Starting);
        readiness.set_ready();
        let raise = |code, subject: &str, detail: &str| {
            readiness.raise(subject, Problem::new(code, detail))
        };
        assert!(raise(ConfigurationRefused, "", "one"));
        assert!(raise(
            MaterialUnreadable,
            "a.crl",
            "stale\nsince \u{202e}then"
        ));
        assert!(raise(MaterialUnreadable, "b.crl", "gone"));
        assert!(raise(ConfigurationRefused, "", "two"));
        assert!(!raise(ConfigurationRefused, "", "two"), "no news");
        let problems = readiness.problems();
        assert_eq!(problems.len(), 3);
        assert_eq!(problems[0].detail, "two");
        assert!(problems[0].since.is_some());
        assert!(!problems[1].detail.contains(['\n', '\u{202e}']));
        assert_eq!(readiness.stage(), Stage::Ready);
        assert!(readiness.clear(MaterialUnreadable, "a.crl"));
        assert!(!readiness.clear(MaterialUnreadable, "a.crl"));
        assert_eq!(readiness.problems().len(), 2);
        readiness.clear_others(MaterialUnreadable, |subject| subject == "c.crl");
        assert_eq!(readiness.problems().len(), 1);
        readiness.set_draining();
        assert_eq!(readiness.stage(), Stage::Draining);
    }
}
