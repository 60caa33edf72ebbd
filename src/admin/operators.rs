//! Operators from afar: the `[admin]` listener over mutual TLS.
//!
//! A connection is verified as a caller's is, by the same trust domains, lists and
//! deny list; then the identity has to be one of `[admin] operators`. Both are
//! looked at again for every request, once all of it is there, and whenever trust
//! changes: who is no operator any longer is cut off. Nobody is refused silently.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderName, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use rustls_pki_types::{CertificateDer, UnixTime};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::actions::Actor;
use super::server::{FIRST_OCTET, HANDSHAKE, speak_http, told_to_stop};
use crate::clock;
use crate::connection_slots::ConnectionSlot;
use crate::identity::PeerIdentity;
use crate::identity::text::printable;
use crate::policy::Denial;
use crate::reason::ReasonCode;
use crate::snapshot::Snapshot;
use crate::telemetry::audit::AuditSink;
use crate::telemetry::eviction_log::EvictionLog;
use crate::telemetry::operator::{OperatorFacts, OperatorRecord};
use crate::tls::handshake_notes::with_notes;
use crate::tls::{HandshakeNotes, PLAIN_HTTP_ANSWER};

/// Most octets of a request's body.
const BODY_OCTETS: usize = 64 * 1024;
/// How long the answers under way may take when somebody is no operator any longer.
const FAREWELL: Duration = Duration::from_millis(400);
/// How long a refused peer is given to read why.
const LINGER: Duration = Duration::from_secs(1);
/// Most octets that are read of one that is refused.
const LINGER_OCTETS: u64 = 64 * 1024;
/// Why somebody is not let in who was there before others.
const MADE_ROOM: &str = "it made room for newer connections before it was let in";
/// Longest single sleep: the wall clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Lets operators in by their certificates.
#[derive(Debug)]
pub struct OperatorAccess {
    snapshot: Arc<ArcSwap<Snapshot>>,
    changes: watch::Receiver<u64>,
    audit: AuditSink,
    evictions: EvictionLog,
}

/// One who has proven an identity.
struct Operator {
    identity: Arc<PeerIdentity>,
    chain: Vec<CertificateDer<'static>>,
    peer: SocketAddr,
    /// The TLS server name, where one was asked for.
    server_name: Option<String>,
    /// Why it was refused at the start.
    stranger: Option<Denial>,
}

/// Why there is no connection.
enum Unwelcome {
    /// There is nothing to say of it: the peer was gone before it said anything.
    Gone,
    Refused {
        reason: ReasonCode,
        detail: String,
        alert: Option<&'static str>,
        notes: Box<HandshakeNotes>,
        /// A connection on which something was said that is to be read.
        stream: Option<TcpStream>,
    },
}

impl Unwelcome {
    fn because(reason: ReasonCode, detail: impl Into<String>) -> Self {
        Self::Refused {
            reason,
            detail: detail.into(),
            alert: None,
            notes: Box::default(),
            stream: None,
        }
    }

    fn on(mut self, last: TcpStream) -> Self {
        if let Self::Refused { stream, .. } = &mut self {
            *stream = Some(last);
        }
        self
    }
}

