//! Compares past decisions about requests with those that a snapshot would make now.
//!
//! The past decisions come from the audit log. A new decision uses the host, path, method and
//! caller of a past request. Tokens and API keys are not in the log. A request therefore counts as
//! authenticated by the methods that the log names.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use http::Method;
use http::uri::PathAndQuery;
use serde::Serialize;

use crate::clock;
use crate::identity::{CallerName, MethodSet, PeerIdentity};
use crate::policy::{self, Authentication};
use crate::proxy::stages::route;
use crate::proxy::stages::target::{self, Target};
use crate::reason::ReasonCode;
use crate::snapshot::Snapshot;

/// The word for the decision that a request or a connection is allowed.
pub const ALLOWED: &str = "allowed";

/// What an audit line says about a request.
#[derive(Debug)]
pub struct PastRequest<'a> {
    /// The caller. `None` if the request had no caller.
    pub caller: Option<CallerName>,
    /// The methods that authenticated the request.
    pub methods: MethodSet,
    /// The server name of the connection.
    pub server_name: Option<&'a str>,
    /// The host that the request names.
    pub host: &'a str,
    /// The path as it was sent to the service, with its percent-encodings.
    pub path: &'a str,
    /// The HTTP method.
    pub method: &'a str,
}

/// A group of requests or connections for which the decision changes in the same way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Changed {
    /// The caller's name.
    pub identity: String,
    /// The route that the audit lines name. `None` if they name no route.
    pub route: Option<String>,
    /// The HTTP method of the requests. `None` for refused handshakes.
    pub method: Option<String>,
    /// `allowed`, or the reason code of the past refusal.
    pub before: String,
    /// `allowed`, or the reason code of the new refusal.
    pub after: String,
    /// The status that callers would get. `None` if they would be allowed, or if the handshake
    /// would fail.
    pub status: Option<u16>,
    /// The serial number of the certificate, if the decision about the connection changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// How often, and when, the requests or connections of a group were seen.
#[derive(Debug, Clone, Default, Serialize)]
struct Seen {
    count: u64,
    first: String,
    last: String,
    /// The path of the earliest request. `None` for refused handshakes.
    path: Option<String>,
    /// The details of the new refusal, or the names in a certificate that would now be accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// The groups of requests and connections for which the decision changes.
#[derive(Debug, Default)]
pub struct Comparison(BTreeMap<Changed, Seen>);

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    changed: &'a Changed,
    #[serde(flatten)]
    seen: &'a Seen,
}

impl Comparison {
    /// Adds one request or connection that was seen at `time`.
    pub fn add(&mut self, changed: Changed, time: &str, path: Option<&str>, detail: Option<&str>) {
        let seen = self.0.entry(changed).or_insert_with(|| Seen {
            first: time.to_owned(),
            path: path.map(str::to_owned),
            detail: detail.map(str::to_owned),
            ..Seen::default()
        });
        seen.count += 1;
        // Each worker has its own buffer of lines, so the lines of a log are not sorted by time.
        if (time, path) < (seen.first.as_str(), seen.path.as_deref()) {
            time.clone_into(&mut seen.first);
            seen.path = path.map(str::to_owned);
            seen.detail = detail.map(str::to_owned);
        }
        if seen.last.as_str() < time {
            time.clone_into(&mut seen.last);
        }
    }

    /// Whether a request or a connection that was allowed would be refused.
    #[must_use]
    pub fn refuses(&self) -> bool {
        self.0.keys().any(|changed| changed.after != ALLOWED)
    }

    /// Returns the rows of the JSON output.
    #[must_use]
    pub fn rows(&self) -> Vec<impl Serialize + '_> {
        let rows = self.0.iter();
        rows.map(|(changed, seen)| Row { changed, seen }).collect()
    }

    /// Describes each group on one line.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (changed, seen) in &self.0 {
            let requests = match (seen.count, &changed.method) {
                (1, Some(_)) => "request",
                (_, Some(_)) => "requests",
                (1, None) => "connection",
                (_, None) => "connections",
            };
            let before = match changed.before.as_str() {
                ALLOWED => ALLOWED.to_owned(),
                reason => format!("refused ({reason})"),
            };
            let after = match (changed.after.as_str(), changed.status) {
                (ALLOWED, _) => "be allowed".to_owned(),
                (reason, Some(status)) => format!("get {status} {reason}"),
                (reason, None) => format!("fail in the handshake, {reason}"),
            };
            let _ = write!(
                text,
                "\n  {} {before} {requests} would now {after}:",
                seen.count
            );
            if let Some(method) = &changed.method {
                let _ = write!(
                    text,
                    " {method} {}",
                    seen.path.as_deref().unwrap_or_default()
                );
            }
            let _ = write!(text, " by {}", changed.identity);
            if let Some(route) = &changed.route {
                let _ = write!(text, " (route {route})");
            }
            if let Some(serial) = &changed.serial {
                let _ = write!(text, " (serial {serial})");
            }
            let _ = write!(text, ", first {}, last {}", seen.first, seen.last);
            if let Some(detail) = &seen.detail {
                let _ = write!(text, ": {detail}");
            }
        }
        text
    }
}

/// Decides about a past request. `peer` is the identity that `snapshot` finds in the kept
/// certificate. If `peer` is `None`, the caller has the name in the audit line.
///
/// # Errors
/// The reason code and the status of the refusal.
pub fn decide(
    snapshot: &Snapshot,
    peer: Option<&PeerIdentity>,
    past: &PastRequest<'_>,
) -> Result<(), (ReasonCode, u16)> {
    let refused = |reason: ReasonCode| (reason, reason.status());
    let with_status = |refusal: crate::proxy::wire::refusal::Refusal| {
        (refusal.denial.reason, refusal.status().as_u16())
    };
    let path: PathAndQuery = past
        .path
        .parse()
        .map_err(|_| refused(ReasonCode::MalformedRequest))?;
    let asked = Target::check(past.host.to_owned(), Some(&path)).map_err(with_status)?;
    if past.server_name.is_some() {
        target::check_host(&snapshot.server_names, past.server_name, &asked.host)
            .map_err(with_status)?;
    }
    let method: Method = past
        .method
        .parse()
        .map_err(|_| refused(ReasonCode::MalformedRequest))?;
    let route = route::select(&snapshot.routes, &method, &asked).map_err(with_status)?;
    let rule = &route.rule;
    if rule.authentication == Authentication::None {
        return Ok(());
    }
    if let Some(method) = rule.authentication.missing(past.methods) {
        let denial = policy::missing(rule.authentication, method);
        return Err(refused(denial.reason));
    }
    let caller = peer.map(PeerIdentity::caller).or(past.caller.as_ref());
    let Some(caller) = caller else {
        return Err(refused(ReasonCode::NoCertificate));
    };
    if !rule.allows(caller) {
        return Err(refused(ReasonCode::CallerNotAllowed));
    }
    let list = snapshot.deny_list.as_ref();
    match list.and_then(|list| list.denies_name(caller, clock::certificate_now())) {
        Some(_) => Err(refused(ReasonCode::IdentityDenied)),
        None => Ok(()),
    }
}
