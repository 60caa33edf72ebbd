//! Requests loads of the configuration, handles their outcomes, and schedules retries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::announce::announce;
use super::configuration_state::STALL_TIMEOUT;
use super::reloader::Reloader;
use super::unit_state::UnitState;
use crate::admin::{ReloadOutcome, ReloadWaiters};
use crate::config::Loaded;
use crate::file_stamp::FileStamp;

/// Maximum number of successive attempts to load the configuration, if during each attempt new
/// material comes into service. After that, the load is postponed.
const MAX_ATTEMPTS: u32 = 5;
/// Maximum pause between attempts to load a configuration that was refused.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(30);

impl Reloader {
    pub(super) fn want_configuration(&mut self, why: &'static str, waiters: ReloadWaiters) {
        let state = &mut self.configuration;
        if !waiters.is_empty() {
            state.waiting_since.get_or_insert_with(Instant::now);
        }
        state.waiters.join(waiters);
        state.wanted = Some(why);
        state.attempts = 0;
    }

    pub(super) fn configuration_loaded(
        &mut self,
        number: u64,
        outcome: Result<Box<Loaded>, String>,
        stamp: Option<FileStamp>,
    ) {
        if number != self.configuration.number {
            // This is the result of an abandoned load. A newer load has replaced it.
            self.configuration.left_behind = self.configuration.left_behind.saturating_sub(1);
            return;
        }
        let Some(load) = self.configuration.loading.take() else {
            return;
        };
        self.configuration.stamp = stamp;
        let loaded = match outcome {
            Ok(loaded) => *loaded,
            Err(why) => {
                self.refuse_configuration(&why, load.waiters, load.why);
                return;
            }
        };
        let denied = self.parts.snapshot.load().deny_list.clone();
        let is_another = match (&denied, &loaded.snapshot.deny_list) {
            (Some(before), Some(after)) => !Arc::ptr_eq(before, after),
            _ => false,
        };
        let is_behind = is_another && load.denied != denied.as_ref().map(|list| list.epoch());
        if load.material != self.material || is_behind {
            // After this configuration was read, new material came into service. Or the entries of
            // the deny list in service changed, and this configuration names another deny list. The
            // new snapshot would undo that change, so the configuration is loaded again.
            self.configuration.attempts += 1;
            if self.configuration.attempts < MAX_ATTEMPTS {
                let attempts = self.configuration.attempts;
                self.want_configuration(load.why, load.waiters);
                self.configuration.attempts = attempts;
            } else {
                let why = "certificates or revocation lists change faster than the configuration \
                           can be loaded; it is tried again";
                self.refuse_configuration(why, load.waiters, load.why);
            }
            return;
        }
        announce(&loaded.snapshot, &loaded.warnings);
        let routes = loaded.snapshot.routes.routes().len();
        if let (Some(before), Some(after)) = (&denied, &loaded.snapshot.deny_list)
            && is_another
        {
            after.take_unsaved_of(before);
        }
        self.running = Arc::new(loaded.running);
        let before = std::mem::replace(&mut self.units, UnitState::of(&self.running));
        // Before the swap, some units were being read or were to be read next. Their files may be
        // newer than what this load has read, so these units are read again.
        for (key, unit) in &mut self.units {
            if before.get(key).is_some_and(UnitState::is_awaited) {
                unit.want();
            }
        }
        // With the new configuration, a path that hung may lead to another file. Therefore it is
        // watched again.
        self.watch.forget_stalled();
        self.suspending.clear();
        let configuration = &mut self.configuration;
        configuration.count += 1;
        configuration.failures = 0;
        configuration.attempts = 0;
        configuration.retry_at = None;
        configuration.refused = None;
        self.put_into_service(loaded.snapshot);
        self.clear_problems_of_before();
        self.parts.metrics.reloaded(true);
        let generation = self.parts.snapshot.load().generation;
        tracing::info!(
            generation,
            routes,
            because = load.why,
            "configuration reloaded"
        );
        load.waiters.answer(&Ok(generation));
    }

    pub(super) fn refuse_configuration(
        &mut self,
        why: &str,
        waiters: ReloadWaiters,
        because: &str,
    ) {
        let state = &mut self.configuration;
        let is_news = state.refused.as_deref() != Some(why);
        if is_news {
            tracing::error!(because, "the configuration in service stays: {why}");
        }
        if is_news || !waiters.is_empty() {
            self.parts.metrics.reloaded(false);
        }
        state.refused = Some(why.to_owned());
        state.attempts = 0;
        let pause = Duration::from_secs(1) * 2u32.saturating_pow(state.failures.min(10));
        state.failures = state.failures.saturating_add(1);
        state.retry_at = Some(Instant::now() + pause.min(MAX_RETRY_PAUSE));
        self.report_refusal(why);
        let outcome: ReloadOutcome = Err(why.to_owned());
        waiters.answer(&outcome);
    }

    /// If the load of the configuration hangs, sends an error to the requesters of the load.
    pub(super) fn report_hanging_load(&mut self) {
        let Some(load) = &mut self.configuration.loading else {
            return;
        };
        let Some(file) = load.progress.reading() else {
            return;
        };
        if load.began.elapsed() < STALL_TIMEOUT {
            return;
        }
        let why = format!(
            "the configuration is not loaded yet: reading {} has not ended for {} seconds; \
             revocations and other changes of files take effect meanwhile",
            file.display(),
            load.began.elapsed().as_secs()
        );
        let waiters = std::mem::take(&mut load.waiters);
        waiters.answer(&Err(why.clone()));
        let waiting = self.configuration.waiting_since;
        if waiting.is_some_and(|since| since.elapsed() >= Duration::from_secs(1)) {
            self.configuration.waiting_since = None;
            std::mem::take(&mut self.configuration.waiters).answer(&Err(why));
        }
    }
}
