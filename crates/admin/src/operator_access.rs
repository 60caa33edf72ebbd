//! `OperatorAccess`: the `[admin]` listener over mutual TLS.
//!
//! The gateway verifies operators with the same trust domains, CRLs and deny list as callers. The
//! identity must also match one of `[admin] operators`. The gateway checks chain and identity again
//! after it has read a request completely, and whenever trust changes. If a peer is no longer an
//! operator, the gateway closes its connection. Every refusal is recorded.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderName, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use rustls_pki_types::CertificateDer;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::actions::Actor;
use super::connection::{FIRST_BYTE_TIMEOUT, HANDSHAKE_TIMEOUT, serve_http, told_to_stop};
use super::host_check::check_origin;
use crate::clock;
use crate::connection_slots::ConnectionSlot;
use crate::identity::PeerIdentity;
use crate::identity::text::printable;
use crate::policy::Denial;
use crate::policy::revalidate::revalidate;
use crate::reason::ReasonCode;
use crate::snapshot::Snapshot;
use crate::telemetry::audit::AuditSink;
use crate::telemetry::eviction_log::EvictionLog;
use crate::telemetry::operator::{OperatorFacts, OperatorRecord};
use crate::tls::handshake_notes::with_notes;
use crate::tls::{HandshakeNotes, PLAIN_HTTP_ANSWER};

/// Maximum number of bytes of a request's body.
const MAX_BODY: usize = 64 * 1024;
/// Maximum time for responses in progress if a peer is no longer an operator.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(400);
/// Maximum time for which a refused peer may read the reason before its connection is closed.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of bytes that are read and discarded from a refused peer.
const MAX_LINGER: u64 = 64 * 1024;
/// The detail in the audit record if a connection is evicted for newer connections.
const EVICTED: &str = "it yielded to newer connections before it was let in";
/// Maximum time of one sleep. It is short, because the wall clock may be changed during the sleep.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// Admits operators by their certificates.
#[derive(Debug)]
pub struct OperatorAccess {
    snapshot: Arc<ArcSwap<Snapshot>>,
    changes: watch::Receiver<u64>,
    audit: AuditSink,
    evictions: EvictionLog,
}

/// A peer that has proven an identity with its certificate.
struct Operator {
    identity: Arc<PeerIdentity>,
    chain: Vec<CertificateDer<'static>>,
    peer: SocketAddr,
    /// The server name of the TLS handshake, if the client sent one.
    server_name: Option<String>,
    /// The reason why the first check refused the peer. `None` if that check admitted the peer.
    denial: Option<Denial>,
}

/// The reason why a connection was not admitted.
enum AdmissionError {
    /// The peer closed the connection before it sent any data. Nothing is recorded.
    Gone,
    Refused {
        reason: ReasonCode,
        detail: String,
        alert: Option<&'static str>,
        notes: Box<HandshakeNotes>,
        /// The connection, if the peer may not have read the last data yet. `None` if the
        /// connection can be closed immediately.
        stream: Option<TcpStream>,
    },
}

impl AdmissionError {
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
    /// Creates the access check for the operators of the newest snapshot. The counter `changes` is
    /// incremented after each change of trust.
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

