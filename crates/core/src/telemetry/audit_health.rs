//! `AuditHealth`: whether audit lines can be written, and how many were written or lost.
//!
//! The writer thread may hang in a file system, or in a pipe that has no reader. Therefore other
//! threads can read the state without waiting for the writer thread.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::metrics::AuditCounts;
use crate::clock;

/// A write that takes longer than this number of seconds counts as a failure.
const SLOW_WRITE: u64 = 2;

/// Whether audit lines can be written.
#[derive(Debug)]
pub struct AuditHealth {
    /// The path of the log. `None` for standard output.
    file: Option<PathBuf>,
    /// When the write in progress began, in seconds since the Unix epoch. Zero if there is none.
    writing_since: AtomicU64,
    failure: Mutex<Option<Failure>>,
    written: AtomicU64,
    lost: AtomicU64,
    /// Number of lost lines that the log does not report yet.
    unsaid: AtomicU64,
    last_write: AtomicU64,
}

#[derive(Debug, Clone)]
struct Failure {
    since: u64,
    error: String,
}

/// Why audit lines cannot be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditProblem {
    /// When the problem began, in seconds since the Unix epoch.
    pub since: u64,
    /// A description of the problem, and of what still works.
    pub detail: String,
    /// A command that shows more about the problem.
    pub command: String,
}

impl AuditHealth {
    pub(super) fn of(file: Option<PathBuf>) -> Self {
        Self {
            file,
            writing_since: AtomicU64::new(0),
            failure: Mutex::new(None),
            written: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            unsaid: AtomicU64::new(0),
            last_write: AtomicU64::new(0),
        }
    }

    /// Runs `write`, which returns how many lines it has written, and its outcome. Records both.
    pub(super) fn writing(&self, write: impl FnOnce() -> (u64, io::Result<()>)) -> io::Result<()> {
        self.writing_since
            .store(clock::unix_now(), Ordering::Release);
        let (lines, outcome) = write();
        self.writing_since.store(0, Ordering::Release);
        self.written.fetch_add(lines, Ordering::Relaxed);
        if lines > 0 {
            self.last_write.store(clock::unix_now(), Ordering::Relaxed);
        }
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        match &outcome {
            Ok(()) => {
                if failure.take().is_some() {
                    tracing::info!("the audit log is written again");
                }
            }
            Err(error) => {
                let since = failure.as_ref().map(|before| before.since);
                let error = error.to_string();
                if failure.as_ref().is_none_or(|before| before.error != error) {
                    tracing::error!(%error, "the audit log cannot be written");
                }
                *failure = Some(Failure {
                    since: since.unwrap_or_else(clock::unix_now),
                    error,
                });
            }
        }
        outcome
    }

    /// Records that lines were lost.
    pub(super) fn record_lost(&self, lines: u64) {
        let before = self.lost.fetch_add(lines, Ordering::Relaxed);
        self.unsaid.fetch_add(lines, Ordering::Relaxed);
        if before == 0 && lines > 0 {
            tracing::error!("audit lines are lost, because the log cannot be written fast enough");
        }
    }

    /// Returns the number of lost lines that the log does not report yet. The next call does not
    /// count these lines again.
    pub(super) fn take_unsaid(&self) -> u64 {
        self.unsaid.swap(0, Ordering::Relaxed)
    }

    /// Returns how many lines were written and how many were lost.
    #[must_use]
    pub fn counts(&self) -> AuditCounts {
        AuditCounts {
            sink: match self.file {
                Some(_) => "file",
                None => "stdout",
            },
            written: self.written.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            last_write: self.last_write.load(Ordering::Relaxed),
        }
    }

    /// Returns why lines cannot be written now. Returns `None` if they can.
    #[must_use]
    pub fn problem(&self) -> Option<AuditProblem> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = failure.clone().or_else(|| self.slow_write())?;
        let lost = self.lost.load(Ordering::Relaxed);
        let name = self.file.as_ref().map_or_else(
            || "standard output".to_owned(),
            |file| file.display().to_string(),
        );
        let lines = match lost {
            0 => "the lines wait in memory and none is lost yet".to_owned(),
            lost => format!("{lost} lines are lost since the start"),
        };
        Some(AuditProblem {
            since: failure.since,
            detail: format!(
                "the audit log {name} cannot be written: {}; requests are served, and {lines}",
                failure.error
            ),
            command: match self.file.as_ref().and_then(|file| file.parent()) {
                Some(directory) => format!("df -h {}", directory.display()),
                None => format!("ls -l /proc/{}/fd/1", std::process::id()),
            },
        })
    }

    fn slow_write(&self) -> Option<Failure> {
        let since = self.writing_since.load(Ordering::Acquire);
        let is_slow = since != 0 && clock::unix_now().saturating_sub(since) >= SLOW_WRITE;
        is_slow.then(|| Failure {
            since,
            error: "a write does not end".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_a_problem_until_a_write_succeeds() {
        let health = AuditHealth::of(Some("/var/log/audit.jsonl".into()));
        assert_eq!(health.problem(), None);
        let refused = || (1, Err(io::ErrorKind::StorageFull.into()));
        assert!(health.writing(refused).is_err());
        let first = health.problem().unwrap();
        assert!(
            first.detail.contains("none is lost yet"),
            "{}",
            first.detail
        );
        assert_eq!(first.command, "df -h /var/log");
        health.record_lost(2);
        assert!(health.writing(refused).is_err());
        let second = health.problem().unwrap();
        assert_eq!(second.since, first.since);
        assert!(
            second.detail.contains("2 lines are lost"),
            "{}",
            second.detail
        );
        assert!(health.writing(|| (3, Ok(()))).is_ok());
        assert_eq!(health.problem(), None);
        assert_eq!((health.take_unsaid(), health.take_unsaid()), (2, 0));
        let counts = health.counts();
        assert_eq!((counts.written, counts.lost), (5, 2));
        assert!(counts.last_write > 0);
    }
}
