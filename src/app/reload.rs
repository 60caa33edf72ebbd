//! Puts what changed on disk into service: units of material one by one, and the
//! configuration as a transaction.
//!
//! *Material* is what the configuration in service names: certificates, keys, roots,
//! revocation lists, the deny list. It is watched and takes effect by itself, whatever
//! the configuration file says by then. The *configuration* is loaded when its file
//! changes, on SIGHUP and when somebody asks: everything it names is good, or the old
//! one stays and says why.
//!
//! One task decides about both, and only it puts a snapshot into service. Files are
//! read on threads that no task joins (`load`, `file_watch`): one that does not come
//! back holds up nothing but its own unit. A load that failed is tried again until it
//! succeeds, because a system that is short of something does not touch the file when
//! that is over.

mod configuration;
mod load;
mod problems;
mod restart;
mod unit_state;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use self::configuration::{ConfigurationLoad, ConfigurationState};
use self::load::{Change, Done, Loader, Proposal, UnitJob};
use self::unit_state::UnitState;
use super::file_watch::{FileWatch, Found, Item, Watched};
use super::impact;
use crate::admin::{Readiness, ReloadQueue, ReloadWaiters};
use crate::clock;
use crate::config::{Running, UnitError, UnitKey};
use crate::descriptors;
use crate::identity::TrustDomain;
use crate::snapshot::{Settings, Snapshot};
use crate::telemetry::metrics::Metrics;

/// How often files are looked at.
const TICK: Duration = Duration::from_millis(150);
/// How often rounds and loads that have not ended are checked.
const LOOK_AFTER: Duration = Duration::from_millis(50);
/// How long a load of the configuration may wait for one file before those who asked for
/// it are told.
const LONGEST_ANSWER: Duration = Duration::from_secs(5);

/// How many loads of the configuration may be left to their threads because a file does
/// not answer.
const MAX_LEFT_BEHIND: u32 = 8;

/// Asks for a load of a trust domain's material, for example because a list was fetched.
#[derive(Debug, Clone)]
pub(super) struct MaterialRequests(mpsc::UnboundedSender<Event>);

impl MaterialRequests {
    /// Asks without waiting.
    pub(super) fn trust_domain(&self, name: &TrustDomain) {
        let _ = self.0.send(Event::Asked(UnitKey::trust_domain(name)));
    }
}

/// What the task hears of.
#[derive(Debug)]
enum Event {
    /// A round of the file watch found something.
    Found(Found),
    /// A load has ended.
    Done(Box<Done>),
    /// Somebody wants a unit loaded.
    Asked(UnitKey),
}

/// What the task shares with the rest of the process.
pub(super) struct ReloadParts {
    pub(super) settings: Settings,
    pub(super) running: Running,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) changed: Arc<watch::Sender<u64>>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) metrics: Arc<Metrics>,
}

/// Loads what changed, for ever.
pub(super) struct Reloader {
    parts: ReloadParts,
    running: Arc<Running>,
    loader: Loader,
    watch: FileWatch,
    events: mpsc::UnboundedReceiver<Event>,
    requests: MaterialRequests,
    units: BTreeMap<UnitKey, UnitState>,
    configuration: ConfigurationState,
    /// Counts the snapshots that a load of material put into service.
    material: u64,
    /// Trust domains that are about to be suspended.
    suspending: BTreeSet<TrustDomain>,
    /// Whether a preview of a change is being made.
    previewing: Arc<AtomicBool>,
}

