//! `Readiness`: whether the gateway should be sent traffic, and what is wrong
//! although it should.
//!
//! Whoever notices a problem names it here and takes the name back when it is
//! over; `/readyz` shows them. A problem alone does not make the gateway
//! unready: it goes on with what it has.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::identity::text::printable;

/// What the process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Not serving yet.
    Starting,
    /// Serving.
    Ready,
    /// Serving what is there, until it ends; nothing new should come.
    Draining,
}

/// The state of the process, shared by all who change or show it.
#[derive(Debug)]
pub struct Readiness {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    problems: BTreeMap<String, String>,
}

/// Something an operator should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// A short name, the same each time.
    pub name: String,
    /// What is wrong, on one line.
    pub detail: String,
}

impl Readiness {
    /// The state of a process that has just begun.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                stage: Stage::Starting,
                problems: BTreeMap::new(),
            }),
        }
    }

    /// Everything listens.
    pub fn set_ready(&self) {
        self.state().stage = Stage::Ready;
    }

    /// The process is about to end.
    pub fn set_draining(&self) {
        self.state().stage = Stage::Draining;
    }

    /// What the process is doing.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.state().stage
    }

    /// Notes a problem; one that is noted already gets the new detail. Says whether
    /// that is news.
    pub fn set_problem(&self, name: &str, detail: &str) -> bool {
        let detail = printable(detail);
        let before = self
            .state()
            .problems
            .insert(name.to_owned(), detail.clone());
        before.is_none_or(|before| before != detail)
    }

    /// The problem is over.
    pub fn clear_problem(&self, name: &str) {
        self.state().problems.remove(name);
    }

    /// All problems, by name.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let state = self.state();
        let problems = state.problems.iter();
        problems
            .map(|(name, detail)| Problem {
                name: name.clone(),
                detail: detail.clone(),
            })
            .collect()
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
    fn problems_come_and_go_by_name() {
        let readiness = Readiness::new();
        assert_eq!(readiness.stage(), Stage::Starting);
        readiness.set_ready();
        readiness.set_problem("reload", "one");
        readiness.set_problem("crl", "stale\nsince \u{202e}yesterday");
        readiness.set_problem("reload", "two");
        let problems = readiness.problems();
        assert_eq!(problems.len(), 2);
        assert!(!problems[0].detail.contains(['\n', '\u{202e}']));
        assert_eq!(problems[1].detail, "two");
        assert_eq!(readiness.stage(), Stage::Ready);
        readiness.clear_problem("crl");
        readiness.clear_problem("crl");
        assert_eq!(readiness.problems().len(), 1);
        readiness.set_draining();
        assert_eq!(readiness.stage(), Stage::Draining);
    }
}
