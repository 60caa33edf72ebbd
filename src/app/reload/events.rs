//! `Event`: the events that the reloading task handles, for example changed files and ended loads.

use tokio::sync::mpsc;

use super::file_watch::Found;
use crate::config::{Loaded, LoadedUnit, Running, UnitError, UnitKey};
use crate::file_stamp::FileStamp;
use crate::identity::TrustDomain;
use crate::snapshot::Snapshot;

/// Requests loads of a trust domain's material, for example after a CRL was fetched.
#[derive(Debug, Clone)]
pub(in crate::app) struct MaterialRequests(pub(super) mpsc::UnboundedSender<Event>);

impl MaterialRequests {
    /// Requests that the material of a trust domain is loaded. Does not wait for the load.
    pub(in crate::app) fn trust_domain(&self, name: &TrustDomain) {
        let _ = self.0.send(Event::Requested(UnitKey::trust_domain(name)));
    }
}

/// An event that the reloading task handles.
#[derive(Debug)]
pub(super) enum Event {
    /// The file watch has found a change.
    Found(Found),
    /// A load has ended.
    Done(Box<Done>),
    /// A part of the gateway has requested that a unit is loaded.
    Requested(UnitKey),
}

/// The outcome of a load, or of building a snapshot with one change.
#[derive(Debug)]
pub(super) enum Done {
    /// A new snapshot is ready. It differs from the snapshot in service by one change.
    Proposed(Box<Proposal>),
    /// A unit of material cannot be used.
    Failed {
        key: UnitKey,
        configuration: u64,
        error: UnitError,
    },
    /// The snapshot with a suspended trust domain could not be built.
    NotSuspended(TrustDomain),
    /// A load of the configuration has ended. `stamp` is the stamp of the configuration file before
    /// it was read.
    Configuration {
        /// The number of the load, to be compared with `ConfigurationState::number`.
        number: u64,
        outcome: Result<Box<Loaded>, String>,
        stamp: Option<FileStamp>,
    },
}

/// A proposed new snapshot: the snapshot in service with one change.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) change: Change,
    /// The value of `ConfigurationState::count` when the load of the change began.
    pub(super) configuration: u64,
    /// The generation of the snapshot that the new one was built from. The new snapshot lacks
    /// changes that came into service after that generation.
    pub(super) based_on: u64,
    pub(super) snapshot: Snapshot,
}

/// A change of the snapshot in service.
#[derive(Debug)]
pub(super) enum Change {
    /// A unit of material was read. For example, a unit is one certificate or one trust domain.
    Unit { key: UnitKey, loaded: LoadedUnit },
    /// A trust domain is suspended, because its files could not be read for too long. Its callers
    /// are refused.
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
