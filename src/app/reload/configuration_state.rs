//! `ConfigurationState`: how far loading the configuration has come.

use std::time::{Duration, Instant};

use crate::admin::ReloadWaiters;
use crate::config::Progress;
use crate::file_stamp::FileStamp;

/// How long a load of the configuration may wait for one file before those who requested it
/// are told.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A load of the configuration in progress.
pub(super) struct ConfigurationLoad {
    pub(super) why: &'static str,
    pub(super) progress: Progress,
    pub(super) began: Instant,
    pub(super) waiters: ReloadWaiters,
    /// How much material had come into service when it began.
    pub(super) material: u64,
    /// The state of the deny list then.
    pub(super) denied: Option<u64>,
}

impl ConfigurationLoad {
    /// Whether it waits for a file that hangs.
    pub(super) fn is_stalled(&self) -> bool {
        self.began.elapsed() >= STALL_TIMEOUT && self.progress.reading().is_some()
    }
}

/// How far loading the configuration has come.
#[derive(Default)]
pub(super) struct ConfigurationState {
    /// Counts those that came into service: what was loaded for one cannot be used for the
    /// next.
    pub(super) count: u64,
    /// Numbers the loads.
    pub(super) number: u64,
    /// Loads that were left to their threads.
    pub(super) left_behind: u32,
    /// The stamp of the configuration file when it was last loaded, well or not.
    pub(super) stamp: Option<FileStamp>,
    pub(super) loading: Option<ConfigurationLoad>,
    /// Why it is to be loaded next.
    pub(super) wanted: Option<&'static str>,
    pub(super) waiters: ReloadWaiters,
    pub(super) waiting_since: Option<Instant>,
    pub(super) retry_at: Option<Instant>,
    pub(super) failures: u32,
    pub(super) attempts: u32,
    pub(super) refused: Option<String>,
}
