//! `countersign check --against AUDIT_LOG`: lists the requests and connections of an audit log for
//! which the configuration would decide differently.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::comparison::{ALLOWED, Changed, Comparison, PastRequest, decide};
use crate::app::impact::{Outlook, WouldRefuse, outlook};
use crate::cli::common::output::CliError;
use crate::config::Loaded;
use crate::identity::text::printable;
use crate::identity::{CallerName, Method, MethodSet, PeerIdentity};
use crate::reason::ReasonCode;
use crate::telemetry::chains::{self, ChainId};

/// Maximum length in bytes of a line. Longer lines are skipped.
const MAX_LINE: u64 = 64 * 1024;
/// The reason codes of refused requests whose refusal depends only on the configuration. The
/// command decides again only about these refused requests.
const COMPARED: [ReasonCode; 5] = [
    ReasonCode::NoRoute,
    ReasonCode::MethodNotAllowed,
    ReasonCode::CallerNotAllowed,
    ReasonCode::HostMismatch,
    ReasonCode::IdentityDenied,
];
/// The beginnings of the paths for which the gateway itself responds.
const OWN_PATHS: [&str; 2] = [
    "/.well-known/countersign/",
    "/.well-known/oauth-protected-resource",
];

/// The members of an audit line that this command uses.
#[derive(Deserialize)]
struct Line {
    event: String,
    #[serde(default)]
    time: String,
    #[serde(default)]
    decision: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    caller: Option<String>,
    #[serde(default)]
    methods: Option<String>,
    #[serde(default)]
    chain: Option<String>,
    #[serde(default)]
    sans: Option<String>,
    #[serde(default)]
    serial: Option<String>,
    #[serde(default)]
    sni: Option<String>,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    route: Option<String>,
}

/// The times at which a chain was first and last seen, as the log contains them.
struct Span {
    first: String,
    last: String,
}

/// The decision of the configuration about a chain.
enum ChainVerdict {
    Admitted(Arc<PeerIdentity>),
    /// The caller's own certificate has expired.
    Expired,
    /// The chain was not kept, has been deleted, or cannot be read.
    Unknown,
    Refused(Box<WouldRefuse>),
}

/// The verified identities of the chains of refused handshakes. A client that is refused tries again
/// and again, so a log can have the same chain in thousands of lines.
#[derive(Default)]
struct RefusedChains {
    identities: BTreeMap<String, Option<Arc<PeerIdentity>>>,
}

impl RefusedChains {
    /// Returns the identity of the chain `id`, or `None` if the chain is not admitted. Calls `decide`
    /// only if the chain was not decided about before.
    fn identity(
        &mut self,
        id: &str,
        decide: impl FnOnce() -> ChainVerdict,
    ) -> Option<Arc<PeerIdentity>> {
        if let Some(known) = self.identities.get(id) {
            return known.clone();
        }
        let identity = match decide() {
            ChainVerdict::Admitted(identity) => Some(identity),
            ChainVerdict::Expired | ChainVerdict::Unknown | ChainVerdict::Refused(_) => None,
        };
        self.identities.insert(id.to_owned(), identity.clone());
        identity
    }
}

/// The decisions that would change for the callers of a log.
#[derive(Debug, Default)]
pub(super) struct Preview {
    log: String,
    callers: usize,
    requests: u64,
    expired: usize,
    unknown: usize,
    keeps_chains: bool,
    comparison: Comparison,
}

/// Reads an audit log. Decides again about its connections and requests.
pub(super) fn preview(log: &Path, loaded: &Loaded) -> Result<Preview, CliError> {
    let directory = loaded.settings.audit_chains.as_deref();
    let (callers, chains) = callers_and_chains(log)?;
    if callers.is_empty() && chains.is_empty() {
        return Err(CliError::usage(format_args!(
            "{}: there is no request of a caller in it",
            log.display()
        )));
    }
    let successors = successors(&chains);
    let mut verdicts = BTreeMap::new();
    for id in chains.values().flat_map(BTreeMap::keys) {
        if !successors.contains_key(id) {
            verdicts.insert(id.clone(), verdict(id, directory, loaded));
        }
    }
    let count = |is: fn(&ChainVerdict) -> bool| verdicts.values().filter(|one| is(one)).count();
    let mut preview = Preview {
        log: log.display().to_string(),
        callers: callers.len(),
        expired: count(|one| matches!(one, ChainVerdict::Expired)),
        unknown: count(|one| matches!(one, ChainVerdict::Unknown)),
        keeps_chains: directory.is_some(),
        ..Preview::default()
    };
    let mut refused = RefusedChains::default();
    for_each_line(log, |line| {
        let Ok(line) = serde_json::from_slice::<Line>(line) else {
            return;
        };
        let chain = line.chain.as_ref();
        let chain = chain.map(|id| successors.get(id).unwrap_or(id));
        let known = chain.and_then(|id| verdicts.get(id));
        match line.event.as_str() {
            "request" => preview.request(&line, known, loaded),
            "handshake" => preview.handshake(&line, |id| {
                refused.identity(id, || verdict(id, directory, loaded))
            }),
            _ => {}
        }
    })?;
    Ok(preview)
}

