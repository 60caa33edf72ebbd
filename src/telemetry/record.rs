//! `AuditRecord`: one request's facts and decision.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde::Serialize;

use super::audit::{AuditCaller, AuditSink, timestamp};
use super::metrics::RouteMetrics;
use crate::clock;
use crate::identity::text::{printable, printable_within};
use crate::identity::{PeerIdentity, Principal};
use crate::reason::ReasonCode;

/// What a connection contributes to the records of its requests.
#[derive(Debug, Clone)]
pub struct ConnectionFacts {
    /// Identifies the connection.
    pub connection_id: Arc<str>,
    /// Address and port of the peer.
    pub peer: SocketAddr,
    /// The TLS server name asked for, printable.
    pub sni: Option<Arc<str>>,
    /// Whether its TLS session was resumed.
    pub resumed: bool,
}

/// The identifier of a W3C trace, in lower-case hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 32]);

impl TraceId {
    /// From 32 hexadecimal digits.
    #[must_use]
    pub const fn from_hex(digits: [u8; 32]) -> Self {
        Self(digits)
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// How a request ended as far as the gateway decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// Nothing was decided before the request was gone.
    Aborted,
    Allowed,
    Refused,
}

/// One request's facts and decision. Dropping it writes one line.
#[derive(Debug)]
pub struct AuditRecord {
    sink: AuditSink,
    facts: ConnectionFacts,
    request_id: Arc<str>,
    time: Duration,
    started: Instant,
    method: String,
    host: String,
    path: String,
    peer_identity: Option<Arc<PeerIdentity>>,
    /// Names and hashes of what authenticated the request beside, or instead of,
    /// a certificate.
    credentials: Option<Box<CredentialFacts>>,
    route: Option<String>,
    upstream: Option<String>,
    decision: Decision,
    reason: Option<ReasonCode>,
    detail: Option<String>,
    status: Option<u16>,
    jti: Option<Box<str>>,
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
    /// The caller that they name; none where the certificate does.
    #[serde(skip)]
    caller: Option<String>,
    methods: String,
    /// `ath`: the token's hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// The API key's public identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<Box<str>>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    event: &'static str,
    request_id: &'a str,
    connection_id: &'a str,
    peer: SocketAddr,
    sni: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    resumed: bool,
    #[serde(flatten)]
    caller: AuditCaller,
    #[serde(flatten)]
    credentials: Option<&'a CredentialFacts>,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    route: Option<&'a str>,
    decision: &'static str,
    reason: Option<ReasonCode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    status: Option<u16>,
    upstream: Option<&'a str>,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_ms: Option<f64>,
    jti: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    txn: Option<&'a str>,
    complete: bool,
}

impl AuditRecord {
    /// Opens a record. Nothing of the request is known yet; `counters` are those
    /// of requests without a route.
    #[must_use]
    pub fn open(
        sink: AuditSink,
        facts: ConnectionFacts,
        request_id: Arc<str>,
        counters: Arc<RouteMetrics>,
    ) -> Self {
        Self {
            sink,
            facts,
            request_id,
            time: clock::since_epoch(),
            started: Instant::now(),
            method: String::new(),
            host: String::new(),
            path: String::new(),
            peer_identity: None,
            credentials: None,
            route: None,
            upstream: None,
            decision: Decision::Aborted,
            reason: None,
            detail: None,
            status: None,
            jti: None,
            trace: None,
            attempts: 1,
            transaction: None,
            upstream_duration: None,
            complete: false,
            counters,
            counted: false,
        }
    }

    /// Our identifier of the request.
    #[must_use]
    pub const fn request_id(&self) -> &Arc<str> {
        &self.request_id
    }

    /// Method, host and path; never the query.
    pub fn request(&mut self, method: &str, host: &str, path: &str) {
        self.method = printable_within(method, 32);
        self.host = printable(host);
        self.path = printable_within(path, 1024);
    }

    /// The identity the connection proved.
    pub fn caller(&mut self, identity: Arc<PeerIdentity>) {
        self.peer_identity = Some(identity);
    }

    /// What authenticated the request, on routes that ask for more than a
    /// certificate. Names and hashes only.
    pub fn credentials(&mut self, principal: &Principal) {
        let named = principal.peer().is_none();
        self.credentials = Some(Box::new(CredentialFacts {
            caller: named.then(|| printable(&principal.caller().to_string())),
            methods: principal.methods().to_string(),
            token: principal.token().map(|token| token.hash.clone()),
            api_key: principal.api_key().map(|key| key.id.clone()),
        }));
    }

