//! `AuditRecord`: collects the facts about one request and the gateway's decision. The audit line
//! contains these facts.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde::Serialize;

use super::audit::{AuditCaller, AuditSink, push_three_digits, push_timestamp, timestamp};
use super::metrics::RouteMetrics;
use crate::clock;
use crate::identity::text::{MAX_RECORDED, printable, push_json, push_printable_json};
use crate::identity::{PeerIdentity, Principal};
use crate::reason::ReasonCode;

/// The facts that are the same in the records of all requests on a connection.
#[derive(Debug)]
pub struct ConnectionFacts {
    /// The identifier of the connection.
    pub connection_id: Arc<str>,
    /// The address and port of the peer.
    pub peer: SocketAddr,
    /// The address of the load balancer that sent the peer's address. `None` if the peer connected
    /// directly.
    pub proxy: Option<SocketAddr>,
    /// Whether a load balancer has opened the connection without naming the address of the caller.
    /// `peer` is the load balancer then.
    pub is_caller_unknown: bool,
    /// The TLS server name of the handshake, with special characters escaped.
    pub sni: Option<Arc<str>>,
    /// Whether the connection's TLS session was resumed.
    pub resumed: bool,
    /// The identifier of the connection's certificate chain, if chains are kept.
    pub chain: Option<Arc<str>>,
    json: OnceLock<String>,
}

impl ConnectionFacts {
    /// Returns the address from which the TCP connection was opened. It is not that of `peer` if a
    /// load balancer has named the peer.
    #[must_use]
    pub fn connection_address(&self) -> SocketAddr {
        self.proxy.unwrap_or(self.peer)
    }

    /// Creates the facts about a new connection. Its ClientHello has not been read yet.
    #[must_use]
    pub const fn new(connection_id: Arc<str>, peer: SocketAddr) -> Self {
        Self {
            connection_id,
            peer,
            proxy: None,
            is_caller_unknown: false,
            sni: None,
            resumed: false,
            chain: None,
            json: OnceLock::new(),
        }
    }

    /// Returns the members of an audit line that describe the connection. The first call formats
    /// the members, so the facts must not change after that call.
    fn json(&self) -> &str {
        self.json.get_or_init(|| {
            let mut json = String::from("\"connection_id\":");
            push_json(&mut json, &self.connection_id);
            let _ = write!(json, ",\"peer\":\"{}\"", self.peer);
            if let Some(proxy) = self.proxy {
                let _ = write!(json, ",\"proxy\":\"{proxy}\"");
            }
            json.push_str(",\"sni\":");
            match &self.sni {
                Some(sni) => push_json(&mut json, sni),
                None => json.push_str("null"),
            }
            if self.resumed {
                json.push_str(",\"resumed\":true");
            }
            if let Some(chain) = &self.chain {
                let _ = write!(json, ",\"chain\":\"{chain}\"");
            }
            json
        })
    }
}

/// The identifier of a W3C trace, in lower-case hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 32]);

impl TraceId {
    /// Creates an identifier from 32 hexadecimal digits.
    #[must_use]
    pub const fn from_hex(digits: [u8; 32]) -> Self {
        Self(digits)
    }

    /// Returns the identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// The gateway's decision about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// The request was aborted before a decision.
    Aborted,
    Allowed,
    Refused,
}

/// The facts about a request, and the decision. When the record is dropped, it enqueues one audit
/// line.
///
/// This code runs for every request. Values that depend only on the connection, the caller's
/// certificate or the route are converted to JSON once and then reused.
#[derive(Debug)]
pub struct AuditRecord {
    sink: AuditSink,
    facts: Arc<ConnectionFacts>,
    request_id: Arc<str>,
    time: Duration,
    started: Instant,
    /// The members `method`, `host` and `path` of the audit line, as JSON. Empty until they are
    /// known.
    asked: String,
    peer_identity: Option<Arc<PeerIdentity>>,
    /// Names and hashes of the credentials that authenticated the request. `None` if only a
    /// certificate was used.
    credentials: Option<Box<CredentialFacts>>,
    /// The name of the gateway's own path that was requested, such as `whoami`. `None` for all
    /// other requests.
    answered_here: Option<&'static str>,
    decision: Decision,
    reason: Option<ReasonCode>,
    detail: Option<String>,
    status: Option<u16>,
    jti: Option<Box<str>>,
    /// The `jti` of each assertion that was sent in an earlier attempt.
    earlier: Vec<Box<str>>,
    trace: Option<TraceId>,
    attempts: u32,
    transaction: Option<Box<str>>,
    upstream_duration: Option<Duration>,
    complete: bool,
    counters: Arc<RouteMetrics>,
    counted: bool,
}

