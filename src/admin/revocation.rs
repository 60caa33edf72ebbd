//! How far revocation has come: which lists are in service since when, and what
//! was cut off since the start. For whoever publishes a list and wants to know
//! that it is obeyed; it names authorities and no callers.

use serde::Serialize;

use super::operations::Domain;
use super::public::ControlState;
use super::readiness::Problem;
use crate::clock;

/// The answer to `/revocation`.
#[derive(Serialize)]
pub(super) struct Revocation {
    generation: u64,
    #[serde(flatten)]
    cuts: Cuts,
    trust_domains: Vec<Domain>,
    /// What keeps files or the configuration from taking effect.
    problems: Vec<Problem>,
}

/// What was cut off, also a part of `/status`.
#[derive(Serialize)]
pub(super) struct Cuts {
    /// When this generation came into service, in milliseconds since the Unix
    /// epoch.
    in_service_since_ms: u64,
    connections_cut: Counts,
}

#[derive(Serialize)]
struct Counts {
    /// Because the identity or permission they had no longer held.
    total: u64,
    /// Those of them whose certificate had been revoked.
    revoked: u64,
    /// When the last one was, in milliseconds since the Unix epoch.
    last_ms: Option<u64>,
}

impl Revocation {
    pub(super) fn of(state: &ControlState) -> Self {
        let snapshot = state.snapshot();
        let now = i64::try_from(clock::unix_now()).unwrap_or(i64::MAX);
        Self {
            generation: snapshot.generation,
            cuts: Cuts::of(state),
            trust_domains: snapshot
                .bundles
                .iter()
                .map(|bundle| Domain::of(bundle, now))
                .collect(),
            problems: state
                .problems(&snapshot)
                .into_iter()
                .filter(|problem| problem.code.concerns_files())
                .collect(),
        }
    }
}

impl Cuts {
    pub(super) fn of(state: &ControlState) -> Self {
        let cuts = state.metrics().cuts();
        Self {
            in_service_since_ms: cuts.in_service_since_ms,
            connections_cut: Counts {
                total: cuts.total,
                revoked: cuts.revoked,
                last_ms: (cuts.total > 0).then_some(cuts.last_ms),
            },
        }
    }
}
