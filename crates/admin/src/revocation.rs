//! Reports the state of revocation: since when each CRL is in service, and how many connections
//! were closed since the process started. Operators use the report to check that a published CRL
//! has taken effect. It names authorities, but no callers.

use serde::Serialize;
use x509_parser::prelude::{FromDer as _, X509Name};

use super::readiness::Problem;
use super::state::ControlState;
use crate::clock;
use crate::identity::leaf::rfc4514;
use crate::identity::text::printable;
use crate::trust::{RevocationPosture, TrustBundle};

/// The response to `/revocation`.
#[derive(Serialize)]
pub(super) struct Revocation {
    generation: u64,
    #[serde(flatten)]
    cuts: Cuts,
    trust_domains: Vec<Domain>,
    /// Problems that keep files on disk, or the configuration on disk, from taking effect.
    problems: Vec<Problem>,
}

/// Statistics about connections that were closed after a change of trust. `/status` shows them too.
#[derive(Serialize)]
pub(super) struct Cuts {
    /// When the current generation came into service, in milliseconds since the Unix epoch.
    in_service_since_ms: u64,
    connections_cut: Counts,
}

#[derive(Serialize)]
struct Counts {
    /// Number of connections that were closed because their identity or permission was no longer
    /// valid.
    total: u64,
    /// Number of closed connections whose certificate was revoked.
    revoked: u64,
    /// When the last of the connections in `total` was closed, in milliseconds since the Unix
    /// epoch. `None` if there was none.
    last_ms: Option<u64>,
}

impl Revocation {
    pub(super) fn of(state: &ControlState) -> Self {
        let snapshot = state.snapshot();
        let now = clock::certificate_now();
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

/// The state of a trust domain and of its CRLs.
#[derive(Serialize)]
pub(super) struct Domain {
    name: String,
    roots: Vec<String>,
    revocation: &'static str,
    lists: Vec<List>,
}

#[derive(Serialize)]
struct List {
    issuer: String,
    /// The CRL number. `None` if the CRL has none.
    number: Option<String>,
    this_update: String,
    next_update: String,
    entries: usize,
    verified: bool,
    freshness: &'static str,
}

impl Domain {
    pub(super) fn of(bundle: &TrustBundle, now: i64) -> Self {
        let roots = bundle
            .anchor_subjects()
            .map(|der| match X509Name::from_der(der) {
                Ok((_, name)) => printable(&rfc4514(&name)),
                Err(_) => String::new(),
            });
        let lists = bundle.freshness(now).into_iter().map(|list| List {
            issuer: printable(&list.issuer),
            number: list.number,
            this_update: clock::rfc3339(list.this_update),
            next_update: clock::rfc3339(list.next_update),
            entries: list.entries,
            verified: list.verified,
            freshness: list.freshness.as_str(),
        });
        Self {
            name: bundle.name().to_string(),
            roots: roots.collect(),
            revocation: match bundle.posture() {
                RevocationPosture::Hard => "hard",
                RevocationPosture::Soft => "soft",
                RevocationPosture::Off => "off",
            },
            lists: lists.collect(),
        }
    }
}
