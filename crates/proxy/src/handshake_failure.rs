//! Handles failed handshakes. Records the reason in the audit log, and closes the connection so
//! that the peer can read the alert.

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::server::TlsStream;

use super::connection::worker::Worker;
use super::wire::proxy_protocol::HeaderError;
use super::wire::socket::{CallerSocket, LingerLimits};
use super::wire::tls_close::CLOSE_TIMEOUT;
use crate::clock;
use crate::identity::text::printable;
use crate::reason::ReasonCode;
use crate::telemetry::audit::{HandshakeFailure, timestamp};
use crate::telemetry::chains::Verdict;
use crate::telemetry::record::{ConnectionFacts, milliseconds};
use crate::tls::{HandshakeNotes, PLAIN_HTTP_ANSWER};
use crate::trust::ChainError;

/// The `detail` in the audit line of an evicted connection.
const EVICTED: &str = "it yielded to newer connections before its handshake was complete";

/// A TLS record with the fatal alert `unexpected_message` (code 10).
const UNEXPECTED_MESSAGE: &[u8] = &[21, 3, 3, 0, 2, 2, 10];

/// The reason why a handshake failed, and the data for its audit line.
pub(super) struct HandshakeError {
    is_eviction: bool,
    /// The reason code. `None` if the peer closed the connection before it sent a byte.
    reason: Option<ReasonCode>,
    detail: String,
    /// The name of the TLS alert that was sent to the peer. `None` if no alert was sent.
    alert: Option<&'static str>,
    notes: HandshakeNotes,
    /// The socket, if the peer must be able to read an alert or response before the close.
    socket: Option<CallerSocket>,
    /// Bytes to write to the socket before it is closed.
    response: Option<&'static [u8]>,
}

/// The connection of a failed handshake, and the duration of the handshake.
pub(super) struct FailureContext<'a> {
    pub(super) facts: &'a ConnectionFacts,
    pub(super) elapsed: Duration,
}

impl HandshakeError {
    fn new(reason: ReasonCode, detail: impl Into<String>) -> Self {
        Self {
            is_eviction: false,
            reason: Some(reason),
            detail: detail.into(),
            alert: None,
            notes: HandshakeNotes::default(),
            socket: None,
            response: None,
        }
    }

    pub(super) fn gone() -> Self {
        Self {
            reason: None,
            ..Self::new(ReasonCode::MalformedRequest, "the peer closed at once")
        }
    }

    /// Creates the error for a PROXY header that did not arrive or is malformed.
    pub(super) fn proxy_header(error: HeaderError) -> Self {
        match error {
            HeaderError::Gone => Self::gone(),
            error => Self::new(ReasonCode::MalformedRequest, error.to_string()),
        }
    }

    /// Creates the error for a peer that sent a PROXY header, or the beginning of one, in place of
    /// TLS. `has_header` is true if the gateway has read another PROXY header before.
    pub(super) fn unexpected_header(has_header: bool) -> Self {
        Self::new(
            ReasonCode::MalformedRequest,
            if has_header {
                "a second PROXY header was sent, or something like it, instead of TLS"
            } else {
                "a PROXY header was sent, or something like it, by a peer that is not listed in [listener] proxy_protocol"
            },
        )
    }

    pub(super) fn timeout(limit: Duration) -> Self {
        Self::new(
            ReasonCode::Timeout,
            format!("the TLS handshake took longer than {limit:?}"),
        )
    }

    /// Creates the error for a connection that was evicted for a newer connection.
    pub(super) fn evicted() -> Self {
        Self {
            is_eviction: true,
            ..Self::new(ReasonCode::Overloaded, EVICTED)
        }
    }

    pub(super) const fn is_eviction(&self) -> bool {
        self.is_eviction
    }

    /// Adds to the detail that the audit line stands for `count` evicted connections. These are all
    /// evictions since the last such audit line.
    pub(super) fn of_many(self, count: NonZeroU64) -> Self {
        Self {
            detail: format!("{EVICTED}; {count} did since this was last recorded"),
            ..self
        }
    }

    pub(super) fn plain_http(socket: CallerSocket) -> Self {
        Self {
            socket: Some(socket),
            response: Some(PLAIN_HTTP_ANSWER),
            ..Self::new(
                ReasonCode::MalformedRequest,
                "plain HTTP was sent to the TLS port",
            )
        }
    }

