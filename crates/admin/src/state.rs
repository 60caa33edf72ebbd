//! `ControlState`: the state that the responses of all listeners report.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::readiness::{Problem, ProblemCode, Readiness, Severity, Stage};
use crate::assertion::published::{Documents, Published};
use crate::clock;
use crate::identity::text::{hex, printable};
use crate::snapshot::Snapshot;
use crate::telemetry::audit_health::AuditHealth;
use crate::telemetry::handshake_sources::HandshakeSources;
use crate::telemetry::metrics::Metrics;
use crate::tls::LifeLeft;
use crate::trust::{CrlStatus, Freshness};
use crate::upstream::Upstream;

/// The state that responses report.
#[derive(Debug)]
pub struct ControlState {
    snapshot: Arc<ArcSwap<Snapshot>>,
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
    handshake_sources: Arc<HandshakeSources>,
    published: Published,
    audit: Option<Arc<AuditHealth>>,
    /// When each problem that [`ControlState::problems`] derives from the state was first seen, in
    /// seconds since the Unix epoch.
    first_seen: Mutex<BTreeMap<(ProblemCode, String), i64>>,
}

/// A problem that is derived from the state: its subject, the problem, and when it began. The time
/// is in seconds since the Unix epoch, and `None` if the state does not contain it.
type Derived = (String, Problem, Option<i64>);

impl ControlState {
    /// Creates the state for all listeners.
    #[must_use]
    pub fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        readiness: Arc<Readiness>,
        metrics: Arc<Metrics>,
        handshake_sources: Arc<HandshakeSources>,
    ) -> Self {
        Self {
            snapshot,
            readiness,
            metrics,
            handshake_sources,
            published: Published::new(),
            audit: None,
            first_seen: Mutex::default(),
        }
    }

    /// Adds the state of the audit log.
    #[must_use]
    pub fn with_audit(mut self, audit: Arc<AuditHealth>) -> Self {
        self.audit = Some(audit);
        self
    }

    pub(super) fn audit(&self) -> Option<&AuditHealth> {
        self.audit.as_deref()
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub(super) fn handshake_sources(&self) -> &HandshakeSources {
        &self.handshake_sources
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Returns the stage of the process. The stage of a process that cannot serve any caller is
    /// [`Stage::Unable`].
    pub(super) fn stage(&self, snapshot: &Snapshot) -> Stage {
        match self.readiness.stage() {
            Stage::Ready if unable_to_serve(snapshot, clock::certificate_now()).is_some() => {
                Stage::Unable
            }
            stage => stage,
        }
    }

    /// Returns all problems that an operator should know about. Records when each derived problem
    /// was first seen.
    pub(super) fn problems(&self, snapshot: &Snapshot) -> Vec<Problem> {
        let now = clock::certificate_now();
        let mut problems = self.readiness.problems();
        let mut seen = BTreeMap::new();
        let mut first_seen = self
            .first_seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (subject, problem, began) in self.derived_problems(snapshot, now) {
            let key = (problem.code, subject);
            let since = began.or_else(|| first_seen.get(&key).copied());
            let since = since.unwrap_or(now);
            seen.insert(key, since);
            problems.push(Problem {
                since: Some(clock::rfc3339(since)),
                ..problem
            });
        }
        *first_seen = seen;
        problems
    }

    /// Records when problems began, even if no client requests the problems.
    pub fn observe(&self) {
        let _ = self.problems(&self.snapshot());
    }

    fn derived_problems(&self, snapshot: &Snapshot, now: i64) -> Vec<Derived> {
        let mut derived = Vec::new();
        let mut add = |subject: String, problem, since| derived.push((subject, problem, since));
        if let Some(why) = unable_to_serve(snapshot, now) {
            add(
                String::new(),
                Problem::new(ProblemCode::UnableToServe, why),
                None,
            );
        }
        if let Some(audit) = self.audit.as_ref().and_then(|audit| audit.problem()) {
            let problem = Problem::new(ProblemCode::AuditUnwritable, &audit.detail);
            let since = i64::try_from(audit.since).unwrap_or(i64::MAX);
            add(String::new(), problem.command(&audit.command), Some(since));
        }
        for bundle in &snapshot.bundles {
            for alarm in bundle.alarms() {
                add(alarm.clone(), Problem::new(ProblemCode::Trust, alarm), None);
            }
            for list in bundle.freshness(now) {
                if let Some((problem, since)) = list_problem(&list) {
                    let subject = format!("{} {}", bundle.name(), hex(&list.hash));
                    add(subject, problem, since);
                }
            }
        }
        for certificate in &snapshot.own_certificates {
            let (code, since) = match certificate.left(now) {
                LifeLeft::Enough => continue,
                LifeLeft::Expiring => (ProblemCode::CertificateExpiring, certificate.renewal_due()),
                LifeLeft::Expired => (ProblemCode::CertificateExpired, certificate.not_after),
            };
            if let Some(alarm) = certificate.alarm(now) {
                let problem = Problem::new(code, &alarm).command(&certificate.command());
                add(alarm, problem, Some(since));
            }
        }
        let store = snapshot.limiter.shared().and_then(|store| store.problem());
        if let Some(detail) = store {
            let problem = Problem::new(ProblemCode::StoreUnreachable, &detail);
            add(String::new(), problem, None);
        }
        for issuer in &snapshot.token_issuers {
            if let Some(detail) = issuer.problem() {
                let command = format!(
                    "curl -sS {}/.well-known/openid-configuration",
                    issuer.issuer().trim_end_matches('/')
                );
                let problem = Problem::new(ProblemCode::TokenIssuerUnavailable, &detail);
                add(issuer.name().to_owned(), problem.command(&command), None);
            }
        }
        for upstream in &snapshot.upstreams {
            derived.extend(endpoint_problems(upstream));
        }
        derived
    }

    /// Sets the metrics of the gateway's state.
    pub(super) fn refresh_metrics(&self) {
        let snapshot = self.snapshot();
        let now = clock::certificate_now();
        let chains = snapshot.path_cache.counts();
        self.metrics
            .chains(chains.kept, chains.known, chains.verified);
        let state = self.metrics.state();
        let problems = self.problems(&snapshot);
        state.problems(ProblemCode::ALL.map(|code| {
            let count = problems.iter().filter(|problem| problem.code == code);
            (
                code.as_str(),
                i64::try_from(count.count()).unwrap_or(i64::MAX),
            )
        }));
        let endpoints: Vec<(&str, String, bool)> = snapshot
            .upstreams
            .iter()
            .flat_map(|upstream| {
                let states = upstream.endpoints();
                states
                    .map(|(endpoint, down)| (upstream.name(), endpoint.to_string(), down.is_none()))
            })
            .collect();
        let endpoints = endpoints.iter();
        state.endpoints(endpoints.map(|(upstream, endpoint, up)| (*upstream, &**endpoint, *up)));
        let mut lists: Vec<(&str, String, i64)> = snapshot
            .bundles
            .iter()
            .flat_map(|bundle| {
                let lists = bundle.freshness(now).into_iter();
                lists.map(|list| {
                    let issuer = printable(&list.issuer);
                    (bundle.name().as_str(), issuer, list.next_update)
                })
            })
            .collect();
        lists.sort_by_key(|(_, _, next_update)| std::cmp::Reverse(*next_update));
        let lists = lists.iter();
        state.crl_next_updates(lists.map(|(domain, issuer, time)| (*domain, &**issuer, *time)));
        let denied = snapshot.deny_list.as_ref().map(|list| {
            let count = i64::try_from(list.count(now)).unwrap_or(i64::MAX);
            (list.path().display().to_string(), count)
        });
        let denied = denied.iter();
        state.deny_list_entries(denied.map(|(source, count)| (&**source, *count)));
        if let Some(audit) = &self.audit {
            state.audit(&audit.counts());
        }
    }

    pub(super) fn documents(&self) -> Arc<Documents> {
        let snapshot = self.snapshot.load();
        let signer = &snapshot.signer;
        self.published
            .documents(signer.settings(), signer.keys(), clock::unix_now())
    }
}

/// Returns why the gateway cannot serve any caller. Returns `None` if it can.
fn unable_to_serve(snapshot: &Snapshot, now: i64) -> Option<&'static str> {
    if snapshot.server_names.are_expired(now) {
        return Some(
            "the gateway's own certificate has expired for every server name, so that no caller \
             accepts a connection",
        );
    }
    if snapshot.bundles.is_empty() || !snapshot.server_names.require_certificates() {
        return None;
    }
    let mut bundles = snapshot.bundles.iter();
    bundles.all(|bundle| bundle.refuses_all(now)).then_some(
        "every trust domain refuses all of its callers, because its revocation lists are stale or \
         its files could not be read for too long",
    )
}

