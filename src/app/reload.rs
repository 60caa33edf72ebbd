//! Reloading as a transaction: all good, or the old state stays and says why.
//!
//! Triggers are SIGHUP and a change of any file the configuration was built
//! from. Files are watched by looking at them: that sees atomic renames and
//! swapped symbolic links on every kind of file system.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::impact;
use crate::admin::{Readiness, ReloadOutcome, ReloadQueue, ReloadWaiters};
use crate::clock;
use crate::config;
use crate::look::{self, Looks};
use crate::snapshot::{Settings, Snapshot};
use crate::telemetry::metrics::Metrics;
use crate::trust::DenyList;

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(400);
/// How long files must have stayed the same before they are loaded, so that a
/// file being written is not taken for a broken one.
const SETTLE: Duration = Duration::from_millis(60);
/// Looks for a settled state at most this often in a row.
const MAX_SETTLING: usize = 20;
/// How long further requests are waited for, so that many at once become one.
const GATHER: Duration = Duration::from_millis(20);
/// Under this name a failed reload is a readiness problem.
const PROBLEM: &str = "reload";
/// Under this name a deny list that cannot be read is one.
const DENY_PROBLEM: &str = "deny-list";

/// Loads the configuration again when asked to.
#[derive(Debug)]
pub(super) struct Reloader {
    path: PathBuf,
    settings: Settings,
    /// The files of what is in service, as they were before they were read.
    seen: Looks,
    snapshot: Arc<ArcSwap<Snapshot>>,
    changed: Arc<watch::Sender<u64>>,
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
}

impl Reloader {
    pub(super) fn new(
        path: PathBuf,
        settings: Settings,
        seen: Looks,
        snapshot: Arc<ArcSwap<Snapshot>>,
        changed: Arc<watch::Sender<u64>>,
        readiness: Arc<Readiness>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            path,
            settings,
            seen,
            snapshot,
            changed,
            readiness,
            metrics,
        }
    }

    /// Reloads whenever somebody asks and on every change of a file, for ever.
    /// Requests that come while a reload runs are answered by one more.
    pub(super) async fn run(mut self, mut asked: ReloadQueue) {
        loop {
            let (why, mut waiters) = tokio::select! {
                waiters = asked.next() => ("a request", waiters),
                () = self.change() => ("a changed file", ReloadWaiters::default()),
            };
            // Whoever has asked by now is answered by what is loaded next.
            tokio::time::sleep(GATHER).await;
            asked.join(&mut waiters);
            self = match tokio::task::spawn_blocking(move || {
                let outcome = match without_panic(|| self.reload(why)) {
                    Ok(outcome) => outcome,
                    Err(panic) => {
                        self.metrics.panicked();
                        self.refuse(&format!("loading it panicked; please report this: {panic}"))
                    }
                };
                (self, outcome)
            })
            .await
            {
                Ok((reloader, outcome)) => {
                    waiters.answer(&outcome);
                    reloader
                }
                Err(error) => {
                    tracing::error!(%error, "reloading panicked; no more reloads");
                    return;
                }
            };
        }
    }

    /// Waits until a file has changed and come to rest.
    async fn change(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.look_at_deny_list();
            let mut now = look::again(&self.seen);
            if now == self.seen {
                continue;
            }
            for _ in 0..MAX_SETTLING {
                tokio::time::sleep(SETTLE).await;
                let next = look::again(&self.seen);
                if next == now {
                    break;
                }
                now = next;
            }
            return;
        }
    }

    /// Takes over what others have written into the deny list.
    fn look_at_deny_list(&self) {
        let snapshot = self.snapshot.load();
        let Some(list) = &snapshot.denied else {
            return;
        };
        match list.refresh() {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!("the deny list's file has changed and is in service");
                self.readiness.clear_problem(DENY_PROBLEM);
            }
            Err(error) => {
                let detail = error.to_string();
                // One that cannot be read is looked at again and again.
                if self.readiness.set_problem(DENY_PROBLEM, &detail) {
                    tracing::error!(%error, "the deny list stays as it was");
                }
            }
        }
    }

    fn reload(&mut self, why: &str) -> ReloadOutcome {
        // Before loading, so that a change during it is seen afterwards.
        self.seen = look::again(&self.seen);
        let previous = self.snapshot.load_full();
        let loaded = match config::load_after(&self.path, &previous) {
            Ok(loaded) => loaded,
            Err(errors) => {
                tracing::error!("the configuration was not reloaded:\n{errors}");
                return self.refuse(&summary(&errors));
            }
        };
        if let Some(what) = needs_restart(&self.settings, &loaded.settings) {
            return self.refuse(&format!(
                "{what} cannot change while the gateway runs; restart it, or set it back"
            ));
        }
        let mut snapshot = loaded.snapshot;
        if snapshot.limits.connections != previous.limits.connections {
            return self.refuse(
                "[limits] connections cannot change while the gateway runs; restart it, or set it back",
            );
        }
        if let Err(why) = keeps_denials(previous.denied.as_deref(), snapshot.denied.as_deref()) {
            return self.refuse(&why);
        }
        if let Some(list) = &snapshot.denied
            && let Err(error) = list.create_if_missing()
        {
            return self.refuse(&error.to_string());
        }
        snapshot.generation = previous.generation + 1;
        let generation = snapshot.generation;
        super::announce(&snapshot, &loaded.warnings);
        let routes = snapshot.routes.routes().len();
        snapshot.meter(&self.metrics);
        snapshot.start(&tokio::runtime::Handle::current());
        self.snapshot.store(Arc::new(snapshot));
        self.seen = loaded.looks;
        self.readiness.clear_problem(PROBLEM);
        self.metrics.reloaded(true);
        tracing::info!(generation, routes, because = why, "configuration reloaded");
        // Connections look at the new snapshot when they hear of it.
        self.changed.send_modify(|changes| *changes += 1);
        if let Some(directory) = &self.settings.audit_chains {
            let (directory, after) = (directory.clone(), self.snapshot.load_full());
            // Whoever asked for the reload need not wait for the preview.
            std::thread::spawn(move || impact::report(&directory, &previous, &after));
        }
        Ok(generation)
    }

    fn refuse(&self, why: &str) -> ReloadOutcome {
        tracing::error!("the old configuration stays: {why}");
        self.readiness.set_problem(PROBLEM, why);
        self.metrics.reloaded(false);
        Err(why.to_owned())
    }
}

