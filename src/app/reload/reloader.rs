//! `Reloader`: the task that puts snapshots into service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use super::configuration_state::ConfigurationState;
use super::events::{Event, MaterialRequests};
use super::file_watch::FileWatch;
use super::impact;
use super::load::Loader;
use super::unit_state::UnitState;
use crate::admin::Readiness;
use crate::config::{Running, UnitKey};
use crate::identity::TrustDomain;
use crate::snapshot::{Settings, Snapshot};
use crate::telemetry::metrics::Metrics;

/// The values that the reloading task shares with other parts of the process.
pub(in crate::app) struct ReloadParts {
    pub(in crate::app) settings: Settings,
    pub(in crate::app) running: Running,
    pub(in crate::app) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(in crate::app) changed: Arc<watch::Sender<u64>>,
    pub(in crate::app) readiness: Arc<Readiness>,
    pub(in crate::app) metrics: Arc<Metrics>,
}

/// The state of the task that reloads.
pub(in crate::app) struct Reloader {
    pub(super) parts: ReloadParts,
    pub(super) running: Arc<Running>,
    pub(super) loader: Loader,
    pub(super) watch: FileWatch,
    pub(super) events: mpsc::UnboundedReceiver<Event>,
    pub(super) requests: MaterialRequests,
    pub(super) units: BTreeMap<UnitKey, UnitState>,
    pub(super) configuration: ConfigurationState,
    /// How many snapshots came into service because of new material or a suspension.
    pub(super) material: u64,
    /// Trust domains for which a snapshot that suspends them is being built.
    pub(super) suspending: BTreeSet<TrustDomain>,
    /// Whether a thread is computing which recent callers new trust material refuses.
    pub(super) previewing: Arc<AtomicBool>,
}

impl Reloader {
    pub(in crate::app) fn new(parts: ReloadParts) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let requests = MaterialRequests(sender.clone());
        let told = sender.clone();
        let watch = FileWatch::new(Arc::new(move |found| {
            let _ = told.send(Event::Found(found));
        }));
        let running = Arc::new(parts.running.clone());
        Self {
            configuration: ConfigurationState {
                stamp: running.stamp().cloned(),
                ..ConfigurationState::default()
            },
            units: UnitState::of(&running),
            loader: Loader::new(sender),
            running,
            watch,
            events,
            requests,
            material: 0,
            suspending: BTreeSet::new(),
            previewing: Arc::default(),
            parts,
        }
    }

    /// Returns a handle that requests loads of material.
    pub(in crate::app) fn material_requests(&self) -> MaterialRequests {
        self.requests.clone()
    }

    pub(super) fn put_into_service(&self, mut snapshot: Snapshot) {
        let previous = self.parts.snapshot.load_full();
        snapshot.generation = previous.generation + 1;
        snapshot.meter(&self.parts.metrics);
        snapshot.start(&tokio::runtime::Handle::current());
        self.parts.snapshot.store(Arc::new(snapshot));
        self.parts.metrics.came_into_service();
        // Notifies all connections, which are then rechecked under the new snapshot.
        self.parts.changed.send_modify(|changes| *changes += 1);
        if let Some(directory) = &self.parts.settings.audit_chains
            && !self.previewing.swap(true, Ordering::AcqRel)
        {
            let (directory, after) = (directory.clone(), self.parts.snapshot.load_full());
            let previewing = Arc::clone(&self.previewing);
            // `previewing` allows only one such thread at a time. No task waits for it.
            let started = std::thread::Builder::new()
                .name("impact".to_owned())
                .spawn(move || {
                    impact::report(&directory, &previous, &after);
                    previewing.store(false, Ordering::Release);
                });
            if started.is_err() {
                self.previewing.store(false, Ordering::Release);
            }
        }
    }
}