#[derive(Debug, Clone, Serialize)]
struct CredentialFacts {
    /// The caller that the credentials name. `None` if the certificate names the caller.
    #[serde(skip)]
    caller: Option<String>,
    methods: String,
    /// The hash of the token (`ath`).
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// The public identifier of the API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<Box<str>>,
}

impl AuditRecord {
    /// Opens a record for a new request. `counters` are the counters of requests without a route,
    /// which are used until [`Self::route`] is called.
    #[must_use]
    pub fn open(
        sink: AuditSink,
        facts: Arc<ConnectionFacts>,
        request_id: Arc<str>,
        counters: Arc<RouteMetrics>,
    ) -> Self {
        Self {
            sink,
            facts,
            request_id,
            time: clock::since_epoch(),
            started: Instant::now(),
            asked: String::new(),
            peer_identity: None,
            credentials: None,
            answered_here: None,
            decision: Decision::Aborted,
            reason: None,
            detail: None,
            status: None,
            jti: None,
            earlier: Vec::new(),
            trace: None,
            attempts: 1,
            transaction: None,
            upstream_duration: None,
            complete: false,
            counters,
            counted: false,
        }
    }

    /// Returns the identifier that the gateway has given to the request.
    #[must_use]
    pub const fn request_id(&self) -> &Arc<str> {
        &self.request_id
    }

    /// Records the method, host and path. The query is never recorded.
    pub fn request(&mut self, method: &str, host: &str, path: &str) {
        let asked = &mut self.asked;
        asked.clear();
        asked.reserve(method.len() + host.len() + path.len() + 40);
        asked.push_str(",\"method\":");
        push_printable_json(asked, method, 32);
        asked.push_str(",\"host\":");
        push_printable_json(asked, host, MAX_RECORDED);
        asked.push_str(",\"path\":");
        push_printable_json(asked, path, 1024);
    }

    /// Records the identity that the TLS handshake has proven.
    pub fn caller(&mut self, identity: Arc<PeerIdentity>) {
        self.peer_identity = Some(identity);
    }

    /// Records names and hashes of the credentials that authenticated the request. Called only on
    /// routes that accept other credentials than certificates.
    pub fn credentials(&mut self, principal: &Principal) {
        let named = principal.peer().is_none();
        self.credentials = Some(Box::new(CredentialFacts {
            caller: named.then(|| printable(&principal.caller().to_string())),
            methods: principal.methods().to_string(),
            token: principal.token().map(|token| token.hash.clone()),
            api_key: principal.api_key().map(|key| key.id.clone()),
        }));
    }

    /// Records the selected route. `counters` are the route's counters, which contain the names of
    /// the route and its upstream.
    pub fn route(&mut self, counters: Option<&Arc<RouteMetrics>>) {
        if let Some(counters) = counters {
            self.counters = Arc::clone(counters);
        }
    }

    /// Records that the request is for one of the gateway's own paths. The audit line contains
    /// `name` as the route. The request is counted as a request without a route.
    pub const fn answered_here(&mut self, name: &'static str) {
        self.answered_here = Some(name);
    }

    /// Records that the request is allowed. `jti` is the identifier of the request's assertion, if
    /// there is an assertion.
    pub fn allowed(&mut self, jti: Option<&str>) {
        self.decision = Decision::Allowed;
        self.jti = jti.map(Into::into);
    }

