//! Fetches revocation lists by URL again and again, and asks for a reload when
//! one has changed.
//!
//! What comes is looked at before it is kept: a list that is damaged, signed by
//! somebody else or older than the one in use, or not there any more, changes
//! nothing but an alarm.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::admin::{Readiness, ReloadRequests};
use crate::authn::remote_lists::{self, ListSource};
use crate::clock;
use crate::identity::text::printable;
use crate::snapshot::Snapshot;
use crate::telemetry::metrics::Metrics;

/// How long after a failure it is tried again, at the latest.
const RETRY: Duration = Duration::from_secs(60);
/// Lists that are about to end are not fetched more often than this for that.
const HURRY: Duration = Duration::from_secs(60);

/// Keeps the lists by URL up to date.
#[derive(Debug)]
pub(super) struct ListKeeper {
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) reloads: ReloadRequests,
    pub(super) readiness: Arc<Readiness>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) changes: watch::Receiver<u64>,
}

/// What became of one fetch.
struct Fetched {
    source: ListSource,
    /// What came if it is new, and when it is to be replaced; or what is wrong.
    outcome: Result<Option<(Bytes, i64)>, String>,
}

impl ListKeeper {
    /// Goes on for ever.
    pub(super) async fn run(mut self) {
        let mut due: BTreeMap<String, Instant> = BTreeMap::new();
        let mut problems = BTreeSet::new();
        loop {
            let sources = self.snapshot.load().list_sources.clone();
            due.retain(|url, _| sources.iter().any(|source| source.url == url.as_str()));
            for source in &sources {
                let url = source.url.to_string();
                due.entry(url).or_insert_with(|| self.first(source));
            }
            self.forget(&mut problems, &due);
            let next = due.values().min().copied();
            let alarm = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = alarm => {}
                changed = self.changes.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
            let now = Instant::now();
            let mut fetching = JoinSet::new();
            for source in sources {
                if due
                    .get(&source.url.to_string())
                    .is_some_and(|due| *due <= now)
                {
                    fetching.spawn(fetch(Arc::clone(&self.snapshot), source));
                }
            }
            while let Some(fetched) = fetching.join_next().await {
                if let Ok(fetched) = fetched {
                    let wait = self.conclude(&fetched, &mut problems);
                    due.insert(fetched.source.url.to_string(), Instant::now() + wait);
                }
            }
        }
    }

    /// When a source is fetched for the first time, after what the load did.
    fn first(&self, source: &ListSource) -> Instant {
        let remote = Arc::clone(&self.snapshot.load().remote);
        remote.save(source);
        let fetched_at = remote.fetched_at(source);
        let age = Duration::from_secs(clock::unix_now().saturating_sub(fetched_at));
        Instant::now() + source.policy.interval.saturating_sub(age)
    }

    /// Keeps what came; says when to come back.
    fn conclude(&self, fetched: &Fetched, problems: &mut BTreeSet<String>) -> Duration {
        let Fetched { source, outcome } = fetched;
        let interval = source.policy.interval;
        self.metrics.revocation_list_fetched(outcome.is_ok());
        match outcome {
            Ok(new) => {
                if problems.remove(&name(source)) {
                    self.readiness.clear_problem(&name(source));
                }
                let Some((octets, next_update)) = new else {
                    return interval;
                };
                tracing::info!(url = %source.url, "a new revocation list was fetched");
                self.snapshot.load().remote.keep(source, octets.clone());
                self.reloads.notify();
                let now = i64::try_from(clock::unix_now()).unwrap_or(i64::MAX);
                let left = u64::try_from(next_update.saturating_sub(now)).unwrap_or(0);
                interval.min(HURRY.max(Duration::from_secs(left / 2)))
            }
            Err(why) => {
                let detail = format!("{} of {}: {why}", source.url, source.trust_domain);
                if problems.insert(name(source)) {
                    tracing::error!(
                        "the revocation list stays as it was: {}",
                        printable(&detail)
                    );
                }
                self.readiness.set_problem(&name(source), &detail);
                interval.min(RETRY)
            }
        }
    }

    /// Takes back problems of sources that are no longer configured.
    fn forget(&self, problems: &mut BTreeSet<String>, due: &BTreeMap<String, Instant>) {
        problems.retain(|problem| {
            let kept = due.keys().any(|url| *problem == named(url));
            if !kept {
                self.readiness.clear_problem(problem);
            }
            kept
        });
    }
}

fn name(source: &ListSource) -> String {
    named(&source.url.to_string())
}

fn named(url: &str) -> String {
    format!("revocation-list {url}")
}

async fn fetch(snapshot: Arc<ArcSwap<Snapshot>>, source: ListSource) -> Fetched {
    let remote = Arc::clone(&snapshot.load().remote);
    let outcome = match remote.fetch(&source).await {
        Err(error) => Err(error.to_string()),
        Ok(None) => Ok(None),
        Ok(Some(octets)) => {
            let snapshot = snapshot.load_full();
            let asked = source.clone();
            // A large list takes its time.
            let checked = tokio::task::spawn_blocking(move || {
                check(&snapshot, &asked, &octets).map(|next_update| Some((octets, next_update)))
            });
            checked.await.unwrap_or_else(|error| Err(error.to_string()))
        }
    };
    Fetched { source, outcome }
}

/// Whether what came may replace what is in use; when it is to be replaced itself.
fn check(snapshot: &Snapshot, source: &ListSource, octets: &[u8]) -> Result<i64, String> {
    let bundle = snapshot
        .bundles
        .iter()
        .find(|bundle| *bundle.name() == source.trust_domain)
        .ok_or("its trust domain is gone")?;
    let kept = match snapshot.remote.kept(source) {
        Some(kept) => remote_lists::lists_in(&kept)?,
        None => Vec::new(),
    };
    bundle.check_lists(&remote_lists::lists_in(octets)?, &kept)
}
