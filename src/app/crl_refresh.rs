//! Fetches CRLs by URL at intervals. If a CRL has changed, requests that the material of its trust
//! domain is loaded.
//!
//! Each fetched CRL is checked before `crl_fetcher` keeps it. If the CRL is damaged, signed by
//! another key, or older than the CRL in use, a problem is raised. The same happens if the server
//! has no CRL. In each of these cases, the CRL in use stays in service. A problem is also raised if
//! the snapshot in service still does not use the kept CRL at the next fetch. Each URL has its own
//! schedule, so that a server that hangs delays no other fetch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::reload::events::MaterialRequests;
use crate::admin::{Problem, ProblemCode, Readiness};
use crate::clock;
use crate::crl_fetch::{self, CrlDocument, CrlFetcher, CrlSource};
use crate::identity::text::printable;
use crate::snapshot::Snapshot;
use crate::telemetry::metrics::Metrics;

/// Maximum time until a source is fetched again after a failure.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(60);
/// Minimum time between two fetches of a CRL that is about to expire.
const MIN_INTERVAL: Duration = Duration::from_secs(60);

/// Fetches new versions of the CRLs that are configured by URL.
#[derive(Debug)]
pub(super) struct CrlRefresher {
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) material: MaterialRequests,
    pub(super) readiness: Arc<Readiness>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) changes: watch::Receiver<u64>,
}

/// The outcome of one fetch.
struct Fetched {
    source: CrlSource,
    /// The fetched document if it is new, `None` if the document on the server has not changed, or
    /// a description of the error.
    outcome: Result<Option<CrlDocument>, String>,
}

/// The state of all sources of CRLs. The keys are the URLs of the sources.
#[derive(Default)]
struct Known {
    /// When each source is fetched next.
    due: BTreeMap<String, Instant>,
    /// Sources whose newest document is kept in `crl_fetcher`, but is not yet used by the snapshot
    /// in service.
    waiting: BTreeSet<String>,
    /// Sources for which a problem is raised in `/readyz`.
    problems: BTreeSet<String>,
    /// Sources that are being fetched.
    busy: BTreeSet<String>,
}

