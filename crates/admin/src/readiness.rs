//! `Readiness`: whether the gateway should get traffic, and which problems it has.
//!
//! If a part of the gateway detects a problem, it raises the problem here, and clears it when the
//! problem is over. `/readyz` shows all problems. Problems do not change the readiness of the
//! gateway, so that an alarm never causes an outage.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::clock;
use crate::identity::text::{printable, printable_within};

/// The stage in the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The process does not serve requests yet.
    Starting,
    /// The process serves requests.
    Ready,
    /// The process finishes the requests in progress, and should get no new ones.
    Draining,
    /// The process runs, but cannot serve any caller, for example because its own certificate has
    /// expired.
    Unable,
}

/// How severe a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Everything works, but an operator should act before something stops working.
    Warning,
    /// A part does not work, or will soon stop working.
    Error,
}

/// The kinds of problems. Their names are stable, because people, alerts and scripts use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemCode {
    /// The configuration file was refused, and the earlier configuration stays in service.
    ConfigurationRefused,
    /// A file that the configuration in service names cannot be used. Its last good content stays
    /// in service.
    MaterialUnreadable,
    /// A file system hangs, so that changes of the files on it are not detected.
    MaterialStalled,
    /// Entries of the deny list are in force, but were not written to disk.
    DenyListUnsaved,
    /// A CRL cannot be fetched.
    CrlUnavailable,
    /// More than half of a CRL's validity period is over.
    CrlHalfLife,
    /// The nextUpdate of a CRL has passed, or the CRL is not valid yet.
    CrlStale,
    /// A certificate that the gateway presents has at most a third of its life left.
    CertificateExpiring,
    /// A certificate that the gateway presents has expired, so that peers refuse the certificate.
    CertificateExpired,
    /// A root certificate or a CRL in service has a problem.
    Trust,
    /// The shared store of rate limits does not respond.
    StoreUnreachable,
    /// The keys or the introspection endpoint of a token issuer are not available.
    TokenIssuerUnavailable,
    /// The process has too few file descriptors for the configured number of callers' connections.
    DescriptorsLow,
    /// The audit log cannot be written.
    AuditUnwritable,
    /// An endpoint of an upstream cannot be reached, or does not respond.
    EndpointDown,
    /// The gateway cannot serve any caller. This is the only problem for which `/readyz` responds
    /// with 503.
    UnableToServe,
}

impl ProblemCode {
    /// All codes.
    pub const ALL: [Self; 16] = [
        Self::ConfigurationRefused,
        Self::MaterialUnreadable,
        Self::MaterialStalled,
        Self::DenyListUnsaved,
        Self::CrlUnavailable,
        Self::CrlHalfLife,
        Self::CrlStale,
        Self::CertificateExpiring,
        Self::CertificateExpired,
        Self::Trust,
        Self::StoreUnreachable,
        Self::TokenIssuerUnavailable,
        Self::DescriptorsLow,
        Self::AuditUnwritable,
        Self::EndpointDown,
        Self::UnableToServe,
    ];

