//! What the task that reloads is told: changed files, loads that have ended, requests.

use tokio::sync::mpsc;

use super::file_watch::Found;
use crate::config::{Loaded, LoadedUnit, Running, UnitError, UnitKey};
use crate::file_stamp::FileStamp;
use crate::identity::TrustDomain;
use crate::snapshot::Snapshot;

/// Requests loads of a trust domain's material, for example because a CRL was fetched.
#[derive(Debug, Clone)]
pub(in crate::app) struct MaterialRequests(pub(super) mpsc::UnboundedSender<Event>);

impl MaterialRequests {
    /// Requests a load of a trust domain without waiting.
    pub(in crate::app) fn trust_domain(&self, name: &TrustDomain) {
        let _ = self.0.send(Event::Requested(UnitKey::trust_domain(name)));
    }
}

/// What the task is told.
#[derive(Debug)]
pub(super) enum Event {
    /// A round of the file watch found something.
    Found(Found),
    /// A load has ended.
    Done(Box<Done>),
    /// A unit is to be loaded.
    Requested(UnitKey),
}

/// How a load ended.
#[derive(Debug)]
pub(super) enum Done {
    /// A snapshot with one change.
    Proposed(Box<Proposal>),
    /// A unit cannot be used.
    Failed {
        key: UnitKey,
        configuration: u64,
        error: UnitError,
    },
    /// A trust domain could not be suspended.
    NotSuspended(TrustDomain),
    /// The configuration was loaded, or why not; and its file's stamp of before.
    Configuration {
        /// Which load it was.
        number: u64,
        outcome: Result<Box<Loaded>, String>,
        stamp: Option<FileStamp>,
    },
}

/// What is in service, with one change.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) change: Change,
    /// Which configuration it was made for.
    pub(super) configuration: u64,
    /// The generation that it was made from: it lacks what came into service later.
    pub(super) based_on: u64,
    pub(super) snapshot: Snapshot,
}

/// One change of what is in service.
#[derive(Debug)]
pub(super) enum Change {
    /// A unit of material was read.
    Unit { key: UnitKey, loaded: LoadedUnit },
    /// A trust domain is suspended: its CRLs could not be read for too long.
    Suspension { domain: TrustDomain, since: i64 },
}

impl Change {
    pub(super) const fn unit(&self) -> Option<&UnitKey> {
        match self {
            Self::Unit { key, .. } => Some(key),
            Self::Suspension { .. } => None,
        }
    }

    pub(super) fn apply(&self, running: &mut Running) {
        match self {
            Self::Unit { key, loaded } => running.replace(key, loaded),
            Self::Suspension { domain, since } => running.suspend(domain, *since),
        }
    }
}