    /// Records that the request is sent to the upstream again.
    pub fn again(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
        self.earlier.extend(self.jti.take());
    }

    /// Records in `detail` why no response can be sent any more.
    pub fn unanswered(&mut self, detail: &str) {
        self.detail = Some(printable(detail));
    }

    /// Records the identifier of the trace to which the request belongs.
    pub const fn trace(&mut self, trace: Option<TraceId>) {
        self.trace = trace;
    }

    /// Records the identifier of the transaction that the request continues. If this method is not
    /// called, the audit line has no `txn`.
    pub fn transaction(&mut self, transaction: &str) {
        self.transaction = Some(transaction.into());
    }

    /// Records that the request was refused or failed.
    pub fn refused(&mut self, reason: ReasonCode, detail: &str) {
        if self.decision != Decision::Allowed {
            self.decision = Decision::Refused;
        }
        self.reason = Some(reason);
        self.detail = Some(printable(detail));
    }

    /// Records the status that was sent to the caller, and counts the request.
    pub fn answered(&mut self, status: u16) {
        self.status = Some(status);
        self.counted = true;
        let elapsed = self.started.elapsed();
        match (self.decision, self.reason) {
            (Decision::Refused, Some(reason)) => self.counters.refused(reason, status, elapsed),
            (_, Some(reason)) => self.counters.failed(reason, status, elapsed),
            (_, None) => self.counters.allowed(status, elapsed),
        }
    }

    /// Records that the head of the upstream's response arrived after the time `after`.
    pub fn upstream_answered(&mut self, after: Duration) {
        self.upstream_duration = Some(after);
    }

    /// Records that the whole response was sent.
    pub const fn complete(&mut self) {
        self.complete = true;
    }

    /// Returns the time since the record was opened.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Drop for AuditRecord {
    fn drop(&mut self) {
        if !self.counted {
            self.counters.aborted();
        }
        self.sink.append(|line| self.push_line(line));
    }
}

impl AuditRecord {
    fn push_caller(&self, line: &mut String) {
        let identity = self.peer_identity.as_deref();
        let Some(credentials) = self.credentials.as_deref() else {
            line.push_str(identity.map_or("", |identity| identity.audit_memo(caller_json)));
            return;
        };
        let mut caller = identity.map(audit_caller).unwrap_or_default();
        if credentials.caller.is_some() {
            caller.caller.clone_from(&credentials.caller);
        }
        push_members(line, &caller);
        push_members(line, credentials);
    }

    fn push_line(&self, line: &mut String) {
        line.push_str("{\"time\":");
        push_timestamp(line, self.time);
        line.push_str(",\"event\":\"request\",\"request_id\":");
        push_json(line, &self.request_id);
        line.push(',');
        line.push_str(self.facts.json());
        self.push_caller(line);
        match self.asked.as_str() {
            "" => line.push_str(",\"method\":\"\",\"host\":\"\",\"path\":\"\""),
            asked => line.push_str(asked),
        }
        line.push_str(",\"route\":");
        match self.answered_here {
            Some(name) => push_json(line, name),
            None => line.push_str(self.counters.route_json()),
        }
        line.push_str(match self.decision {
            Decision::Aborted => ",\"decision\":\"aborted\"",
            Decision::Allowed => ",\"decision\":\"allowed\"",
            Decision::Refused => ",\"decision\":\"refused\"",
        });
        push_member(line, "reason", self.reason.map(ReasonCode::as_str));
        if let Some(detail) = &self.detail {
            push_member(line, "detail", Some(detail));
        }
        match self.status {
            Some(status) => {
                line.push_str(",\"status\":");
                line.push_str(itoa::Buffer::new().format(status));
            }
            None => line.push_str(",\"status\":null"),
        }
        line.push_str(",\"upstream\":");
        line.push_str(self.counters.upstream_json());
        push_milliseconds(line, "duration_ms", self.started.elapsed());
        if let Some(duration) = self.upstream_duration {
            push_milliseconds(line, "upstream_ms", duration);
        }
        push_member(line, "jti", self.jti.as_deref());
        if self.attempts > 1 {
            let _ = write!(line, ",\"attempts\":{}", self.attempts);
        }
        for (index, jti) in self.earlier.iter().enumerate() {
            line.push_str(match index {
                0 => ",\"earlier_jtis\":[",
                _ => ",",
            });
            push_json(line, jti);
        }
        if !self.earlier.is_empty() {
            line.push(']');
        }
        if let Some(trace) = &self.trace {
            push_member(line, "trace_id", Some(trace.as_str()));
        }
        if let Some(transaction) = &self.transaction {
            push_member(line, "txn", Some(transaction));
        }
        line.push_str(if self.complete {
            ",\"complete\":true}"
        } else {
            ",\"complete\":false}"
        });
    }
}