/// What is wrong and where, without the lines of the file themselves: those may
/// name callers.
fn summary(errors: &config::ConfigErrors) -> String {
    let one = |error: config::ErrorRecord| match error.line {
        Some(line) => format!("{}:{line}: {}", error.file, error.message),
        None => format!("{}: {}", error.file, error.message),
    };
    errors
        .records()
        .into_iter()
        .map(one)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Refuses to put an empty deny list in the place of one with entries because its
/// file is not there: most likely it was moved or its name is wrong.
fn keeps_denials(before: Option<&DenyList>, after: Option<&DenyList>) -> Result<(), String> {
    let now = i64::try_from(clock::unix_now()).unwrap_or(i64::MAX);
    let denied = before.map_or(0, |list| list.list(now).len());
    match (before, after) {
        (Some(before), None) if denied > 0 => {
            tracing::warn!(
                entries = denied,
                "there is no [deny_list] any longer: those in {} are let in again",
                before.path().display()
            );
            Ok(())
        }
        (Some(before), Some(after)) if denied > 0 && !after.has_file() => {
            if before.path() == after.path() {
                return Ok(());
            }
            Err(format!(
                "{} does not exist, and {denied} entries of the deny list {} count: copy that \
                 file there first, or remove the entries",
                after.path().display(),
                before.path().display()
            ))
        }
        _ => Ok(()),
    }
}

/// Names the first setting that differs and takes effect only at start.
fn needs_restart(old: &Settings, new: &Settings) -> Option<&'static str> {
    let public = |settings: &Settings| settings.public.as_ref().map(|public| public.address);
    let offered = |settings: &Settings| {
        let public = settings.public.as_ref()?;
        Some((
            public.keys,
            public.health,
            public.metrics,
            public.tls.is_some(),
        ))
    };
    let admin = |settings: &Settings| settings.admin.as_ref().map(|admin| admin.address);
    let socket = |settings: &Settings| settings.admin.as_ref()?.socket.clone();
    let operated = |settings: &Settings| {
        let admin = settings.admin.as_ref();
        admin.is_some_and(|admin| !admin.operators.is_empty())
    };
    if old.address != new.address {
        return Some("[listener] address");
    }
    if public(old) != public(new) {
        return Some("[public] address");
    }
    if offered(old) != offered(new) {
        return Some("[public] serve");
    }
    if admin(old) != admin(new) {
        return Some("[admin] address");
    }
    if operated(old) != operated(new) {
        return Some("whether [admin] has operators");
    }
    if socket(old) != socket(new) {
        return Some("[admin] socket");
    }
    if old.audit != new.audit {
        return Some("[audit] file");
    }
    if old.audit_chains != new.audit_chains {
        return Some("[audit] chains");
    }
    (old.workers != new.workers).then_some("[runtime] workers")
}

/// What comes of work that may panic: then the process goes on as before.
fn without_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let said = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned());
        said.unwrap_or_else(|| "no message".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::DenyTarget;

    #[test]
    fn an_absent_file_does_not_empty_the_deny_list() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| DenyList::open(folder.path().join(name)).unwrap();
        let (before, after) = (open("a.json"), open("b.json"));
        assert_eq!(keeps_denials(Some(&before), Some(&after)), Ok(()));
        let identity = "dns:a.example.org".to_owned();
        let target = DenyTarget::Identity { identity };
        let end = i64::try_from(clock::unix_now()).unwrap() + 600;
        before.add(target, "", Some(end), end - 900).unwrap();
        let refused = keeps_denials(Some(&before), Some(&after)).unwrap_err();
        assert!(refused.contains("b.json") && refused.contains("a.json"));
        std::fs::copy(before.path(), after.path()).unwrap();
        assert_eq!(keeps_denials(Some(&before), Some(&open("b.json"))), Ok(()));
        // Its own file may be gone for a moment: the entries are in memory.
        std::fs::remove_file(before.path()).unwrap();
        assert!(before.refresh().is_err());
        assert_eq!(keeps_denials(Some(&before), Some(&before)), Ok(()));
        assert_eq!(keeps_denials(Some(&before), None), Ok(()));
        assert_eq!(keeps_denials(None, Some(&after)), Ok(()));
    }

    #[test]
    fn a_panic_is_an_answer_like_any_other() {
        assert_eq!(without_panic(|| 7), Ok(7));
        let panicked = without_panic(|| -> u8 { panic!("for a test") });
        assert_eq!(panicked, Err("for a test".to_owned()));
    }
}