impl OperatorAccess {
    /// Access by the operators of the newest snapshot. `changes` counts up after
    /// trust has changed.
    #[must_use]
    pub fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        changes: watch::Receiver<u64>,
        audit: AuditSink,
    ) -> Self {
        Self {
            snapshot,
            changes,
            audit,
            evictions: EvictionLog::default(),
        }
    }

    /// Somebody made room who was not let in.
    async fn made_room(&self) -> Unwelcome {
        match self.evictions.note().await {
            Some(count) => Unwelcome::because(
                ReasonCode::Overloaded,
                format!("{MADE_ROOM}; since this was last written down {count} did"),
            ),
            None => Unwelcome::Gone,
        }
    }

    /// Serves one connection until it ends.
    pub(super) async fn converse(
        self: Arc<Self>,
        stream: TcpStream,
        router: Router,
        place: ConnectionSlot,
        mut stopping: watch::Receiver<bool>,
    ) {
        let Ok(peer) = stream.peer_addr() else { return };
        // Before anything is verified, so that no change in between is missed.
        let mut changes = self.changes.clone();
        changes.mark_unchanged();
        let shaking = tokio::time::timeout(HANDSHAKE, self.shake_hands(stream, peer, &place));
        let shaken = tokio::select! {
            shaken = shaking => shaken.unwrap_or_else(|_| {
                let detail = format!("the TLS handshake took longer than {HANDSHAKE:?}");
                Err(Unwelcome::because(ReasonCode::Timeout, detail))
            }),
            () = place.evicted() => Err(self.made_room().await),
        };
        let (stream, mut operator) = match shaken {
            Ok(shaken) => shaken,
            Err(unwelcome) => {
                if let Some(stream) = self.not_let_in(unwelcome, peer) {
                    tokio::select! {
                        () = linger(stream) => {}
                        () = place.evicted() => {}
                    }
                }
                return;
            }
        };
        let holds_until = match operator.check(&self.snapshot.load_full()) {
            Ok(until) if place.establish() => until,
            Ok(_) => {
                let unwelcome = self.made_room().await;
                drop(self.not_let_in(unwelcome, peer));
                return;
            }
            Err(denial) => {
                drop(self.refused(&operator, &denial));
                operator.stranger = Some(denial);
                i64::MAX
            }
        };
        let operator = Arc::new(operator);
        let (access, served) = (Arc::clone(&self), Arc::clone(&operator));
        let guard = move |request: Request, next: Next| {
            let (access, operator) = (Arc::clone(&access), Arc::clone(&served));
            async move { access.guard(&operator, request, next).await }
        };
        let (end, ending) = watch::channel(false);
        let router = router.layer(middleware::from_fn(guard));
        let mut speaking = pin!(speak_http(stream, router, ending));
        tokio::select! {
            () = speaking.as_mut() => {}
            () = told_to_stop(&mut stopping) => {
                end.send_replace(true);
                speaking.await;
            }
            denial = self.until_refused(&operator, changes, holds_until) => {
                drop(self.refused(&operator, &denial).cut());
                end.send_replace(true);
                let _ = tokio::time::timeout(FAREWELL, speaking).await;
            }
            () = place.evicted() => if operator.stranger.is_none() {
                let denial = Denial::new(ReasonCode::Overloaded, MADE_ROOM);
                drop(self.refused(&operator, &denial).cut());
            },
        }
    }

    async fn shake_hands(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
        place: &ConnectionSlot,
    ) -> Result<(TlsStream<TcpStream>, Operator), Unwelcome> {
        let mut first = [0_u8];
        match tokio::time::timeout(FIRST_OCTET, stream.peek(&mut first)).await {
            Ok(Ok(1..)) => place.spoke(),
            Ok(Ok(0) | Err(_)) => return Err(Unwelcome::Gone),
            Err(_) => {
                let detail = format!("nothing was said within {FIRST_OCTET:?}");
                return Err(Unwelcome::because(ReasonCode::Timeout, detail));
            }
        }
        let [first] = first;
        if first.is_ascii_uppercase() {
            let _ = stream.write_all(PLAIN_HTTP_ANSWER).await;
            let plain = Unwelcome::because(
                ReasonCode::MalformedRequest,
                "plain HTTP was sent to the operators' TLS port",
            );
            return Err(plain.on(stream));
        }
        let snapshot = self.snapshot.load_full();
        let Some(operators) = &snapshot.operators else {
            return Err(Unwelcome::because(
                ReasonCode::CallerNotAllowed,
                "the configuration names no operators any longer",
            ));
        };
        let tls = Arc::clone(operators.entry.tls());
        let accepting = TlsAcceptor::from(tls).accept(stream).into_fallible();
        let (accepted, notes) = with_notes(accepting).await;
        let stream = match accepted {
            Ok(stream) => stream,
            Err((error, stream)) => return Err(explained(&error, notes).on(stream)),
        };
        let tls = stream.get_ref().1;
        let chain = tls.peer_certificates().unwrap_or_default();
        let operator = match &notes.identity {
            Some(identity) if notes.possession_proven => Operator {
                identity: Arc::clone(identity),
                chain: chain.iter().map(|der| der.clone().into_owned()).collect(),
                peer,
                server_name: tls.server_name().map(str::to_ascii_lowercase),
                stranger: None,
            },
            _ => {
                return Err(Unwelcome::because(
                    ReasonCode::NoCertificate,
                    "no identity was proven",
                ));
            }
        };
        Ok((stream, operator))
    }

    /// Says so at once; gives back what the peer may still read from.
    fn not_let_in(&self, unwelcome: Unwelcome, peer: SocketAddr) -> Option<TcpStream> {
        let Unwelcome::Refused {
            reason,
            detail,
            alert,
            notes,
            stream,
        } = unwelcome
        else {
            return None;
        };
        let mut facts = OperatorFacts {
            peer: Some(peer),
            ..OperatorFacts::default()
        };
        if let Some(leaf) = notes.leaf() {
            facts = facts.with_leaf(leaf);
        }
        drop(OperatorRecord::refused(
            &self.audit,
            facts,
            (reason, &detail),
            alert,
        ));
        stream
    }

    fn refused(&self, operator: &Operator, denial: &Denial) -> OperatorRecord {
        let why = (denial.reason, &*denial.recorded());
        OperatorRecord::refused(&self.audit, operator.facts(), why, None)
    }

    /// Lets a request of an operator pass, and nobody else's.
    async fn guard(&self, operator: &Operator, request: Request, next: Next) -> Response {
        if let Some(denial) = &operator.stranger {
            return refusal(denial);
        }
        if let Err(denial) = check_origin(&request, operator.server_name.as_deref()) {
            drop(self.refused(operator, &denial));
            return refusal(&denial);
        }
        let (parts, body) = request.into_parts();
        let Ok(body) = to_bytes(body, BODY_OCTETS).await else {
            let denial = Denial::new(
                ReasonCode::TooLarge,
                format!("operators' requests are whole, and have at most {BODY_OCTETS} octets"),
            );
            drop(self.refused(operator, &denial));
            return refusal(&denial);
        };
        // All of it is there: nothing is done for one who is refused by now.
        if let Err(denial) = operator.check(&self.snapshot.load_full()) {
            drop(self.refused(operator, &denial));
            return refusal(&denial);
        }
        let mut request = Request::from_parts(parts, Body::from(body));
        request.extensions_mut().insert(Actor(operator.facts()));
        next.run(request).await
    }

    /// Resolves when somebody who was let in is no operator any longer.
    async fn until_refused(
        &self,
        operator: &Operator,
        mut changes: watch::Receiver<u64>,
        mut holds_until: i64,
    ) -> Denial {
        loop {
            let now = i64::try_from(clock::unix_now()).unwrap_or(i64::MAX);
            // Never zero: what is over already was said so by the check.
            let left = clock::certificate_time_left(holds_until, now)
                .clamp(Duration::from_secs(1), LONGEST_SLEEP);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                },
                () = tokio::time::sleep(left) => {}
            }
            if operator.stranger.is_some() {
                continue;
            }
            match operator.check(&self.snapshot.load_full()) {
                Ok(until) => holds_until = until,
                Err(denial) => return denial,
            }
        }
    }
}