/// Appends the members of `object` as JSON, each preceded by a comma.
fn push_members(line: &mut String, object: &impl Serialize) {
    let json = serde_json::to_string(object).unwrap_or_default();
    let members = json
        .strip_prefix('{')
        .and_then(|json| json.strip_suffix('}'));
    if let Some(members) = members.filter(|members| !members.is_empty()) {
        line.push(',');
        line.push_str(members);
    }
}

fn push_member(line: &mut String, name: &str, value: Option<&str>) {
    line.push_str(",\"");
    line.push_str(name);
    line.push_str("\":");
    match value {
        Some(value) => push_json(line, value),
        None => line.push_str("null"),
    }
}

fn push_milliseconds(line: &mut String, name: &str, duration: Duration) {
    line.push_str(",\"");
    line.push_str(name);
    line.push_str("\":");
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    line.push_str(itoa::Buffer::new().format(micros / 1000));
    line.push('.');
    push_three_digits(line, duration.subsec_micros());
}

/// Formats the members that all audit lines about the same certificate contain.
fn caller_json(identity: &PeerIdentity) -> String {
    let mut members = String::new();
    push_members(&mut members, &audit_caller(identity));
    members
}

/// The audit line of a connection that is closed because its identity is no longer valid.
#[derive(Debug, Serialize)]
pub struct ConnectionCut<'a> {
    time: String,
    event: &'static str,
    decision: &'static str,
    connection_id: &'a str,
    peer: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<SocketAddr>,
    sni: Option<&'a str>,
    #[serde(flatten)]
    caller: AuditCaller,
    reason: ReasonCode,
    detail: String,
}

impl<'a> ConnectionCut<'a> {
    /// Creates the audit line for a connection that is being closed.
    #[must_use]
    pub fn new(
        facts: &'a ConnectionFacts,
        identity: Option<&PeerIdentity>,
        reason: ReasonCode,
        detail: &str,
    ) -> Self {
        Self {
            time: timestamp(clock::since_epoch()),
            event: "connection",
            decision: "cut",
            connection_id: &facts.connection_id,
            peer: facts.peer,
            proxy: facts.proxy,
            sni: facts.sni.as_deref(),
            caller: identity.map(audit_caller).unwrap_or_default(),
            reason,
            detail: printable(detail),
        }
    }
}

impl ConnectionCut<'_> {
    /// Changes the decision to a refusal. Used if the connection stays open, but its requests were
    /// refused before they had an [`AuditRecord`].
    #[must_use]
    pub const fn refused(mut self) -> Self {
        self.decision = "refused";
        self
    }
}

fn audit_caller(identity: &PeerIdentity) -> AuditCaller {
    AuditCaller {
        caller: Some(printable(&identity.caller().to_string())),
        trust_domain: Some(identity.trust_domain().to_string()),
        serial: Some(identity.leaf().serial_hex()),
        thumbprint: Some(Base64UrlUnpadded::encode_string(
            &identity.leaf().thumbprint,
        )),
    }
}

/// Converts a duration to milliseconds with a resolution of one microsecond.
#[must_use]
pub fn milliseconds(duration: Duration) -> f64 {
    let micros = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
    f64::from(micros) / 1000.0
}