    /// Counts a connection that was evicted before it was admitted. Returns an error with the
    /// number of evictions if this task must record them. Otherwise returns
    /// [`AdmissionError::Gone`].
    async fn evicted(&self) -> AdmissionError {
        match self.evictions.note().await {
            Some(count) => AdmissionError::because(
                ReasonCode::Overloaded,
                format!("{EVICTED}; since this was last written down {count} did"),
            ),
            None => AdmissionError::Gone,
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
        // Subscribes before the verification, so that no change during the verification is missed.
        let mut changes = self.changes.clone();
        changes.mark_unchanged();
        let shaking =
            tokio::time::timeout(HANDSHAKE_TIMEOUT, self.shake_hands(stream, peer, &place));
        let shaken = tokio::select! {
            shaken = shaking => shaken.unwrap_or_else(|_| {
                let detail = format!("the TLS handshake took longer than {HANDSHAKE_TIMEOUT:?}");
                Err(AdmissionError::because(ReasonCode::Timeout, detail))
            }),
            () = place.evicted() => Err(self.evicted().await),
        };
        let (stream, mut operator) = match shaken {
            Ok(shaken) => shaken,
            Err(error) => {
                if let Some(stream) = self.record_refusal(error, peer) {
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
                let error = self.evicted().await;
                drop(self.record_refusal(error, peer));
                return;
            }
            Err(denial) => {
                drop(self.refused(&operator, &denial));
                operator.denial = Some(denial);
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
        let mut speaking = pin!(serve_http(stream, router, ending));
        tokio::select! {
            () = speaking.as_mut() => {}
            () = told_to_stop(&mut stopping) => {
                end.send_replace(true);
                speaking.await;
            }
            denial = self.until_refused(&operator, changes, holds_until) => {
                drop(self.refused(&operator, &denial).cut());
                end.send_replace(true);
                let _ = tokio::time::timeout(DRAIN_TIMEOUT, speaking).await;
            }
            () = place.evicted() => if operator.denial.is_none() {
                let denial = Denial::new(ReasonCode::Overloaded, EVICTED);
                drop(self.refused(&operator, &denial).cut());
            },
        }
    }

    async fn shake_hands(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
        place: &ConnectionSlot,
    ) -> Result<(TlsStream<TcpStream>, Operator), AdmissionError> {
        let mut first = [0_u8];
        match tokio::time::timeout(FIRST_BYTE_TIMEOUT, stream.peek(&mut first)).await {
            Ok(Ok(1..)) => place.spoke(),
            Ok(Ok(0) | Err(_)) => return Err(AdmissionError::Gone),
            Err(_) => {
                let detail = format!("nothing was said within {FIRST_BYTE_TIMEOUT:?}");
                return Err(AdmissionError::because(ReasonCode::Timeout, detail));
            }
        }
        let [first] = first;
        if first.is_ascii_uppercase() {
            let _ = stream.write_all(PLAIN_HTTP_ANSWER).await;
            let plain = AdmissionError::because(
                ReasonCode::MalformedRequest,
                "plain HTTP was sent to the operators' TLS port",
            );
            return Err(plain.on(stream));
        }
        let snapshot = self.snapshot.load_full();
        let Some(operators) = &snapshot.operators else {
            return Err(AdmissionError::because(
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
                denial: None,
            },
            _ => {
                return Err(AdmissionError::because(
                    ReasonCode::NoCertificate,
                    "no identity was proven",
                ));
            }
        };
        Ok((stream, operator))
    }

    /// Records the refusal. Returns the connection if the peer may not have read the last data yet.
    fn record_refusal(&self, error: AdmissionError, peer: SocketAddr) -> Option<TcpStream> {
        let AdmissionError::Refused {
            reason,
            detail,
            alert,
            notes,
            stream,
        } = error
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

    /// Passes on a request only if the peer is an operator.
    async fn guard(&self, operator: &Operator, request: Request, next: Next) -> Response {
        if let Some(denial) = &operator.denial {
            return refusal(denial);
        }
        if let Err(denial) = check_origin(&request, operator.server_name.as_deref()) {
            drop(self.refused(operator, &denial));
            return refusal(&denial);
        }
        let (parts, body) = request.into_parts();
        let Ok(body) = to_bytes(body, MAX_BODY).await else {
            let denial = Denial::new(
                ReasonCode::TooLarge,
                format!("operators' requests are whole, and have at most {MAX_BODY} bytes"),
            );
            drop(self.refused(operator, &denial));
            return refusal(&denial);
        };
        // The check is repeated after the whole request was read, because trust may have changed.
        if let Err(denial) = operator.check(&self.snapshot.load_full()) {
            drop(self.refused(operator, &denial));
            return refusal(&denial);
        }
        let mut request = Request::from_parts(parts, Body::from(body));
        request.extensions_mut().insert(Actor(operator.facts()));
        next.run(request).await
    }

    /// Waits until an admitted operator is no longer an operator, and returns the reason. Never
    /// returns if the peer was not admitted.
    async fn until_refused(
        &self,
        operator: &Operator,
        mut changes: watch::Receiver<u64>,
        mut holds_until: i64,
    ) -> Denial {
        loop {
            let now = clock::certificate_now();
            // Time is left, because the last check would have refused an expired identity.
            let left = clock::certificate_time_left(holds_until, now)
                .clamp(Duration::from_secs(1), MAX_SLEEP);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                },
                () = tokio::time::sleep(left) => {}
            }
            if operator.denial.is_some() {
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
    /// Checks that the identity is valid under a snapshot and belongs to an operator. Returns the
    /// time until which the result is valid, in seconds since the Unix epoch.
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
        let trust = operators.entry.trust();
        let (found, holds_until) = revalidate(trust, (leaf, intermediates), &self.identity)?;
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
        Ok(holds_until)
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

fn explained(error: &io::Error, notes: HandshakeNotes) -> AdmissionError {
    let (reason, detail, alert) = notes.explain(error);
    AdmissionError::Refused {
        reason,
        detail,
        alert,
        notes: Box::new(notes),
        stream: None,
    }
}

/// Creates the response to a refused peer. The connection is closed after it.
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

/// Closes a connection after the peer has had time to read the last data. Until then reads and
/// discards the peer's input: closing a socket with unread input resets the connection, and the
/// peer loses that data.
async fn linger(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut rest = stream.take(MAX_LINGER);
    let mut sink = [0_u8; 4096];
    let drain = async { while matches!(rest.read(&mut sink).await, Ok(count) if count > 0) {} };
    let _ = tokio::time::timeout(LINGER_TIMEOUT, drain).await;
}