fn list_problem(list: &CrlStatus) -> Option<(Problem, Option<i64>)> {
    let (code, since) = match list.freshness {
        Freshness::Fresh | Freshness::Due => {
            let lifetime = list.next_update.saturating_sub(list.this_update);
            let half = list.this_update.saturating_add(lifetime / 2);
            (ProblemCode::CrlHalfLife, Some(half))
        }
        Freshness::Grace | Freshness::Stale => (ProblemCode::CrlStale, Some(list.next_update)),
        Freshness::NotYet => (ProblemCode::CrlStale, None),
    };
    Some((Problem::new(code, &list.alarm()?), since))
}

fn endpoint_problems(upstream: &Upstream) -> impl Iterator<Item = Derived> {
    let config = upstream.config();
    let scheme = if config.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let path = config
        .health_check
        .as_ref()
        .map_or("/", |check| check.path.path());
    let all = upstream.endpoints().count();
    let down = upstream.endpoints().filter(|(_, down)| down.is_some());
    let up = all.saturating_sub(down.count());
    upstream.endpoints().filter_map(move |(endpoint, down)| {
        let since = i64::try_from(down?).unwrap_or(i64::MAX);
        let name = upstream.name();
        let detail = format!(
            "endpoint {endpoint} of upstream {name} accepts no connections, does not respond, or \
             fails its health checks; {up} of {all} endpoints of {name} are up"
        );
        let severity = match up {
            0 => Severity::Error,
            _ => Severity::Warning,
        };
        let problem = Problem::new(ProblemCode::EndpointDown, &detail)
            .severity(severity)
            .command(&format!("curl -v {scheme}://{endpoint}{path}"));
        Some((format!("{name} {endpoint}"), problem, Some(since)))
    })
}