    /// Returns the stable name of the code.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConfigurationRefused => "configuration-refused",
            Self::MaterialUnreadable => "material-unreadable",
            Self::MaterialStalled => "material-stalled",
            Self::DenyListUnsaved => "deny-list-unsaved",
            Self::CrlUnavailable => "crl-unavailable",
            Self::CrlHalfLife => "crl-half-life",
            Self::CrlStale => "crl-stale",
            Self::CertificateExpiring => "certificate-expiring",
            Self::CertificateExpired => "certificate-expired",
            Self::Trust => "trust",
            Self::StoreUnreachable => "store-unreachable",
            Self::TokenIssuerUnavailable => "token-issuer-unavailable",
            Self::DescriptorsLow => "descriptors-low",
            Self::AuditUnwritable => "audit-unwritable",
            Self::EndpointDown => "endpoint-down",
            Self::UnableToServe => "unable-to-serve",
        }
    }

    /// Returns what problems of this kind mean, in one sentence.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::ConfigurationRefused => {
                "The configuration on disk was refused; the one in service stays."
            }
            Self::MaterialUnreadable => {
                "A file cannot be used; its last good content stays in service."
            }
            Self::MaterialStalled => "A file system hangs, so that changes on it are not seen.",
            Self::DenyListUnsaved => {
                "Entries of the deny list are in force and not on disk; a restart would lose them."
            }
            Self::CrlUnavailable => "A revocation list cannot be fetched; the old one stays.",
            Self::CrlHalfLife => {
                "More than half of a revocation list's time is over; publish the next one."
            }
            Self::CrlStale => {
                "A revocation list is too old, or not valid yet; its callers may be refused."
            }
            Self::CertificateExpiring => {
                "A certificate of the gateway has at most a third of its life left; renew it."
            }
            Self::CertificateExpired => {
                "A certificate of the gateway has expired; peers refuse the gateway."
            }
            Self::Trust => "A root or a revocation list in service has a defect.",
            Self::StoreUnreachable => "The shared store of rate limits does not respond.",
            Self::TokenIssuerUnavailable => {
                "The keys of a token issuer are missing; its tokens are refused."
            }
            Self::DescriptorsLow => "The system allows fewer connections than the configuration.",
            Self::AuditUnwritable => {
                "The audit log cannot be written; lines wait in memory, and then are lost."
            }
            Self::EndpointDown => {
                "An endpoint of a service accepts no connections or does not respond."
            }
            Self::UnableToServe => {
                "No caller can be served: the gateway's certificates have expired, or all trust \
                 domains are out of use."
            }
        }
    }

    /// Returns the command that usually fixes a problem of this kind or shows more about it. A
    /// problem may have a more precise command.
    #[must_use]
    pub const fn usual_command(self) -> &'static str {
        match self {
            Self::ConfigurationRefused
            | Self::MaterialUnreadable
            | Self::Trust
            | Self::UnableToServe => "countersign check",
            Self::MaterialStalled => "dmesg --ctime --level=err,warn",
            Self::DenyListUnsaved => "countersign deny list",
            Self::CrlUnavailable => "curl --head URL",
            Self::CertificateExpiring | Self::CertificateExpired => {
                "countersign pki renew FILE --dir DIR"
            }
            Self::CrlHalfLife | Self::CrlStale => "countersign pki crl --dir DIR --issuer all",
            Self::StoreUnreachable => "redis-cli -u URL ping",
            Self::TokenIssuerUnavailable => "curl -sS ISSUER/.well-known/openid-configuration",
            Self::DescriptorsLow => "ulimit -Hn",
            Self::AuditUnwritable => "df -h DIR",
            Self::EndpointDown => "curl -v http://HOST:PORT/",
        }
    }

    /// Whether the problem means that files on disk differ from the state in service.
    #[must_use]
    pub const fn concerns_files(self) -> bool {
        matches!(
            self,
            Self::ConfigurationRefused
                | Self::MaterialUnreadable
                | Self::MaterialStalled
                | Self::DenyListUnsaved
        )
    }

    /// Returns how severe problems of this kind usually are.
    #[must_use]
    pub const fn usual_severity(self) -> Severity {
        match self {
            Self::CrlHalfLife | Self::CertificateExpiring | Self::Trust | Self::DescriptorsLow => {
                Severity::Warning
            }
            Self::ConfigurationRefused
            | Self::MaterialUnreadable
            | Self::MaterialStalled
            | Self::DenyListUnsaved
            | Self::CrlUnavailable
            | Self::CrlStale
            | Self::CertificateExpired
            | Self::StoreUnreachable
            | Self::TokenIssuerUnavailable
            | Self::AuditUnwritable
            | Self::EndpointDown
            | Self::UnableToServe => Severity::Error,
        }
    }
}

/// The stage and the problems of the process, shared by all parts that change or show them.
#[derive(Debug)]
pub struct Readiness {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    /// The problems. The string is the subject: the file, URL or other thing that has the problem.
    problems: BTreeMap<(ProblemCode, String), Problem>,
}

/// Maximum length in characters of the detail of a problem. It is longer than other recorded texts,
/// because it names files and ends with the remedy.
const MAX_DETAIL: usize = 1024;

/// A problem that an operator should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The kind of the problem.
    pub code: ProblemCode,
    /// The problem's severity.
    pub severity: Severity,
    /// When the problem began, in RFC 3339 format, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// One line that describes the problem, and what still works.
    pub detail: String,
    /// A command that fixes the problem or shows more about it.
    pub command: String,
}