/// For each caller, the chains with which its requests came.
type Chains = BTreeMap<String, BTreeMap<String, Span>>;

fn callers_and_chains(log: &Path) -> Result<(BTreeSet<String>, Chains), CliError> {
    let mut callers = BTreeSet::new();
    let mut chains = Chains::new();
    for_each_line(log, |line| {
        let Ok(line) = serde_json::from_slice::<Line>(line) else {
            return;
        };
        let (true, Some(caller)) = (line.event == "request", line.caller) else {
            return;
        };
        callers.insert(caller.clone());
        let Some(chain) = line.chain else { return };
        let span = chains.entry(caller).or_default().entry(chain);
        let span = span.or_insert_with(|| Span {
            first: line.time.clone(),
            last: line.time.clone(),
        });
        if line.time < span.first {
            span.first.clone_from(&line.time);
        }
        if line.time > span.last {
            span.last = line.time;
        }
    })?;
    Ok((callers, chains))
}

/// Maps each replaced chain of a caller to the newest chain of the same caller. A chain counts as
/// replaced if it was last used before the newest chain was first used. The certificate of a
/// replaced chain was renewed, so it needs no decision, even if the log has its requests.
fn successors(chains: &Chains) -> BTreeMap<String, String> {
    let mut successors = BTreeMap::new();
    for spans in chains.values() {
        let Some((newest, begun)) = spans.iter().max_by(|a, b| a.1.first.cmp(&b.1.first)) else {
            continue;
        };
        for (id, span) in spans {
            if id != newest && span.last < begun.first {
                successors.insert(id.clone(), newest.clone());
            }
        }
    }
    successors
}

fn verdict(id: &str, directory: Option<&Path>, loaded: &Loaded) -> ChainVerdict {
    let kept = ChainId::parse(id)
        .zip(directory)
        .and_then(|(id, directory)| chains::read(directory, &id).ok());
    match kept.map(|kept| outlook(&loaded.snapshot, &kept)) {
        None => ChainVerdict::Unknown,
        Some(Outlook::Admitted(identity)) => ChainVerdict::Admitted(identity),
        Some(Outlook::Expired) => ChainVerdict::Expired,
        Some(Outlook::Refused(why)) => ChainVerdict::Refused(why),
    }
}

impl Preview {
    fn request(&mut self, line: &Line, verdict: Option<&ChainVerdict>, loaded: &Loaded) {
        let (Some(host), Some(path), Some(method)) = (&line.host, &line.path, &line.method) else {
            return;
        };
        let before = match (line.decision.as_str(), &line.reason) {
            (ALLOWED, _) => ALLOWED,
            ("refused", Some(reason)) if is_compared(reason) => reason.as_str(),
            _ => return,
        };
        // The rest of a path that was cut in the log is unknown, so no decision is possible.
        if path.ends_with('…') || OWN_PATHS.iter().any(|own| path.starts_with(own)) {
            return;
        }
        let methods = match &line.methods {
            Some(methods) => MethodSet::from_printed(methods),
            None if line.caller.is_some() => Some(MethodSet::default().with(Method::Certificate)),
            None => Some(MethodSet::default()),
        };
        let caller = line.caller.as_deref().map(CallerName::from_printed);
        // The line is of another version, or a name in it was cut. To decide without the caller would
        // report a refusal that does not happen.
        let (Some(methods), Ok(caller)) = (methods, caller.transpose()) else {
            return;
        };
        self.requests += 1;
        let peer = match verdict {
            Some(ChainVerdict::Expired) => return,
            Some(ChainVerdict::Refused(why)) if before == ALLOWED => {
                return self.connection(line, why);
            }
            Some(ChainVerdict::Refused(_)) => return,
            Some(ChainVerdict::Admitted(identity)) => Some(&**identity),
            Some(ChainVerdict::Unknown) | None => None,
        };
        let names_itself = line.methods.is_none();
        let past = PastRequest {
            caller,
            methods,
            server_name: line.sni.as_deref(),
            host,
            path,
            method,
        };
        let now = decide(&loaded.snapshot, peer.filter(|_| names_itself), &past);
        let (after, status) = match now {
            Ok(()) => (ALLOWED, None),
            Err((reason, status)) => (reason.as_str(), Some(status)),
        };
        if (before == ALLOWED) == (after == ALLOWED) {
            return;
        }
        let changed = Changed {
            identity: shown_caller(line),
            route: line.route.as_deref().map(printable),
            method: Some(printable(method)),
            before: before.to_owned(),
            after: after.to_owned(),
            status,
            serial: None,
        };
        let path = printable(path);
        self.comparison
            .add(changed, &printable(&line.time), Some(&path), None);
    }

