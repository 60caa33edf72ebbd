//! Reloading as a transaction: all good, or the old state stays and says why.
//!
//! Triggers are SIGHUP and a change of any file the configuration was built
//! from. Files are watched by looking at them: that sees atomic renames and
//! swapped symbolic links on every kind of file system.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::admin::{Readiness, ReloadOutcome, ReloadQueue, ReloadWaiters};
use crate::config;
use crate::snapshot::{Settings, Snapshot};
use crate::telemetry::metrics::Metrics;

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

/// Loads the configuration again when asked to.
#[derive(Debug)]
pub(super) struct Reloader {
    path: PathBuf,
    settings: Settings,
    files: Vec<PathBuf>,
    seen: Fingerprint,
    snapshot: Arc<ArcSwap<Snapshot>>,
    changed: watch::Sender<u64>,
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
}

/// What a set of files looks like from outside.
type Fingerprint = BTreeMap<PathBuf, Option<Look>>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Names in a directory; empty for a file.
    names: Vec<std::ffi::OsString>,
}

impl Reloader {
    pub(super) fn new(
        path: PathBuf,
        settings: Settings,
        files: Vec<PathBuf>,
        snapshot: Arc<ArcSwap<Snapshot>>,
        changed: watch::Sender<u64>,
        readiness: Arc<Readiness>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let seen = look_at(&files);
        Self {
            path,
            settings,
            files,
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
                let outcome = self.reload(why);
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
            let mut now = look_at(&self.files);
            if now == self.seen {
                continue;
            }
            for _ in 0..MAX_SETTLING {
                tokio::time::sleep(SETTLE).await;
                let next = look_at(&self.files);
                if next == now {
                    break;
                }
                now = next;
            }
            return;
        }
    }

    fn reload(&mut self, why: &str) -> ReloadOutcome {
        // Before loading, so that a change during it is seen afterwards.
        self.seen = look_at(&self.files);
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
        snapshot.generation = previous.generation + 1;
        let generation = snapshot.generation;
        super::announce(&snapshot, &loaded.warnings);
        let routes = snapshot.routes.routes().len();
        snapshot.meter(&self.metrics);
        self.snapshot.store(Arc::new(snapshot));
        if loaded.files != self.files {
            self.files = loaded.files;
            self.seen = look_at(&self.files);
        }
        self.readiness.clear_problem(PROBLEM);
        self.metrics.reloaded(true);
        tracing::info!(generation, routes, because = why, "configuration reloaded");
        // Connections look at the new snapshot when they hear of it.
        self.changed.send_replace(generation);
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
    if socket(old) != socket(new) {
        return Some("[admin] socket");
    }
    if old.audit != new.audit {
        return Some("[audit] file");
    }
    (old.workers != new.workers).then_some("[runtime] workers")
}

fn look_at(files: &[PathBuf]) -> Fingerprint {
    files
        .iter()
        .map(|path| (path.clone(), look_at_one(path)))
        .collect()
}

fn look_at_one(path: &Path) -> Option<Look> {
    let metadata = fs::metadata(path).ok()?;
    let mut names: Vec<_> = match metadata.is_dir() {
        // Names are what matters of a directory: a log written into it changes
        // neither them nor anything that is read.
        true => fs::read_dir(path)
            .ok()?
            .filter_map(|entry| entry.ok().map(|entry| entry.file_name()))
            .collect(),
        false => Vec::new(),
    };
    names.sort();
    let modified = match metadata.is_dir() {
        true => (0, 0),
        false => (metadata.mtime(), metadata.mtime_nsec()),
    };
    Some(Look {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: if metadata.is_dir() { 0 } else { metadata.len() },
        modified,
        names,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_renames_links_and_new_names_but_not_logs() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a");
        let lists = directory.path().join("lists");
        fs::create_dir(&lists).unwrap();
        fs::write(&file, "1").unwrap();
        let watched = [file.clone(), lists.clone()];
        let before = look_at(&watched);
        assert_eq!(look_at(&watched), before);

        fs::write(directory.path().join("log"), "x").unwrap();
        assert_eq!(look_at(&watched), before);

        fs::write(directory.path().join("b"), "1").unwrap();
        fs::rename(directory.path().join("b"), &file).unwrap();
        let renamed = look_at(&watched);
        assert_ne!(renamed, before);

        fs::write(lists.join("new.crl"), "x").unwrap();
        assert_ne!(look_at(&watched), renamed);

        // As Kubernetes swaps a mounted volume: a link to a directory changes.
        for name in ["one", "two"] {
            fs::create_dir(directory.path().join(name)).unwrap();
            fs::write(directory.path().join(name).join("f"), "same").unwrap();
        }
        let link = directory.path().join("..data");
        std::os::unix::fs::symlink("one", &link).unwrap();
        let watched = [link.join("f")];
        let before = look_at(&watched);
        let swapped = directory.path().join("tmp");
        std::os::unix::fs::symlink("two", &swapped).unwrap();
        fs::rename(&swapped, &link).unwrap();
        assert_ne!(look_at(&watched), before);
    }
}
