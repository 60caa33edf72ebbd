//! File descriptors. Raises the limit of the process, divides the descriptors among their uses, and
//! keeps a few descriptors in reserve for a shortage.
//!
//! Callers can cause any number of connections to the gateway and to services. Even in this case,
//! operators must be able to connect, and revocations must be loaded. A part of the descriptors is
//! therefore never used for connections of callers or to services. The reserve is a global
//! variable, because the descriptor limit applies to the process.

use std::fs::File;
use std::io;
use std::sync::{Mutex, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Number of descriptors that are always needed: standard streams, listeners, audit log.
const FIXED: usize = 48;
/// Number of descriptors that one worker needs for its event queue and its wake-up.
const EACH_WORKER: usize = 8;
/// Number of descriptors for reading files and for fetching CRLs and keys.
const MATERIAL: usize = 64;
/// Number of descriptors in the reserve, which are kept open without a use.
const SPARE: usize = 8;
/// Number of listeners of the control plane: public listener, operators' listener, and operators'
/// socket.
const CONTROL_LISTENERS: usize = 3;

/// The descriptor limit of the process, and the number of descriptors for each use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct DescriptorPlan {
    /// Maximum number of descriptors of the process.
    pub limit: usize,
    /// Maximum number of open connections of callers.
    pub connections: usize,
    /// Maximum number of open connections to services.
    pub services: usize,
    /// The limits of each control-plane listener.
    pub control: ControlShare,
}

/// The limits of one control-plane listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct ControlShare {
    /// Maximum number of requests in progress, not counting health checks. Also the maximum number
    /// of connections of the listener that are not pending.
    pub let_in: usize,
    /// Half of the maximum number of pending connections. A connection is pending until its
    /// handshake is complete.
    pub outside: usize,
}

impl ControlShare {
    /// The limits of a listener if the process has enough descriptors.
    pub const FULL: Self = Self {
        let_in: 256,
        outside: 96,
    };

    /// Returns the maximum number of all connections of the listener.
    #[must_use]
    pub const fn total(self) -> usize {
        self.let_in + 2 * self.outside
    }
}

impl DescriptorPlan {
    /// Divides `limit` descriptors among their uses, for a gateway with `workers` workers. Two
    /// thirds of the descriptors for connections are for connections of callers. The rest is for
    /// connections to services, because each request may need such a connection.
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
            // The value is at least 1. With the value 0, no caller could connect, and no error
            // would tell the operator why.
            connections: connections.max(1),
            services: (left - connections).max(1),
            control,
        }
    }

    /// Returns the maximum number of callers' connections. It is `configured`, or less if there are
    /// too few descriptors.
    #[must_use]
    pub const fn connections_of(&self, configured: usize) -> usize {
        if configured < self.connections {
            configured
        } else {
            self.connections
        }
    }

    /// Returns a descriptor limit that is high enough for `configured` connections of callers.
    #[must_use]
    pub fn limit_for(&self, configured: usize) -> usize {
        let kept = self.limit.saturating_sub(self.connections + self.services);
        // The control plane's part grows with the limit, so its maximum is added.
        let most = CONTROL_LISTENERS * ControlShare::FULL.total();
        (configured.saturating_mul(3) / 2 + kept + most).next_multiple_of(1024)
    }
}

/// Raises the descriptor limit of the process to the maximum that the system allows. Returns the
/// new limit.
pub fn raise_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let raised = Rlimit {
            current: maximum,
            maximum,
        };
        // Some systems report a higher maximum than they allow. In this case the call fails, and
        // the limit stays the same.
        let _ = setrlimit(Resource::Nofile, raised);
    }
    let current = getrlimit(Resource::Nofile).current;
    current.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

/// The reserve of descriptors. These files are open only so that they can be closed during a
/// shortage.
static SPARES: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Fills the reserve of descriptors. Call this at the start, and then regularly.
pub fn keep_spares() {
    let mut spares = SPARES.lock().unwrap_or_else(PoisonError::into_inner);
    while spares.len() < SPARE {
        match File::open("/dev/null") {
            Ok(file) => spares.push(file),
            Err(_) => return,
        }
    }
}

/// Closes a descriptor of the reserve, so that it can be used to open another file. Returns `false`
/// if the reserve was empty.
#[must_use]
pub fn release_spare() -> bool {
    let mut spares = SPARES.lock().unwrap_or_else(PoisonError::into_inner);
    spares.pop().is_some()
}

/// Returns whether `error` means that the process or the system has no free descriptors.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    let shortages = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    shortages
        .iter()
        .any(|errno| code == Some(errno.raw_os_error()))
}

/// Calls `open`. If this fails because of a shortage of descriptors, closes a descriptor of the
/// reserve and calls `open` again.
///
/// # Errors
/// Returns the error of `open`.
pub fn open_with_spare<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match open() {
            // If another thread uses the closed descriptor first, the loop closes the next
            // descriptor of the reserve.
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