    /// Adds a request whose connection would be refused.
    fn connection(&mut self, line: &Line, why: &WouldRefuse) {
        let changed = Changed {
            identity: shown_caller(line),
            route: line.route.as_deref().map(printable),
            method: line.method.as_deref().map(printable),
            before: ALLOWED.to_owned(),
            after: why.reason.as_str().to_owned(),
            status: None,
            serial: Some(why.serial.clone()),
        };
        let path = line.path.as_deref().map(printable);
        let time = printable(&line.time);
        self.comparison
            .add(changed, &time, path.as_deref(), Some(&why.detail));
    }

    /// Adds a refused handshake that would succeed.
    fn handshake(
        &mut self,
        line: &Line,
        identity_of: impl FnOnce(&str) -> Option<Arc<PeerIdentity>>,
    ) {
        let (Some(chain), Some(reason)) = (&line.chain, &line.reason) else {
            return;
        };
        let Some(identity) = identity_of(chain) else {
            return;
        };
        let changed = Changed {
            identity: identity.caller().to_string(),
            route: None,
            method: None,
            before: printable(reason),
            after: ALLOWED.to_owned(),
            status: None,
            serial: line.serial.as_deref().map(printable),
        };
        let names = line.sans.as_deref().map(printable);
        let time = printable(&line.time);
        self.comparison.add(changed, &time, None, names.as_deref());
    }

    pub(super) fn refuses(&self) -> bool {
        self.comparison.refuses()
    }

    pub(super) fn document(&self) -> Value {
        json!({
            "log": self.log,
            "callers": self.callers,
            "requests": self.requests,
            "expired": self.expired,
            "unknown": self.unknown,
            "changes": self.comparison.rows(),
        })
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "{} has {} requests that can be decided about again, of {} callers.",
            self.log, self.requests, self.callers
        );
        match self.comparison.text() {
            rows if rows.is_empty() => text.push_str(" Nothing would change."),
            rows => text.push_str(&rows),
        }
        if self.expired > 0 {
            let _ = write!(
                text,
                "\n{} certificates have expired meanwhile and are left out.",
                self.expired
            );
        }
        if !self.keeps_chains {
            text.push_str(
                "\nCertificates are not judged, because no chains are kept: set [audit] chains = \
                 \"DIR\".",
            );
        } else if self.unknown > 0 {
            let _ = write!(
                text,
                "\n{} certificates are not judged: their chains are not kept (any longer).",
                self.unknown
            );
        }
        text
    }
}

fn is_compared(reason: &str) -> bool {
    ReasonCode::parse(reason).is_some_and(|reason| COMPARED.contains(&reason))
}

fn shown_caller(line: &Line) -> String {
    let caller = line.caller.as_deref();
    caller.map_or_else(|| "a caller without name".to_owned(), printable)
}

/// Calls `each` with every line of a file, without the line ending. Skips lines that are longer than
/// `MAX_LINE`, because a part of such a line could look like another line.
pub(in crate::cli) fn for_each_line(
    log: &Path,
    mut each: impl FnMut(&[u8]),
) -> Result<(), CliError> {
    let named = |error: std::io::Error| CliError::usage(format!("{}: {error}", log.display()));
    let mut reader = BufReader::new(File::open(log).map_err(named)?);
    let mut line = Vec::new();
    let mut is_skipping = false;
    loop {
        line.clear();
        let read = reader
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .map_err(named)?;
        if read == 0 {
            return Ok(());
        }
        let without_end = line.strip_suffix(b"\n");
        let is_cut =
            without_end.is_none() && u64::try_from(read).is_ok_and(|read| read >= MAX_LINE);
        if !is_skipping && !is_cut {
            each(without_end.unwrap_or(&line));
        }
        is_skipping = without_end.is_none();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_refused_handshakes_is_verified_once() {
        let mut refused = RefusedChains::default();
        let mut verified = 0;
        for _ in 0..3 {
            for id in ["a", "b"] {
                let identity = refused.identity(id, || {
                    verified += 1;
                    ChainVerdict::Unknown
                });
                assert!(identity.is_none());
            }
        }
        assert_eq!(verified, 2);
    }

    #[test]
    fn no_part_of_a_long_line_counts_as_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("audit.jsonl");
        let max = usize::try_from(MAX_LINE).unwrap();
        let fits = "y".repeat(max - 1);
        let long = "x".repeat(max);
        for (text, expected) in [
            (
                format!("first\n{long}second\nthird"),
                vec!["first", "third"],
            ),
            (format!("{long}{long}second\nthird\n"), vec!["third"]),
            (format!("{long}\nthird\n"), vec!["third"]),
            (format!("{fits}\n{fits}"), vec![&*fits, &*fits]),
            (format!("{long}second"), Vec::new()),
            ("\nlast".to_owned(), vec!["", "last"]),
        ] {
            std::fs::write(&log, text).unwrap();
            let mut lines = Vec::new();
            for_each_line(&log, |line| {
                lines.push(String::from_utf8(line.to_vec()).unwrap());
            })
            .unwrap();
            assert!(lines == expected, "{} lines", lines.len());
        }
    }
}