impl Reloader {
    pub(super) fn new(parts: ReloadParts) -> Self {
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

    /// The way to ask for loads of material.
    pub(super) fn material_requests(&self) -> MaterialRequests {
        self.requests.clone()
    }

    /// Works for ever. Requests for the configuration that come while it is loaded are
    /// answered by one more load.
    pub(super) async fn run(mut self, mut asked: ReloadQueue) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looks = tokio::time::interval(LOOK_AFTER);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // What was found and loaded comes before what is asked for.
                biased;
                event = self.events.recv() => match event {
                    Some(event) => self.hear(event),
                    None => return,
                },
                waiters = asked.next() => self.want_configuration("a request", waiters),
                _ = ticks.tick() => self.begin_round(),
                _ = looks.tick() => self.look_after(),
            }
            self.start_loads();
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Asked(key) => {
                if let Some(unit) = self.units.get_mut(&key) {
                    unit.want();
                }
            }
            Event::Found(Found::DenyList(list, outcome)) => {
                // The list in service may be another one by now.
                let denied = self.parts.snapshot.load().deny_list.clone();
                if denied.is_some_and(|denied| Arc::ptr_eq(&denied, &list)) {
                    self.deny_list_read(&list, outcome);
                }
            }
            Event::Found(Found::Changed(Watched::Unit(key))) => {
                if let Some(unit) = self.units.get_mut(&key) {
                    unit.want();
                }
            }
            Event::Found(Found::Changed(Watched::Configuration)) => {
                self.want_configuration("a changed file", ReloadWaiters::default());
            }
            Event::Found(Found::Changed(Watched::DenyList)) => {}
            Event::Done(done) => match *done {
                Done::Proposed(proposal) => self.proposed(*proposal),
                Done::NotSuspended(domain) => {
                    self.suspending.remove(&domain);
                }
                Done::Failed {
                    key,
                    configuration,
                    error,
                } => {
                    if configuration == self.configuration.count
                        && let Some(unit) = self.units.get_mut(&key)
                    {
                        unit.failed(&error);
                        self.report_unit(&key);
                    }
                }
                Done::Configuration {
                    number,
                    outcome,
                    stamp,
                } => self.configuration_loaded(number, outcome, stamp),
            },
        }
    }

    /// Looks at every file that is not being read right now.
    fn begin_round(&mut self) {
        let mut items = Vec::with_capacity(self.units.len() + 2);
        if let Some(list) = &self.parts.snapshot.load().deny_list {
            items.push(Item::DenyList(Arc::clone(list)));
        }
        for (key, unit) in &self.units {
            for (path, stamp) in unit.watched().iter().flat_map(|stamps| stamps.iter()) {
                let watched = Watched::Unit(key.clone());
                items.push(Item::Stamp(watched, path.clone(), stamp.clone()));
            }
        }
        if self.configuration.loading.is_none() && self.configuration.wanted.is_none() {
            let path = self.running.path().to_owned();
            let stamp = self.configuration.stamp.clone();
            items.push(Item::Stamp(Watched::Configuration, path, stamp));
        }
        self.watch.begin(items);
    }

    fn look_after(&mut self) {
        descriptors::keep_spares();
        self.watch.look_after();
        self.report_stalls();
        self.suspend_unread();
        self.answer_those_who_wait();
    }

    /// Starts what is due. Material first: a configuration is held back while units
    /// are loaded, unless one of them takes long.
    fn start_loads(&mut self) {
        let now = Instant::now();
        let mut without_thread = Vec::new();
        for (key, unit) in &mut self.units {
            if unit.is_due(now) {
                let previous = self.parts.snapshot.load_full();
                let job = UnitJob {
                    key: key.clone(),
                    running: Arc::clone(&self.running),
                    previous,
                    configuration: self.configuration.count,
                };
                match self.loader.unit(job) {
                    Ok(progress) => unit.begin(progress),
                    // No thread: the system is short of something.
                    Err(error) => {
                        unit.failed(&UnitError::system(&error));
                        without_thread.push(key.clone());
                    }
                }
            }
        }
        for key in without_thread {
            self.report_unit(&key);
        }
        let busy = |unit: &UnitState| unit.is_loading_for_less_than(LONGEST_ANSWER / 5);
        let state = &mut self.configuration;
        if state.wanted.is_none() && state.retry_at.is_some_and(|at| at <= now) {
            state.wanted = Some("an attempt that failed");
        }
        if let Some(load) = &state.loading
            && state.wanted.is_some()
            && load.is_stalled()
            && state.left_behind < MAX_LEFT_BEHIND
        {
            // A file system that does not answer must not keep out a configuration that
            // names other files.
            state.left_behind += 1;
            state.loading = None;
        }
        if state.loading.is_some() || self.units.values().any(busy) {
            return;
        }
        let Some(why) = state.wanted.take() else {
            return;
        };
        state.retry_at = None;
        let previous = self.parts.snapshot.load_full();
        let running = Arc::clone(&self.running);
        let settings = self.parts.settings.clone();
        state.number += 1;
        let number = state.number;
        let denied = previous.deny_list.as_ref().map(|list| list.epoch());
        match self
            .loader
            .configuration(number, running, previous, settings)
        {
            Ok(progress) => {
                state.waiting_since = None;
                state.loading = Some(ConfigurationLoad {
                    why,
                    progress,
                    began: Instant::now(),
                    waiters: std::mem::take(&mut state.waiters),
                    material: self.material,
                    denied,
                });
            }
            Err(error) => {
                let waiters = std::mem::take(&mut state.waiters);
                self.refuse_configuration(&format!("no thread to load it: {error}"), waiters, why);
            }
        }
    }

    /// Puts a snapshot into service that differs from the one in service by one change.
    fn proposed(&mut self, proposal: Proposal) {
        let Proposal {
            change,
            configuration,
            based_on,
            snapshot,
        } = proposal;
        if configuration != self.configuration.count {
            if let Change::Suspension { domain, .. } = &change {
                self.suspending.remove(domain);
            }
            // Made for another configuration. The units of this one were read anew.
            return;
        }
        if let Change::Suspension { domain, .. } = &change
            && !self.is_unread_for_too_long(domain)
        {
            self.suspending.remove(domain);
            return;
        }
        if let Change::Unit { key, loaded } = &change
            && loaded.is_unchanged
            && !self.running.is_suspended_unit(key)
        {
            // Read again with the same outcome, as a part that cannot be used is.
            if let Some(unit) = self.units.get_mut(key) {
                unit.loaded(loaded);
            }
            self.report_unit(key);
            return;
        }
        if based_on != self.parts.snapshot.load().generation {
            // Something else came into service meanwhile: the two go together. Nothing
            // is read again.
            self.assemble(change);
            return;
        }
        match change {
            Change::Unit { key, loaded } => {
                let mut running = (*self.running).clone();
                running.replace(&key, &loaded);
                self.running = Arc::new(running);
                for warning in &loaded.warnings {
                    tracing::warn!("{warning}");
                }
                if let Some(unit) = self.units.get_mut(&key) {
                    unit.loaded(&loaded);
                }
                self.report_unit(&key);
                self.put_into_service(snapshot);
                tracing::info!(
                    generation = self.parts.snapshot.load().generation,
                    "{key} was read again and is in service"
                );
                self.parts.metrics.material_loaded(true);
            }
            Change::Suspension { domain, since } => {
                self.suspending.remove(&domain);
                let mut running = (*self.running).clone();
                running.suspend(&domain, since);
                self.running = Arc::new(running);
                self.put_into_service(snapshot);
                tracing::error!(
                    trust_domain = %domain,
                    "its files could not be read since {} (max_unread): its callers are refused \
                     until they can be read again",
                    clock::rfc3339(since)
                );
            }
        }
        self.material += 1;
    }

    /// Builds the snapshot in service anew with a change.
    fn assemble(&mut self, change: Change) {
        let mut running = (*self.running).clone();
        change.apply(&mut running);
        let previous = self.parts.snapshot.load_full();
        let configuration = self.configuration.count;
        let key = change.unit().cloned();
        if let Err(error) = self
            .loader
            .assemble(change, running, previous, configuration)
        {
            match key {
                Some(key) => {
                    if let Some(unit) = self.units.get_mut(&key) {
                        unit.failed(&UnitError::system(&error));
                    }
                    self.report_unit(&key);
                }
                None => self.suspending.clear(),
            }
        }
    }

    fn put_into_service(&self, mut snapshot: Snapshot) {
        let previous = self.parts.snapshot.load_full();
        snapshot.generation = previous.generation + 1;
        snapshot.meter(&self.parts.metrics);
        snapshot.start(&tokio::runtime::Handle::current());
        self.parts.snapshot.store(Arc::new(snapshot));
        self.parts.metrics.came_into_service();
        // Connections look at the new snapshot when they hear of it.
        self.parts.changed.send_modify(|changes| *changes += 1);
        if let Some(directory) = &self.parts.settings.audit_chains
            && !self.previewing.swap(true, Ordering::AcqRel)
        {
            let (directory, after) = (directory.clone(), self.parts.snapshot.load_full());
            let previewing = Arc::clone(&self.previewing);
            // Nobody waits for the preview, and there is one at a time.
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
