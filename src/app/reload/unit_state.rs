//! `UnitState`: the progress of loading one unit of material.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock;
use crate::config::{LoadedUnit, Progress, Running, UnitError, UnitKey};
use crate::file_stamp::FileStamps;

/// The time after which a unit is read again, if its problem has lasted for less than [`WRITING`].
const RETRY_SOON: Duration = Duration::from_millis(100);
/// The time after which a unit is read again, if its problem has lasted for at least [`WRITING`],
/// and the operating system fails to read a file.
const RETRY_SYSTEM: Duration = Duration::from_millis(400);
/// The time after which a unit is read again, if its problem has lasted for at least [`WRITING`],
/// but its files can be read. If a file changes, the unit is read earlier.
const RETRY_LATER: Duration = Duration::from_secs(10);
/// A process may need this time to write a file. A problem is not reported before it has lasted
/// this long, unless the operating system has failed to read a file.
const WRITING: Duration = Duration::from_millis(700);

/// The state of one unit of material.
#[derive(Debug)]
pub(super) struct UnitState {
    /// The stamps of the unit's files before the last read, whether the read succeeded or failed.
    stamps: Arc<FileStamps>,
    loading: Option<Loading>,
    wanted: bool,
    retry_at: Option<Instant>,
    trouble: Option<Trouble>,
}

/// A load in progress.
#[derive(Debug)]
struct Loading {
    progress: Progress,
    since: Instant,
}

/// The problem because of which the unit in service may differ from its files.
#[derive(Debug)]
pub(super) struct Trouble {
    /// A description of the problem.
    pub(super) detail: String,
    since: Instant,
    /// Since when the operating system has failed to read the unit: on the monotonic clock, and in
    /// seconds since the Unix epoch.
    pub(super) system_failure_since: Option<(Instant, i64)>,
}

impl UnitState {
    /// Creates the states of the units of a configuration that was just loaded.
    pub(super) fn of(running: &Running) -> BTreeMap<UnitKey, Self> {
        let unit = |(key, stamps): (&UnitKey, &FileStamps)| {
            let state = Self {
                stamps: Arc::new(stamps.clone()),
                loading: None,
                wanted: false,
                retry_at: None,
                trouble: None,
            };
            (key.clone(), state)
        };
        running.units().map(unit).collect()
    }

    /// Returns the stamps with which the file watch compares the files of the unit. Returns `None`
    /// if the unit is being read, or will be read next.
    pub(super) fn watched(&self) -> Option<Arc<FileStamps>> {
        let is_idle = self.loading.is_none() && !self.wanted;
        is_idle.then(|| Arc::clone(&self.stamps))
    }

    /// Requests that the unit is read again.
    pub(super) const fn want(&mut self) {
        self.wanted = true;
    }

    /// Whether the unit should be read now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.loading.is_none() && (self.wanted || self.retry_at.is_some_and(|at| at <= now))
    }

    /// Records that a read of the unit has started.
    pub(super) fn begin(&mut self, progress: Progress) {
        self.wanted = false;
        self.retry_at = None;
        self.loading = Some(Loading {
            progress,
            since: Instant::now(),
        });
    }

    /// Whether the unit is being read, or will be read next.
    pub(super) const fn is_awaited(&self) -> bool {
        self.loading.is_some() || self.wanted
    }

    /// Schedules a read of the unit after `pause`, unless a read is already planned.
    pub(super) fn want_within(&mut self, pause: Duration) {
        if self.retry_at.is_none() && !self.is_awaited() {
            self.retry_at = Some(Instant::now() + pause);
        }
    }

    /// Whether a read of the unit is in progress and has taken less than `time`.
    pub(super) fn is_loading_for_less_than(&self, time: Duration) -> bool {
        let loading = self.loading.as_ref();
        loading.is_some_and(|loading| loading.since.elapsed() < time)
    }

    /// Returns the file that is being read, and when the read of its unit started.
    pub(super) fn reading(&self) -> Option<(std::path::PathBuf, Instant)> {
        let loading = self.loading.as_ref()?;
        Some((loading.progress.reading()?, loading.since))
    }

    /// Records that the unit was read and is in service.
    pub(super) fn loaded(&mut self, loaded: &LoadedUnit) {
        self.loading = None;
        self.stamps = Arc::new(loaded.stamps().clone());
        if loaded.degraded.is_empty() {
            self.trouble = None;
        } else {
            self.in_trouble(loaded.degraded.join("; "), loaded.system_failure);
        }
    }

    /// Records that the unit cannot be used. Its last good content stays in service.
    pub(super) fn failed(&mut self, error: &UnitError) {
        self.loading = None;
        // The earlier stamps are kept too. A file that matched a pattern may be missing now, and
        // the file watch must detect when it is there again.
        let mut stamps = (*self.stamps).clone();
        stamps.extend(error.stamps.clone());
        self.stamps = Arc::new(stamps);
        self.in_trouble(error.errors.join("; "), error.system_failure);
    }

    fn in_trouble(&mut self, detail: String, system_failure: bool) {
        let now = Instant::now();
        let before = self.trouble.take();
        let since = before.as_ref().map_or(now, |before| before.since);
        let failing = before.and_then(|before| before.system_failure_since);
        let retry = match (since.elapsed() < WRITING, system_failure) {
            (true, _) => RETRY_SOON,
            (false, true) => RETRY_SYSTEM,
            (false, false) => RETRY_LATER,
        };
        self.retry_at = Some(now + retry);
        self.trouble = Some(Trouble {
            detail,
            since,
            system_failure_since: system_failure
                .then(|| failing.unwrap_or_else(|| (now, unix_now()))),
        });
    }

    /// Returns the unit's problem if it must be reported: if it has lasted for `WRITING`, or the
    /// operating system has failed to read a file.
    pub(super) fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref().filter(|trouble| {
            trouble.system_failure_since.is_some() || trouble.since.elapsed() >= WRITING
        })
    }

    /// Whether the last read found a problem. This includes a problem that `trouble` does not
    /// return yet, because a file may be only half-written.
    pub(super) const fn is_in_trouble(&self) -> bool {
        self.trouble.is_some()
    }

    /// Returns the time since which the operating system has failed to read the unit. `None` if the
    /// last read did not fail in this way.
    pub(super) fn unread_since(&self) -> Option<(Instant, i64)> {
        self.trouble.as_ref()?.system_failure_since
    }
}

fn unix_now() -> i64 {
    clock::certificate_now()
}
