//! `ConfigurationState`: the progress of loading the configuration.

use std::time::{Duration, Instant};

use crate::admin::ReloadWaiters;
use crate::config::Progress;
use crate::file_stamp::FileStamp;

/// Maximum time that a load of the configuration may wait for one file. After that, the requesters
/// of the load get an error.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A load of the configuration in progress.
pub(super) struct ConfigurationLoad {
    pub(super) why: &'static str,
    pub(super) progress: Progress,
    pub(super) began: Instant,
    pub(super) waiters: ReloadWaiters,
    /// The value of `Reloader::material` when the load began.
    pub(super) material: u64,
    /// The deny list's `epoch()` when the load began. `None` if there is no deny list.
    pub(super) denied: Option<u64>,
}

impl ConfigurationLoad {
    /// Whether the load has been waiting for one file for at least `STALL_TIMEOUT`.
    pub(super) fn is_stalled(&self) -> bool {
        self.began.elapsed() >= STALL_TIMEOUT && self.progress.reading().is_some()
    }
}

/// The progress of loading the configuration.
#[derive(Default)]
pub(super) struct ConfigurationState {
    /// Counts the configurations that came into service. A unit that was loaded for one
    /// configuration cannot be used for the next.
    pub(super) count: u64,
    /// The number of the newest load. The results of all other loads are ignored.
    pub(super) number: u64,
    /// Number of abandoned loads whose threads have not ended.
    pub(super) left_behind: u32,
    /// The stamp of the configuration file at the last load, whether the load succeeded or failed.
    pub(super) stamp: Option<FileStamp>,
    pub(super) loading: Option<ConfigurationLoad>,
    /// The reason for the next load. `None` if no load is requested.
    pub(super) wanted: Option<&'static str>,
    pub(super) waiters: ReloadWaiters,
    pub(super) waiting_since: Option<Instant>,
    pub(super) retry_at: Option<Instant>,
    pub(super) failures: u32,
    pub(super) attempts: u32,
    pub(super) refused: Option<String>,
}
