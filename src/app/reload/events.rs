//! `Event`: changed files, loads that have ended, and requests, which the reloading task
//! handles.

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

/// An event that the reloading task handles.
#[derive(Debug)]
pub(super) enum Event {
    /// A round of the file watch found something.
    Found(Found),
    /// A load has ended.
    Done(Box<Done>),
    /// A unit should be loaded.
    Requested(UnitKey),
}

/// The outcome of a load.
#[derive(Debug)]
pub(super) enum Done {
    /// A snapshot with one change is ready.
    Proposed(Box<Proposal>),
    /// A unit cannot be used.
    Failed {
        key: UnitKey,
        configuration: u64,
        error: UnitError,
    },
    /// A trust domain could not be suspended.
    NotSuspended(TrustDomain),
    /// A load of the configuration has ended. `stamp` is that of the file before it was read.
    Configuration {
        /// The number of the load.
        number: u64,
        outcome: Result<Box<Loaded>, String>,
        stamp: Option<FileStamp>,
    },
}

/// A snapshot like the one in service, with one change.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) change: Change,
    /// The number of the configuration that the change was made for.
    pub(super) configuration: u64,
    /// The generation that the snapshot was made from. Changes that came into service later are
    /// missing in it.
    pub(super) based_on: u64,
    pub(super) snapshot: Snapshot,
}

/// A change of the snapshot in service.
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
