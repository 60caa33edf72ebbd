//! The loop of the reloading task: handles events, starts loads, and puts their results into
//! service.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::configuration_state::{ConfigurationLoad, STALL_TIMEOUT};
use super::events::{Change, Done, Event, Proposal};
use super::file_watch::{Found, Item, Watched};
use super::load::UnitJob;
use super::reloader::Reloader;
use super::unit_state::UnitState;
use crate::admin::{ReloadQueue, ReloadWaiters};
use crate::clock;
use crate::config::UnitError;
use crate::descriptors;

/// The interval at which the stamps of files are compared.
const WATCH_INTERVAL: Duration = Duration::from_millis(150);
/// The interval at which the task looks for files and loads that hang.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Maximum number of abandoned configuration loads whose threads still hang. At this number, no
/// further load is abandoned.
const MAX_LEFT_BEHIND: u32 = 8;

impl Reloader {
    /// Handles events until the process ends. Requests for the configuration that come during a
    /// load share one further load.
    pub(in crate::app) async fn run(mut self, mut asked: ReloadQueue) {
        let mut ticks = tokio::time::interval(WATCH_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looks = tokio::time::interval(CHECK_INTERVAL);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Results of loads are handled before new requests: `select!` polls its branches in
                // this order.
                biased;
                event = self.events.recv() => match event {
                    Some(event) => self.handle(event),
                    None => return,
                },
                waiters = asked.next() => self.want_configuration("a request", waiters),
                _ = ticks.tick() => self.begin_round(),
                _ = looks.tick() => self.look_after(),
            }
            self.start_loads();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Requested(key) => {
                if let Some(unit) = self.units.get_mut(&key) {
                    unit.want();
                }
            }
            Event::Found(Found::DenyList(list, outcome)) => {
                // A reload may have put another deny list into service after this list was read.
                // The outcome for this list is then ignored.
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

    /// Starts a round of the file watch over all files that are not being read now.
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
        self.report_hanging_load();
    }

    /// Starts all loads that are due. Units come first: while a unit is being loaded, the
    /// configuration is not loaded. A unit whose load has taken longer than a second does not delay
    /// the configuration.
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
                    // No thread could be started, because the operating system lacks a resource.
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
        let busy = |unit: &UnitState| unit.is_loading_for_less_than(STALL_TIMEOUT / 5);
        let state = &mut self.configuration;
        if state.wanted.is_none() && state.retry_at.is_some_and(|at| at <= now) {
            state.wanted = Some("an attempt that failed");
        }
        if let Some(load) = &state.loading
            && state.wanted.is_some()
            && load.is_stalled()
            && state.left_behind < MAX_LEFT_BEHIND
        {
            // The load hangs, and another load was requested. The hanging load is abandoned,
            // because the configuration may now name other files, which do not hang.
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

    /// Puts a proposed snapshot into service, unless it is out of date or its change is not needed
    /// any more.
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
            // The change was made for an earlier configuration. It is dropped, because the load of
            // the current configuration has read all units again.
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
            // The unit was read again, for example at intervals because a part of it is unusable.
            // Its content has not changed, so no snapshot comes into service.
            if let Some(unit) = self.units.get_mut(key) {
                unit.loaded(loaded);
            }
            self.report_unit(key);
            return;
        }
        if based_on != self.parts.snapshot.load().generation {
            // The proposed snapshot lacks a change that came into service after the load of this
            // change had begun. A snapshot with both changes is built from the units in memory.
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

    /// Builds a snapshot that has all units in service and one change. Reads no files.
    pub(super) fn assemble(&mut self, change: Change) {
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
}
