//! `AuditHealth`: whether audit lines can be written, and how many were written or lost.
//!
//! The writer thread may hang in a file system, or in a pipe that has no reader. Therefore other
//! threads can read the state without waiting for the writer thread.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::metrics::AuditCounts;
use crate::identity::text::shell;
use crate::{clock, file_access};

/// A write that takes longer than this number of seconds counts as a failure.
const SLOW_WRITE: u64 = 2;
/// Number of seconds for which lost lines remain a problem after the last one.
const RECENT_LOSS: u64 = 60;

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
    unreported: AtomicU64,
    /// When a line was last lost, in seconds since the Unix epoch. Zero if none was lost.
    last_loss: AtomicU64,
    /// When the first line of the present or last series of losses was lost, in seconds since the
    /// Unix epoch. A series ends when lost lines are no longer a problem.
    losing_since: AtomicU64,
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
            unreported: AtomicU64::new(0),
            last_loss: AtomicU64::new(0),
            losing_since: AtomicU64::new(0),
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
        self.record_lost_at(clock::unix_now(), lines);
    }

    fn record_lost_at(&self, now: u64, lines: u64) {
        if lines == 0 {
            return;
        }
        let since = self.losing_since.load(Ordering::Acquire);
        // Workers may lose lines at the same time. Only one of them begins a series.
        let begins = !self.is_losing(now)
            && self
                .losing_since
                .compare_exchange(since, now, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        self.last_loss.store(now, Ordering::Release);
        self.lost.fetch_add(lines, Ordering::Relaxed);
        self.unreported.fetch_add(lines, Ordering::Release);
        if begins {
            tracing::error!("audit lines are lost, because the log cannot be written fast enough");
        }
    }

    /// Whether lines were lost a short time ago, or the log does not report lost lines yet.
    fn is_losing(&self, now: u64) -> bool {
        let last_loss = self.last_loss.load(Ordering::Acquire);
        self.unreported() > 0 || (last_loss != 0 && now.saturating_sub(last_loss) < RECENT_LOSS)
    }

    /// Returns the number of lost lines that the log does not report yet.
    pub(super) fn unreported(&self) -> u64 {
        self.unreported.load(Ordering::Acquire)
    }

    /// Records that the log reports `lines` lost lines.
    pub(super) fn record_reported(&self, lines: u64) {
        self.unreported.fetch_sub(lines, Ordering::AcqRel);
    }

    /// Whether the last write failed.
    pub(super) fn has_failure(&self) -> bool {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.is_some()
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

    /// Returns why lines cannot be written now, or why they are lost. Returns `None` if there is no
    /// problem.
    #[must_use]
    pub fn problem(&self) -> Option<AuditProblem> {
        self.problem_at(clock::unix_now())
    }

    fn problem_at(&self, now: u64) -> Option<AuditProblem> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = failure.clone().or_else(|| self.slow_write(now));
        let (since, why) = match failure {
            Some(failure) => (failure.since, format!(": {}", failure.error)),
            None if self.is_losing(now) => (
                self.losing_since.load(Ordering::Acquire),
                " fast enough".to_owned(),
            ),
            None => return None,
        };
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
            since,
            detail: format!(
                "the audit log {name} cannot be written{why}; requests are served, and {lines}"
            ),
            command: match &self.file {
                Some(file) => format!("df -h {}", shell(file_access::parent(file))),
                None => format!("ls -l /proc/{}/fd/1", std::process::id()),
            },
        })
    }

    fn slow_write(&self, now: u64) -> Option<Failure> {
        let since = self.writing_since.load(Ordering::Acquire);
        let is_slow = since != 0 && now.saturating_sub(since) >= SLOW_WRITE;
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
        for (file, command) in [
            ("audit.jsonl", "df -h ."),
            ("/var/audit logs/a.jsonl", "df -h '/var/audit logs'"),
        ] {
            let health = AuditHealth::of(Some(file.into()));
            assert!(health.writing(refused).is_err());
            assert_eq!(health.problem().unwrap().command, command);
        }
        health.record_lost(2);
        assert!(health.writing(refused).is_err());
        let second = health.problem().unwrap();
        assert_eq!(second.since, first.since);
        assert!(
            second.detail.contains("2 lines are lost"),
            "{}",
            second.detail
        );
        health.record_reported(2);
        assert!(health.writing(|| (3, Ok(()))).is_ok());
        let later = clock::unix_now() + RECENT_LOSS;
        assert_eq!(health.problem_at(later), None);
        let counts = health.counts();
        assert_eq!((counts.written, counts.lost), (5, 2));
        assert!(counts.last_write > 0);
    }

    /// The log can be too slow although every write succeeds within a short time.
    #[test]
    fn lost_lines_are_a_problem_until_they_are_reported_and_a_minute_old() {
        let health = AuditHealth::of(None);
        let since = |now| health.problem_at(now).map(|problem| problem.since);
        health.record_lost_at(1000, 0);
        assert_eq!(since(1000), None);
        health.record_lost_at(1000, 3);
        assert!(health.writing(|| (1, Ok(()))).is_ok());
        let detail = health.problem_at(1000).unwrap().detail;
        for part in ["cannot be written fast enough", "3 lines are lost"] {
            assert!(detail.contains(part), "{detail}");
        }
        assert_eq!(since(1000 + 10 * RECENT_LOSS), Some(1000));
        health.record_reported(3);
        health.record_lost_at(1030, 2);
        health.record_reported(2);
        assert_eq!(health.unreported(), 0);
        assert_eq!(since(1029 + RECENT_LOSS), Some(1000));
        assert_eq!(since(1030 + RECENT_LOSS), None);
        // Later losses are a new problem.
        health.record_lost_at(2000, 1);
        health.record_reported(1);
        assert_eq!(since(2001), Some(2000));
        assert_eq!(since(2000 + RECENT_LOSS), None);
    }
}