impl CrlRefresher {
    /// Fetches CRLs until the process ends.
    pub(super) async fn run(mut self) {
        let mut known = Known::default();
        let saver = Saver::start();
        let mut fetching: JoinSet<Fetched> = JoinSet::new();
        loop {
            let snapshot = self.snapshot.load_full();
            let in_use = self.look(&snapshot, &mut known);
            let sources = snapshot.crl_sources.clone();
            // Dropped before this task waits, so that the memory of a replaced snapshot can be
            // freed.
            drop(snapshot);
            saver.save(in_use);
            let now = Instant::now();
            for source in sources {
                let url = source.url.to_string();
                let is_due = known.due.get(&url).is_some_and(|due| *due <= now);
                if is_due && known.busy.insert(url) {
                    fetching.spawn(fetch(Arc::clone(&self.snapshot), source));
                }
            }
            let idle = |(url, due): (&String, &Instant)| {
                let is_idle = !known.busy.contains(url);
                is_idle.then_some(*due)
            };
            let next = known.due.iter().filter_map(idle).min();
            let alarm = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = alarm => {}
                Some(fetched) = fetching.join_next() => match fetched {
                    Ok(fetched) => {
                        let url = fetched.source.url.to_string();
                        let wait = self.conclude(&fetched, &mut known);
                        known.busy.remove(&url);
                        known.due.insert(url, Instant::now() + wait);
                    }
                    // A fetch has panicked, and its URL is unknown. Therefore no source counts as
                    // being fetched any more, and each is fetched again when it is due.
                    Err(_) => known.busy.clear(),
                },
                changed = self.changes.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    /// Compares the sources of a snapshot with `known`. Schedules new sources, records which
    /// fetched documents the snapshot uses now, and forgets removed sources. Returns the sources
    /// whose documents must be saved: the new sources, and those whose fetched document has come
    /// into use.
    fn look(&self, snapshot: &Snapshot, known: &mut Known) -> Vec<CrlSource> {
        let mut in_use = Vec::new();
        let remote = &snapshot.crl_fetcher;
        for source in &snapshot.crl_sources {
            let url = source.url.to_string();
            if !known.due.contains_key(&url) {
                in_use.push(source.clone());
                let now = clock::unix_now();
                let age = Duration::from_secs(now.saturating_sub(remote.fetched_at(source)));
                let wait = wait(source, remote.next_update(source), now);
                known
                    .due
                    .insert(url, Instant::now() + wait.saturating_sub(age));
            } else if known.waiting.contains(&url) && remote.is_in_use(source) {
                known.waiting.remove(&url);
                in_use.push(source.clone());
                self.solved(&url, known);
                let wait = wait(source, remote.next_update(source), clock::unix_now());
                known.due.insert(url, Instant::now() + wait);
            }
        }
        let is_there = |url: &String| {
            let mut sources = snapshot.crl_sources.iter();
            sources.any(|source| source.url == url.as_str())
        };
        known.due.retain(|url, _| is_there(url));
        known.waiting.retain(is_there);
        let gone: Vec<String> = known
            .problems
            .iter()
            .filter(|url| !is_there(url))
            .cloned()
            .collect();
        for url in gone {
            self.solved(&url, known);
        }
        in_use
    }

    /// Handles the outcome of a fetch. Keeps the document if it is new. Returns the time until this
    /// source is fetched again.
    fn conclude(&self, fetched: &Fetched, known: &mut Known) -> Duration {
        let Fetched { source, outcome } = fetched;
        let url = source.url.to_string();
        let soon = source.policy.interval.min(MAX_RETRY_PAUSE);
        let snapshot = self.snapshot.load();
        self.metrics.revocation_list_fetched(outcome.is_ok());
        // True if the document of an earlier fetch is still not in use. This must be computed
        // before `keep` replaces that document.
        let late = known.waiting.contains(&url) && !is_in_use(&snapshot, source);
        if let Ok(Some(document)) = outcome {
            tracing::info!(%url, "a new revocation list was fetched");
            snapshot.crl_fetcher.keep(source, document.clone());
            known.waiting.insert(url.clone());
            self.material.trust_domain(&source.trust_domain);
        } else if late {
            self.material.trust_domain(&source.trust_domain);
        }
        match outcome {
            Err(why) => self.problem(source, why, known),
            Ok(_) if late => self.problem(source, "what was fetched is not in use yet", known),
            Ok(_) => self.solved(&url, known),
        }
        match outcome {
            Ok(None) if !known.waiting.contains(&url) => {
                let next_update = snapshot.crl_fetcher.next_update(source);
                wait(source, next_update, clock::unix_now())
            }
            _ => soon,
        }
    }

    fn problem(&self, source: &CrlSource, why: &str, known: &mut Known) {
        let detail = format!("{} of {}: {why}", source.url, source.trust_domain);
        if known.problems.insert(source.url.to_string()) {
            tracing::error!(
                "the revocation list stays as it was: {}",
                printable(&detail)
            );
        }
        let url = source.url.to_string();
        let problem = Problem::new(ProblemCode::CrlUnavailable, &detail)
            .command(&format!("curl --head {url}"));
        self.readiness.raise(&url, problem);
    }

    fn solved(&self, url: &str, known: &mut Known) {
        if known.problems.remove(url) {
            self.readiness.clear(ProblemCode::CrlUnavailable, url);
        }
    }
}

/// Whether the snapshot uses the newest document that `crl_fetcher` keeps for a source. Also true
/// if the source was removed from the configuration.
fn is_in_use(snapshot: &Snapshot, source: &CrlSource) -> bool {
    let mut sources = snapshot.crl_sources.iter();
    let current = sources.find(|current| current.url == source.url);
    current.is_none_or(|current| snapshot.crl_fetcher.is_in_use(current))
}

/// Returns how long a document is used before it is fetched again. This is half of the time from
/// `now` until the document's nextUpdate, but at least `MIN_INTERVAL` and at most the configured
/// interval. Without a nextUpdate it is the configured interval. `now` is in seconds since the Unix
/// epoch.
fn wait(source: &CrlSource, next_update: Option<i64>, now: u64) -> Duration {
    let interval = source.policy.interval;
    let Some(end) = next_update else {
        return interval;
    };
    let left = u64::try_from(end).unwrap_or(0).saturating_sub(now);
    interval.min(MIN_INTERVAL.max(Duration::from_secs(left / 2)))
}

/// Writes documents that are in use to disk, on a separate thread. It writes one document at a
/// time, so that an older document never overwrites a newer one. A disk that hangs delays only this
/// thread. For each URL, at most one document waits for the disk.
struct Saver {
    waiting: Arc<Mutex<BTreeMap<String, CrlSource>>>,
    thread: Option<std::thread::Thread>,
}

impl Saver {
    fn start() -> Self {
        let waiting: Arc<Mutex<BTreeMap<String, CrlSource>>> = Arc::default();
        let own = Arc::clone(&waiting);
        let thread = std::thread::Builder::new().name("save".to_owned());
        let started = thread.spawn(move || {
            loop {
                let next = own
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .pop_first();
                match next {
                    Some((_, source)) => CrlFetcher::save(&source),
                    None => std::thread::park(),
                }
            }
        });
        if let Err(error) = &started {
            tracing::error!(%error, "fetched revocation lists are not kept on disk");
        }
        Self {
            waiting,
            thread: started.ok().map(|handle| handle.thread().clone()),
        }
    }

    fn save(&self, in_use: Vec<CrlSource>) {
        let Some(thread) = &self.thread else { return };
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for source in in_use {
            waiting.insert(source.url.to_string(), source);
        }
        drop(waiting);
        thread.unpark();
    }
}

async fn fetch(snapshot: Arc<ArcSwap<Snapshot>>, source: CrlSource) -> Fetched {
    let remote = Arc::clone(&snapshot.load().crl_fetcher);
    let outcome = match remote.fetch(&source).await {
        Err(error) => Err(error.to_string()),
        Ok(None) => Ok(None),
        Ok(Some(bytes)) => {
            let snapshot = snapshot.load_full();
            let asked = source.clone();
            // Checking a large list takes time, so the check runs on a blocking thread.
            let checked =
                tokio::task::spawn_blocking(move || check(&snapshot, &asked, bytes).map(Some));
            checked.await.unwrap_or_else(|error| Err(error.to_string()))
        }
    };
    Fetched { source, outcome }
}

/// Decodes a fetched document, and checks that it may replace the document that `crl_fetcher`
/// keeps.
fn check(snapshot: &Snapshot, source: &CrlSource, bytes: Bytes) -> Result<CrlDocument, String> {
    let bundle = snapshot
        .bundles
        .iter()
        .find(|bundle| *bundle.name() == source.trust_domain)
        .ok_or("its trust domain is gone")?;
    let kept = match snapshot.crl_fetcher.kept(source) {
        Some(kept) => crl_fetch::crls_in(&kept)?,
        None => Vec::new(),
    };
    let (document, lists) = CrlDocument::decode(bytes)?;
    bundle.check_crls(&lists, &kept, clock::certificate_now())?;
    Ok(document)
}

#[cfg(test)]
mod tests {
    use countersign_testkit::{Crl, TestCa};
    use rustls::RootCertStore;

    use super::*;
    use crate::crl_fetch::CrlFetchPolicy;
    use crate::identity::TrustDomain;

    fn source(interval: u64) -> CrlSource {
        CrlSource {
            trust_domain: TrustDomain::parse("example.org").unwrap(),
            url: "https://lists.example.org/a.crl".parse().unwrap(),
            policy: Arc::new(CrlFetchPolicy {
                roots: Arc::new(RootCertStore::empty()),
                timeout: Duration::from_secs(1),
                max_bytes: 1 << 20,
                interval: Duration::from_secs(interval),
                directory: None,
            }),
            max_age: None,
            in_use: Bytes::new(),
        }
    }

    #[test]
    fn a_list_near_its_end_is_fetched_earlier_whether_it_is_new_or_not() {
        let hourly = source(3600);
        for (left, expected) in [
            (None, 3600),
            (Some(100_000), 3600),
            (Some(2_000), 1_000),
            (Some(30), 60),
            (Some(-500), 60),
        ] {
            let end = left.map(|left: i64| 1_000_000 + left);
            let found = wait(&hourly, end, 1_000_000);
            assert_eq!(found, Duration::from_secs(expected), "{left:?}");
        }
        assert_eq!(wait(&source(5), Some(0), 9), Duration::from_secs(5));
    }

    #[test]
    fn a_document_ends_with_the_first_of_its_lists() {
        let ca = TestCa::new("example.org");
        let source = source(3600);
        let remote = CrlFetcher::default();
        assert!(remote.is_in_use(&source));
        let early = Crl::new().valid(-60, 5_000).pem_signed_by(ca.root());
        let late = Crl::new()
            .valid(-60, 9_000)
            .pem_signed_by(ca.intermediate());
        let document = Bytes::from(format!("{late}{early}"));
        let (decoded, lists) = CrlDocument::decode(document.clone()).unwrap();
        assert_eq!(lists.len(), 2);
        remote.keep(&source, decoded);
        let now = i64::try_from(clock::unix_now()).unwrap();
        let left = remote.next_update(&source).unwrap() - now;
        assert!((4_900..=5_000).contains(&left), "{left}");
        assert!(!remote.is_in_use(&source));
        let in_use = CrlSource {
            in_use: document,
            ..source
        };
        assert!(remote.is_in_use(&in_use));
    }

    #[test]
    fn a_list_without_next_update_is_fetched_before_max_age_is_over() {
        let ca = TestCa::new("example.org");
        let list = Crl::new().valid(-60, 9_000).without_next_update();
        let list = Bytes::from(list.pem_signed_by(ca.root()));
        let (decoded, _) = CrlDocument::decode(list).unwrap();
        let remote = CrlFetcher::default();
        let mut source = source(3600);
        remote.keep(&source, decoded);
        assert_eq!(remote.next_update(&source), None);
        source.max_age = Some(Duration::from_secs(1_060));
        let now = i64::try_from(clock::unix_now()).unwrap();
        let left = remote.next_update(&source).unwrap() - now;
        assert!((900..=1_000).contains(&left), "{left}");
    }
}