impl Problem {
    /// Creates a problem. Replaces unsafe characters in `detail`, because it may contain text from
    /// files and peers.
    #[must_use]
    pub fn new(code: ProblemCode, detail: &str) -> Self {
        Self {
            code,
            severity: code.usual_severity(),
            since: None,
            detail: printable_within(detail, MAX_DETAIL),
            command: code.usual_command().to_owned(),
        }
    }

    /// Sets the command that fixes the problem or shows more about it. The default is the usual
    /// command of the code.
    #[must_use]
    pub fn command(mut self, command: &str) -> Self {
        self.command = printable(command);
        self
    }

    /// Sets the severity. The default is the usual severity of the code.
    #[must_use]
    pub const fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }
}

impl Readiness {
    /// Creates the state of a process that has just started.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                stage: Stage::Starting,
                problems: BTreeMap::new(),
            }),
        }
    }

    /// Records that all listeners are open.
    pub fn set_ready(&self) {
        self.state().stage = Stage::Ready;
    }

    /// Records that the process is about to end.
    pub fn set_draining(&self) {
        self.state().stage = Stage::Draining;
    }

    /// Returns the stage in the life of the process.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.state().stage
    }

    /// Raises a problem of a subject, for example of a file. If the problem was raised before,
    /// updates its detail and keeps its `since`. Returns whether the problem is new.
    pub fn raise(&self, subject: &str, problem: Problem) -> bool {
        let mut state = self.state();
        let key = (problem.code, subject.to_owned());
        let before = state.problems.get(&key);
        let is_news = before.is_none_or(|before| before.detail != problem.detail);
        let since = match before {
            Some(before) => before.since.clone(),
            None => {
                let now = clock::certificate_now();
                Some(clock::rfc3339(now))
            }
        };
        state.problems.insert(key, Problem { since, ..problem });
        is_news
    }

    /// Clears a problem that is over. Returns whether the problem existed.
    pub fn clear(&self, code: ProblemCode, subject: &str) -> bool {
        let mut state = self.state();
        state.problems.remove(&(code, subject.to_owned())).is_some()
    }

    /// Clears all problems of a kind, except for those whose subject `keep` accepts.
    pub fn clear_others(&self, code: ProblemCode, mut keep: impl FnMut(&str) -> bool) {
        let mut state = self.state();
        state
            .problems
            .retain(|(other, subject), _| *other != code || keep(subject));
    }

    /// Returns all problems, sorted by code and subject.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        self.state().problems.values().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is safe to use, because every change is complete before the lock is
        // released.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_named_as_it_is_serialized_and_has_a_command() {
        let mut seen = std::collections::BTreeSet::new();
        for code in ProblemCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert!(seen.insert(code.as_str()), "{}", code.as_str());
            assert!(code.meaning().ends_with('.'));
            assert!(!Problem::new(code, "x").command.is_empty());
        }
    }

    #[test]
    fn problems_come_and_go_by_kind_and_subject() {
        use ProblemCode::{ConfigurationRefused, MaterialUnreadable};
        let readiness = Readiness::new();
        assert_eq!(readiness.stage(), Stage::Starting);
        readiness.set_ready();
        let raise = |code, subject: &str, detail: &str| {
            readiness.raise(subject, Problem::new(code, detail))
        };
        assert!(raise(ConfigurationRefused, "", "one"));
        assert!(raise(
            MaterialUnreadable,
            "a.crl",
            "stale\nsince \u{202e}then"
        ));
        assert!(raise(MaterialUnreadable, "b.crl", "gone"));
        assert!(raise(ConfigurationRefused, "", "two"));
        assert!(!raise(ConfigurationRefused, "", "two"), "no news");
        let problems = readiness.problems();
        assert_eq!(problems.len(), 3);
        assert_eq!(problems[0].detail, "two");
        assert!(problems[0].since.is_some());
        assert!(!problems[1].detail.contains(['\n', '\u{202e}']));
        assert_eq!(readiness.stage(), Stage::Ready);
        assert!(readiness.clear(MaterialUnreadable, "a.crl"));
        assert!(!readiness.clear(MaterialUnreadable, "a.crl"));
        assert_eq!(readiness.problems().len(), 2);
        readiness.clear_others(MaterialUnreadable, |subject| subject == "c.crl");
        assert_eq!(readiness.problems().len(), 1);
        readiness.set_draining();
        assert_eq!(readiness.stage(), Stage::Draining);
    }
}
