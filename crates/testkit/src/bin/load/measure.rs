//! Measures the CPU time of process trees, and computes percentiles of latencies.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

/// Returns the process ids of `root` and of all its descendants.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // The content of `stat` is "pid (name) state parent …". The name may contain any
        // character, also `)`. Therefore the fields after the name begin at the last `)`.
        let parent = fs::read_to_string(entry.path().join("stat"))
            .ok()
            .and_then(|stat| {
                let (_, rest) = stat.rsplit_once(')')?;
                rest.split_whitespace().nth(1)?.parse().ok()
            });
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.get(pid).into_iter().flatten());
        next += 1;
    }
    found
}

/// Returns the CPU time that all current threads of these processes have used, in nanoseconds.
fn on_cpu(processes: &[u32]) -> u64 {
    let of_thread = |path: std::path::PathBuf| -> Option<u64> {
        let schedstat = fs::read_to_string(path.join("schedstat")).ok()?;
        schedstat.split_whitespace().next()?.parse().ok()
    };
    processes
        .iter()
        .filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok())
        .flatten()
        .flatten()
        .filter_map(|thread| of_thread(thread.path()))
        .sum()
}

/// Returns the total busy time of all CPUs since the start of the machine, in nanoseconds. The
/// kernel counts in ticks of 10 ms.
fn machine() -> u64 {
    let Ok(stat) = fs::read_to_string("/proc/stat") else {
        return 0;
    };
    let ticks: u64 = stat
        .lines()
        .next()
        .into_iter()
        .flat_map(|line| line.split_whitespace().skip(1))
        .enumerate()
        // The columns are user, nice, system, idle, iowait, irq, softirq; idle and iowait are not
        // busy time.
        .filter(|(column, _)| matches!(column, 0..=2 | 5 | 6))
        .filter_map(|(_, ticks)| ticks.parse::<u64>().ok())
        .sum();
    ticks * 10_000_000
}

/// The CPU time that the measured process trees, this program and the whole machine have used
/// since their start, in nanoseconds. A measurement is the difference of two values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    peer: u64,
    upstream: u64,
    generator: u64,
    machine: u64,
}

/// The processes whose CPU time is measured: the tree of the measured peer, and the tree of the
/// service behind it.
#[derive(Debug)]
pub(crate) struct Watched {
    peer: Vec<u32>,
    upstream: Vec<u32>,
}

impl Watched {
    /// Takes the process ids of the roots of the two trees. 0 means that there is no such
    /// process.
    pub(crate) fn new(peer: u32, upstream: u32) -> Self {
        let of = |pid| if pid == 0 { Vec::new() } else { tree(pid) };
        Self {
            peer: of(peer),
            upstream: of(upstream),
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage {
            peer: on_cpu(&self.peer),
            upstream: on_cpu(&self.upstream),
            generator: on_cpu(&[std::process::id()]),
            machine: machine(),
        }
    }
}

/// The results of a measurement that took `seconds`. `complaint` is the first error, and
/// `nanoseconds` the latencies.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    pub(crate) seconds: f64,
    pub(crate) answered: u64,
    pub(crate) octets: u64,
    pub(crate) failed: u64,
    pub(crate) refused: u64,
    pub(crate) resumed: u64,
    pub(crate) nanoseconds: Vec<u32>,
    pub(crate) complaint: Option<String>,
}

#[allow(
    clippy::cast_precision_loss,
    reason = "figures for people: 52 bits are plenty"
)]
pub(crate) fn report(mut counted: Counted, before: Usage, after: Usage) -> Value {
    counted.nanoseconds.sort_unstable();
    let quantile = |share: usize| {
        let at = counted.nanoseconds.len() * share / 1000;
        let last = counted.nanoseconds.last();
        f64::from(*counted.nanoseconds.get(at).or(last).unwrap_or(&0)) / 1e3
    };
    let units = counted.answered.max(1) as f64;
    let spent = |before: u64, after: u64| after.saturating_sub(before) as f64;
    let peer = spent(before.peer, after.peer);
    let upstream = spent(before.upstream, after.upstream);
    let generator = spent(before.generator, after.generator);
    let others = spent(before.machine, after.machine) - peer - upstream - generator;
    json!({
        "units": counted.answered,
        "per_second": units / counted.seconds,
        "peer_us": peer / 1e3 / units,
        "peer_ns_per_octet": peer / counted.octets.max(1) as f64,
        "upstream_us": upstream / 1e3 / units,
        "generator_us": generator / 1e3 / units,
        "other_cores": others / 1e9 / counted.seconds,
        "p50_us": quantile(500),
        "p99_us": quantile(990),
        "p999_us": quantile(999),
        "failed": counted.failed,
        "refused": counted.refused,
        "resumed": counted.resumed,
        "complaint": counted.complaint,
    })
}
