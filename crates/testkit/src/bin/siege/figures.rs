//! The results of the well-behaved callers, and the memory use of the gateway.

use std::time::Duration;

use countersign_testkit::bystander::Experience;
use serde_json::{Value, json};

/// The combined results of several well-behaved callers.
pub(crate) struct Figures {
    /// The latencies, sorted from the shortest to the longest.
    pub(crate) latencies: Vec<Duration>,
    pub(crate) harm: Vec<String>,
    pieces: usize,
}

impl Figures {
    pub(crate) fn of(experiences: impl Iterator<Item = Experience>) -> Self {
        let mut all = Self {
            latencies: Vec::new(),
            harm: Vec::new(),
            pieces: 0,
        };
        for experience in experiences {
            all.latencies.extend(experience.latencies);
            all.harm.extend(experience.harm);
            all.pieces += experience.pieces;
        }
        all.latencies.sort_unstable();
        all
    }

    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let place = self.latencies.len() * percent / 100;
        let place = place.min(self.latencies.len().saturating_sub(1));
        self.latencies.get(place).copied().unwrap_or_default()
    }

    pub(crate) fn to_json(&self) -> Value {
        let milliseconds = |percent| {
            let microseconds = self.percentile(percent).as_micros();
            microseconds as f64 / 1e3
        };
        json!({
            "served": self.latencies.len(),
            "harm": self.harm.len(),
            "pieces": self.pieces,
            "p50_ms": milliseconds(50),
            "p99_ms": milliseconds(99),
        })
    }
}

/// Returns the maximum resident memory of a process since its start, in KiB.
pub(crate) fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}