impl Operator {
    /// Whether the identity holds under a snapshot and is an operator's; until when
    /// that can be said, in seconds since the Unix epoch.
    fn check(&self, snapshot: &Snapshot) -> Result<i64, Denial> {
        let not_allowed = |detail: String| Denial::new(ReasonCode::CallerNotAllowed, detail);
        let operators = snapshot.operators.as_ref().ok_or_else(|| {
            not_allowed("the configuration names no operators any longer".to_owned())
        })?;
        let (leaf, intermediates) = self.chain.split_first().ok_or_else(|| {
            Denial::new(
                ReasonCode::NoCertificate,
                "the connection has no certificate",
            )
        })?;
        let now = UnixTime::since_unix_epoch(clock::since_epoch());
        let admission = operators
            .entry
            .trust()
            .admit(leaf, intermediates, now)
            .map_err(|refusal| Denial {
                note: refusal.note,
                ..Denial::new(refusal.reason, refusal.detail)
            })?;
        // This chain's handshake is complete.
        if let Some(pending) = admission.pending {
            pending.commit();
        }
        let found = admission.identity;
        if found.caller() != self.identity.caller()
            || found.trust_domain() != self.identity.trust_domain()
        {
            return Err(Denial::new(
                ReasonCode::TrustDomainMismatch,
                "the certificate stands for another identity now",
            ));
        }
        let caller = found.caller();
        if !operators
            .patterns
            .iter()
            .any(|pattern| pattern.matches(caller))
        {
            return Err(not_allowed(format!(
                "{} is not among the operators of [admin]",
                printable(&caller.to_string())
            )));
        }
        Ok(admission.holds_until)
    }

    fn facts(&self) -> OperatorFacts {
        let facts = OperatorFacts {
            operator: Some(printable(&self.identity.caller().to_string())),
            trust_domain: Some(self.identity.trust_domain().to_string()),
            peer: Some(self.peer),
            ..OperatorFacts::default()
        };
        facts.with_leaf(self.identity.leaf())
    }
}

