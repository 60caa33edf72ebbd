//! `CutLog`: counts connections that were closed after a change of trust. It records when the last
//! of these connections was closed, and when the current snapshot came into service. From these
//! times, operators see whether a revocation is in effect.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock;
use crate::reason::ReasonCode;

/// Connections that were closed after a change of trust, since the start of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cuts {
    /// Number of connections that were closed because their identity or permission was no longer
    /// valid.
    pub total: u64,
    /// Number of connections in `total` whose certificate was revoked.
    pub revoked: u64,
    /// When the last connection in `total` was closed, in milliseconds since the Unix epoch. 0 if
    /// `total` is 0.
    pub last_ms: u64,
    /// When the current snapshot came into service, in milliseconds since the Unix epoch.
    pub in_service_since_ms: u64,
}

/// Counts connections that are closed after a change of trust.
#[derive(Debug)]
pub(super) struct CutLog {
    total: AtomicU64,
    revoked: AtomicU64,
    last_ms: AtomicU64,
    in_service_since_ms: AtomicU64,
}

impl CutLog {
    pub(super) fn new() -> Self {
        Self {
            total: AtomicU64::new(0),
            revoked: AtomicU64::new(0),
            last_ms: AtomicU64::new(0),
            in_service_since_ms: AtomicU64::new(now_ms()),
        }
    }

    pub(super) fn note(&self, reason: ReasonCode) {
        self.last_ms.fetch_max(now_ms(), Ordering::Relaxed);
        if reason == ReasonCode::CertificateRevoked {
            self.revoked.fetch_add(1, Ordering::Relaxed);
        }
        self.total.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn came_into_service(&self) {
        self.in_service_since_ms.store(now_ms(), Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Cuts {
        Cuts {
            total: self.total.load(Ordering::Relaxed),
            revoked: self.revoked.load(Ordering::Relaxed),
            last_ms: self.last_ms.load(Ordering::Relaxed),
            in_service_since_ms: self.in_service_since_ms.load(Ordering::Relaxed),
        }
    }
}

fn now_ms() -> u64 {
    u64::try_from(clock::since_epoch().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revoked_ones_are_counted_apart() {
        let log = CutLog::new();
        assert_eq!(log.read().total, 0);
        log.note(ReasonCode::CertificateExpired);
        log.note(ReasonCode::CertificateRevoked);
        let cuts = log.read();
        assert_eq!((cuts.total, cuts.revoked), (2, 1));
        assert!(cuts.last_ms >= cuts.in_service_since_ms);
    }
}