    pub(super) fn unknown_name(name: Option<String>) -> Self {
        Self::new(
            ReasonCode::HostMismatch,
            match name {
                Some(name) => format!("no [[server_name]] entry answers for {name}"),
                None => "the caller sent no server name and there is no default entry".to_owned(),
            },
        )
    }

    /// Creates the error for a ClientHello that rustls could not read.
    pub(super) fn protocol(error: &io::Error) -> Self {
        Self::new(
            ReasonCode::MalformedRequest,
            format!("the TLS handshake failed: {error}"),
        )
    }

    /// Creates the error for a first message that is not a ClientHello. RFC 8446 section 6.2
    /// requires an alert for such a message. rustls does not send the alert, so the gateway writes
    /// the alert itself.
    pub(super) fn unexpected_message(error: &io::Error, socket: CallerSocket) -> Self {
        Self {
            alert: Some("unexpected_message"),
            socket: Some(socket),
            response: Some(UNEXPECTED_MESSAGE),
            ..Self::protocol(error)
        }
    }

    /// Creates the error for a handshake that rustls refused. `notes` contains the results of the
    /// gateway's certificate verifier.
    pub(super) fn refused(error: &io::Error, notes: HandshakeNotes, socket: CallerSocket) -> Self {
        let (reason, detail, alert) = notes.explain(error);
        Self {
            alert,
            notes,
            socket: Some(socket),
            ..Self::new(reason, detail)
        }
    }

    /// Creates the error for a resumed session with a chain that is no longer valid. The TLS
    /// handshake is already complete, so no handshake alert can report the error.
    pub(super) async fn not_resumed(
        error: ChainError,
        mut notes: HandshakeNotes,
        mut stream: TlsStream<CallerSocket>,
    ) -> Self {
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, stream.shutdown()).await;
        let (reason, detail) = (error.reason, error.recorded());
        notes.chain_error = Some(error);
        Self {
            notes,
            socket: Some(stream.into_inner().0),
            ..Self::new(reason, detail)
        }
    }

    /// Writes the audit line of the failed handshake and closes the connection. Writes no audit
    /// line if the peer closed the connection before it sent a byte.
    pub(super) async fn conclude(mut self, worker: &Worker, context: &FailureContext<'_>) {
        let socket = self.socket.take();
        let response = self.response;
        if let Some(reason) = self.reason {
            self.record(reason, worker, context);
        }
        if let Some(mut socket) = socket {
            if let Some(response) = response {
                let _ = socket.write_all(response).await;
            }
            socket.linger(LingerLimits::UNKNOWN_PEER).await;
        }
    }

    fn record(self, reason: ReasonCode, worker: &Worker, context: &FailureContext<'_>) {
        worker.shared().metrics.handshake_refused(reason);
        let leaf = self.notes.leaf();
        let facts = context.facts;
        let chains = worker.shared().chains.as_ref();
        let presented = chains
            .filter(|_| !self.notes.presented.is_empty())
            .map(|keeper| {
                let chain = &self.notes.presented;
                keeper.note(chain, facts.sni.as_ref(), Verdict::Refused)
            });
        tracing::info!(
            peer = %facts.peer,
            reason = reason.as_str(),
            detail = %printable(&self.detail),
            "a handshake was refused"
        );
        worker.audit().write(&HandshakeFailure {
            time: timestamp(clock::since_epoch().saturating_sub(context.elapsed)),
            event: "handshake",
            decision: "refused",
            connection_id: &facts.connection_id,
            peer: facts.peer.to_string(),
            proxy: facts.proxy.map(|proxy| proxy.to_string()),
            sni: facts.sni.as_deref().map(str::to_owned),
            reason: reason.as_str(),
            detail: printable(&self.detail),
            alert: self.alert,
            subject: leaf.map(|leaf| printable(&leaf.subject)),
            sans: leaf.map(|leaf| leaf.sans.summary()),
            serial: leaf.map(crate::identity::LeafFacts::serial_hex),
            issuer: leaf.map(|leaf| printable(&leaf.issuer)),
            thumbprint: leaf.map(|leaf| Base64UrlUnpadded::encode_string(&leaf.thumbprint)),
            possession_proven: self.notes.possession_proven,
            resumed: facts.resumed,
            chain: presented.map(|id| Arc::clone(id.text())),
            duration_ms: milliseconds(context.elapsed),
        });
    }
}
