//! File descriptors: how many the process may have, who gets how many, and a few kept
//! back for the moment when there are none.
//!
//! Callers and services can ask for any number of connections. What an operator and a
//! revocation need must not depend on how many they have: a share is never given to
//! them. The table of descriptors is the process's, and so is what is kept here.

use std::fs::File;
use std::io;
use std::sync::{Mutex, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the system needs apart from connections and files: standard streams, listeners,
/// the audit log.
const FIXED: usize = 48;
/// Event queues and wake-ups of one worker.
const EACH_WORKER: usize = 8;
/// Files that are read and lists and keys that are fetched, at the same time.
const MATERIAL: usize = 64;
/// Descriptors kept open in reserve.
const SPARE: usize = 8;
/// Listeners of the control plane: public, operators', private socket.
const CONTROL_LISTENERS: usize = 3;

/// How many descriptors there are, and the share of each use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct DescriptorPlan {
    /// The process may have so many.
    pub limit: usize,
    /// Connections of callers at once, at most.
    pub connections: usize,
    /// Connections to services at once, at most.
    pub services: usize,
    /// Connections of each listener of the control plane at once, at most.
    pub control: ControlShare,
}

/// Connections of one listener of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct ControlShare {
    /// That were let in.
    pub let_in: usize,
    /// That have proven nothing yet: of the silent ones, and of the others.
    pub outside: usize,
}

impl ControlShare {
    /// What a listener gets if there are enough descriptors.
    pub const FULL: Self = Self {
        let_in: 256,
        outside: 96,
    };

    /// All of them.
    #[must_use]
    pub const fn total(self) -> usize {
        self.let_in + 2 * self.outside
    }
}

impl DescriptorPlan {
    /// Divides `limit` descriptors among a gateway with so many workers. Callers get at
    /// most two thirds of what is left for connections: each of their requests may need
    /// a connection to a service.
    #[must_use]
    pub fn divide(limit: usize, workers: usize) -> Self {
        let control = ControlShare {
            let_in: (limit / 32).clamp(16, ControlShare::FULL.let_in),
            outside: (limit / 64).clamp(8, ControlShare::FULL.outside),
        };
        let kept = FIXED
            + workers.saturating_mul(EACH_WORKER)
            + MATERIAL
            + SPARE
            + CONTROL_LISTENERS * control.total();
        let left = limit.saturating_sub(kept);
        let connections = left / 3 * 2;
        Self {
            limit,
            // With none at all no caller could connect, and the reason would not be seen.
            connections: connections.max(1),
            services: (left - connections).max(1),
            control,
        }
    }

    /// Connections of callers at once if the configuration allows so many.
    #[must_use]
    pub const fn connections_of(&self, configured: usize) -> usize {
        if configured < self.connections {
            configured
        } else {
            self.connections
        }
    }

    /// The limit that would allow the configured number of connections.
    #[must_use]
    pub fn limit_for(&self, configured: usize) -> usize {
        let kept = self.limit.saturating_sub(self.connections + self.services);
        // What is kept for the control plane grows with the limit, up to a bound.
        let most = CONTROL_LISTENERS * ControlShare::FULL.total();
        (configured.saturating_mul(3) / 2 + kept + most).next_multiple_of(1024)
    }
}

/// Lets the process have as many descriptors as the system allows it. Returns how many
/// that are.
pub fn raise_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let raised = Rlimit {
            current: maximum,
            maximum,
        };
        // Some systems allow fewer than they say: then the limit stays.
        let _ = setrlimit(Resource::Nofile, raised);
    }
    let current = getrlimit(Resource::Nofile).current;
    current.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

/// Descriptors that are open only to be closed when there are no others.
static SPARES: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Opens the descriptors in reserve, and those that were used up. To be called at the
/// start, and every now and then.
pub fn keep_spares() {
    let mut spares = SPARES.lock().unwrap_or_else(PoisonError::into_inner);
    while spares.len() < SPARE {
        match File::open("/dev/null") {
            Ok(file) => spares.push(file),
            Err(_) => return,
        }
    }
}

/// Closes a descriptor in reserve, so that the next thing to be opened gets it. Returns
/// whether there was one.
#[must_use]
pub fn release_spare() -> bool {
    let mut spares = SPARES.lock().unwrap_or_else(PoisonError::into_inner);
    spares.pop().is_some()
}

/// Whether the process, or the system, has no descriptors left.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    let shortages = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    shortages
        .iter()
        .any(|errno| code == Some(errno.raw_os_error()))
}

/// Opens something, if need be with a descriptor in reserve.
///
/// # Errors
/// What `open` says.
pub fn open_with_spare<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match open() {
            // Another thread may take what was released: the next spare is tried then.
            Err(error) if is_shortage(&error) && release_spare() => {}
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_away_leaves_room_for_everything_else() {
        for limit in [256, 512, 1024, 4096, 20_000, 1 << 20] {
            for workers in [1, 2, 16] {
                let plan = DescriptorPlan::divide(limit, workers);
                let given = plan.connections + plan.services;
                let kept = FIXED
                    + workers * EACH_WORKER
                    + MATERIAL
                    + SPARE
                    + CONTROL_LISTENERS * plan.control.total();
                assert!(given + kept <= limit || given == 2, "{plan:?}");
                assert!(plan.control.let_in >= 16 && plan.control.outside >= 8);
            }
        }
        let small = DescriptorPlan::divide(1024, 2);
        assert!((300..600).contains(&small.connections), "{small:?}");
        assert!(small.services >= 150, "{small:?}");
        assert_eq!(small.connections_of(100), 100);
        assert_eq!(small.connections_of(10_000), small.connections);
        let enough = small.limit_for(10_000);
        assert!(DescriptorPlan::divide(enough, 2).connections >= 10_000);
        let large = DescriptorPlan::divide(1 << 20, 4);
        assert_eq!(large.control, ControlShare::FULL);
        assert!(large.connections > 500_000);
    }

    #[test]
    fn a_spare_is_used_when_there_are_no_others() {
        keep_spares();
        let mut failures = 2;
        let opened = open_with_spare(|| {
            if failures == 0 {
                return Ok(7);
            }
            failures -= 1;
            Err(rustix::io::Errno::MFILE.into())
        });
        assert_eq!(opened.unwrap(), 7);
        let refused = open_with_spare(|| Err::<(), _>(io::ErrorKind::NotFound.into()));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::NotFound);
        keep_spares();
    }
}