impl fmt::Debug for Operator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Operator")
            .field("identity", &self.identity.caller())
            .finish_non_exhaustive()
    }
}

fn explained(error: &io::Error, notes: HandshakeNotes) -> Unwelcome {
    let (reason, detail, alert) = notes.explain(error);
    Unwelcome::Refused {
        reason,
        detail,
        alert,
        notes: Box::new(notes),
        stream: None,
    }
}

/// Keeps foreign web pages away, which a browser with an operator's certificate may
/// have open: they cannot make it leave `Origin` out where a request changes
/// something, nor connect here under a name of their own.
fn check_origin(request: &Request, server_name: Option<&str>) -> Result<(), Denial> {
    // Browsers say so of every request, also of those without an `Origin` (Fetch Metadata);
    // "none" is what a person has typed.
    let by_page = request.headers().get_all("sec-fetch-site");
    if request.headers().contains_key(ORIGIN) || by_page.iter().any(|site| site != "none") {
        return Err(Denial::new(
            ReasonCode::CallerNotAllowed,
            "requests that web pages make are not answered here",
        ));
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        _ => None,
    };
    let host = host.and_then(|host| host.parse::<Authority>().ok());
    let is_ours = |authority: &Authority| is_own_name(authority.host(), server_name);
    // The target's authority, where it has one, overrides `Host` (RFC 9112 section
    // 3.2.2).
    if host.as_ref().is_some_and(is_ours) && request.uri().authority().is_none_or(is_ours) {
        return Ok(());
    }
    Err(Denial::new(
        ReasonCode::HostMismatch,
        "the Host field must be the name that TLS was asked for, or an address",
    ))
}

/// Names can be made to lead anywhere; addresses lead where they say.
fn is_own_name(host: &str, server_name: Option<&str>) -> bool {
    let plain = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    plain.unwrap_or(host).parse::<IpAddr>().is_ok()
        || server_name.is_some_and(|name| name.eq_ignore_ascii_case(host))
}

/// The answer to one who is refused; the connection ends with it.
fn refusal(denial: &Denial) -> Response {
    let reason = denial.reason;
    let status = StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::FORBIDDEN);
    let body = json!({
        "type": format!("/reasons/{}", reason.as_str()),
        "title": reason.title(),
        "status": status.as_u16(),
        "code": reason.as_str(),
        "detail": denial.detail,
    });
    let fields = [
        (CONTENT_TYPE, "application/problem+json"),
        (CACHE_CONTROL, "no-store"),
        (CONNECTION, "close"),
        (
            HeaderName::from_static("countersign-reason"),
            reason.as_str(),
        ),
    ];
    (status, fields, body.to_string()).into_response()
}

/// Closes so that the peer can read what was sent last: closing a socket with
/// unread input would reset the connection and discard it.
async fn linger(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut rest = stream.take(LINGER_OCTETS);
    let mut sink = [0_u8; 4096];
    let drain = async { while matches!(rest.read(&mut sink).await, Ok(count) if count > 0) {} };
    let _ = tokio::time::timeout(LINGER, drain).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host: &[&str], origin: Option<&str>, target: &str) -> Request {
        let mut request = http::Request::builder().uri(target);
        for host in host {
            request = request.header(HOST, *host);
        }
        if let Some(origin) = origin {
            request = request.header(ORIGIN, origin);
        }
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn web_pages_and_foreign_names_are_refused() {
        let name = Some("gw.example.org");
        for (host, target) in [
            ("gw.example.org:9901", "/status"),
            ("GW.example.org", "/status"),
            ("127.0.0.1:9901", "/status"),
            ("[::1]:9901", "/status"),
            ("127.0.0.1:9901", "https://gw.example.org/status"),
        ] {
            assert!(check_origin(&request(&[host], None, target), name).is_ok());
            let page = request(&[host], Some("https://gw.example.org"), target);
            assert!(check_origin(&page, name).is_err());
        }
        for (hosts, target) in [
            (&["evil.example"][..], "/status"),
            (&["localhost"], "/status"),
            (&[], "/status"),
            (&["gw.example.org", "gw.example.org"], "/status"),
            (&["gw.example.org"], "https://evil.example/status"),
        ] {
            assert!(check_origin(&request(hosts, None, target), name).is_err());
        }
        assert!(check_origin(&request(&["gw.example.org"], None, "/"), None).is_err());
    }
}