    /// The route that was chosen, where it leads, and its counters.
    pub fn route(&mut self, route: &str, upstream: &str, counters: Option<&Arc<RouteMetrics>>) {
        if let Some(counters) = counters {
            self.counters = Arc::clone(counters);
        }
        self.route = Some(route.to_owned());
        self.upstream = Some(upstream.to_owned());
    }

    /// The gateway itself answers, under this name. Counted like requests without
    /// a route.
    pub fn answered_here(&mut self, name: &str) {
        self.route = Some(name.to_owned());
    }

    /// The request was allowed; `jti` is the assertion's, where it has one.
    pub fn allowed(&mut self, jti: Option<&str>) {
        self.decision = Decision::Allowed;
        self.jti = jti.map(Into::into);
    }

    /// The request is sent once more.
    pub const fn again(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
    }

    /// There is no answer to give any more, and why.
    pub fn unanswered(&mut self, detail: &str) {
        self.detail = Some(printable(detail));
    }

    /// The trace that the request belongs to.
    pub const fn trace(&mut self, trace: Option<TraceId>) {
        self.trace = trace;
    }

    /// The transaction that goes on; a new one has the request's identifier.
    pub fn transaction(&mut self, transaction: &str) {
        self.transaction = Some(transaction.into());
    }

    /// The request was refused or failed.
    pub fn refused(&mut self, reason: ReasonCode, detail: &str) {
        if self.decision != Decision::Allowed {
            self.decision = Decision::Refused;
        }
        self.reason = Some(reason);
        self.detail = Some(printable(detail));
    }

    /// The status sent to the caller. Counts the request.
    pub fn answered(&mut self, status: u16) {
        self.status = Some(status);
        self.counted = true;
        let elapsed = self.started.elapsed();
        match (self.decision, self.reason) {
            (Decision::Refused, Some(reason)) => self.counters.refused(reason, elapsed),
            (_, Some(reason)) => self.counters.failed(reason, elapsed),
            (_, None) => self.counters.allowed(elapsed),
        }
    }

    /// The upstream's head arrived.
    pub fn upstream_answered(&mut self, after: Duration) {
        self.upstream_duration = Some(after);
    }

    /// The whole answer was handed over.
    pub const fn complete(&mut self) {
        self.complete = true;
    }

    /// Time since the record was opened.
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
        let mut caller = self
            .peer_identity
            .as_deref()
            .map(audit_caller)
            .unwrap_or_default();
        let credentials = self.credentials.as_deref();
        if let Some(name) = credentials.and_then(|facts| facts.caller.clone()) {
            caller.caller = Some(name);
        }
        self.sink.write(&Line {
            time: timestamp(self.time),
            event: "request",
            request_id: &self.request_id,
            connection_id: &self.facts.connection_id,
            peer: self.facts.peer,
            sni: self.facts.sni.as_deref(),
            resumed: self.facts.resumed,
            caller,
            credentials,
            method: &self.method,
            host: &self.host,
            path: &self.path,
            route: self.route.as_deref(),
            decision: match self.decision {
                Decision::Aborted => "aborted",
                Decision::Allowed => "allowed",
                Decision::Refused => "refused",
            },
            reason: self.reason,
            detail: self.detail.as_deref(),
            status: self.status,
            upstream: self.upstream.as_deref(),
            duration_ms: milliseconds(self.started.elapsed()),
            upstream_ms: self.upstream_duration.map(milliseconds),
            jti: self.jti.as_deref(),
            attempts: (self.attempts > 1).then_some(self.attempts),
            trace_id: self.trace.as_ref().map(TraceId::as_str),
            txn: self.transaction.as_deref(),
            complete: self.complete,
        });
    }
}

/// A connection that was cut off because its identity no longer holds.
#[derive(Debug, Serialize)]
pub struct ConnectionCut<'a> {
    time: String,
    event: &'static str,
    decision: &'static str,
    connection_id: &'a str,
    peer: SocketAddr,
    sni: Option<&'a str>,
    #[serde(flatten)]
    caller: AuditCaller,
    reason: ReasonCode,
    detail: String,
}

impl<'a> ConnectionCut<'a> {
    /// The line for a connection, cut off now.
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
            sni: facts.sni.as_deref(),
            caller: identity.map(audit_caller).unwrap_or_default(),
            reason,
            detail: printable(detail),
        }
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

/// Milliseconds with microsecond resolution.
#[must_use]
pub fn milliseconds(duration: Duration) -> f64 {
    let micros = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
    f64::from(micros) / 1000.0
}
