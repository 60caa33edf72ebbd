//! `OperatorRecord`: the audit line of an operator's action, or of a refused peer.

use std::net::SocketAddr;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde::Serialize;

use super::audit::{AuditSink, timestamp};
use crate::clock;
use crate::identity::LeafFacts;
use crate::identity::text::printable;
use crate::reason::ReasonCode;

/// The value of `decision` in the audit line of an allowed action.
const ALLOWED: &str = "allowed";
/// The lowest HTTP status that means that an action was not done.
const FAILED: u16 = 400;

/// The facts about an operator that are known when an audit line is written.
#[derive(Debug, Clone, Default, Serialize)]
pub struct OperatorFacts {
    /// The identity in the operator's certificate or, on the private socket, the local user. Absent
    /// if no operator was verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// The trust domain of the operator's identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// The address and port of the operator. Absent on the private socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
    /// The names in the presented leaf certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sans: Option<String>,
    /// The serial number of the leaf certificate, in lower-case hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The issuer of the leaf certificate (RFC 4514).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The SHA-256 hash of the leaf certificate (`x5t#S256`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thumbprint: Option<String>,
}

impl OperatorFacts {
    /// Adds the facts in a leaf certificate. The caller of this method may use it before the peer
    /// has proven possession of the certificate's key.
    #[must_use]
    pub fn with_leaf(mut self, leaf: &LeafFacts) -> Self {
        self.sans = Some(leaf.sans.summary());
        self.serial = Some(leaf.serial_hex());
        self.issuer = Some(printable(&leaf.issuer));
        self.thumbprint = Some(Base64UrlUnpadded::encode_string(&leaf.thumbprint));
        self
    }
}

/// An audit line about an operator. The line is written when this value is dropped, so that each
/// request has a line even if its client has disconnected.
#[derive(Debug)]
pub struct OperatorRecord {
    sink: AuditSink,
    line: Line,
}

#[derive(Debug, Serialize)]
struct Line {
    time: String,
    event: &'static str,
    decision: &'static str,
    #[serde(flatten)]
    facts: OperatorFacts,
    /// The method and path of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<String>,
    /// The status of the response. Absent if no response was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<ReasonCode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<&'static str>,
    detail: String,
}

impl OperatorRecord {
    fn new(sink: &AuditSink, decision: &'static str, facts: OperatorFacts) -> Self {
        Self {
            sink: sink.clone(),
            line: Line {
                time: timestamp(clock::since_epoch()),
                event: "operator",
                decision,
                facts,
                action: None,
                status: None,
                reason: None,
                alert: None,
                detail: String::new(),
            },
        }
    }

    /// Creates the line for an allowed action of an operator.
    #[must_use]
    pub fn allowed(sink: &AuditSink, facts: OperatorFacts, action: &str) -> Self {
        let mut record = Self::new(sink, ALLOWED, facts);
        record.line.action = Some(printable(action));
        record
    }

    /// Creates the line for a peer that is refused because it is not, or no longer, an operator.
    #[must_use]
    pub fn refused(
        sink: &AuditSink,
        facts: OperatorFacts,
        (reason, detail): (ReasonCode, &str),
        alert: Option<&'static str>,
    ) -> Self {
        let mut record = Self::new(sink, "refused", facts);
        record.line.reason = Some(reason);
        record.line.alert = alert;
        record.line.detail = printable(detail);
        record
    }

    /// Changes the decision to `cut`, because the operator's connection is closed.
    #[must_use]
    pub const fn cut(mut self) -> Self {
        self.line.decision = "cut";
        self
    }

    /// Records the status of the response, and a detail for the audit line.
    pub fn answered(&mut self, status: u16, detail: &str) {
        self.line.status = Some(status);
        self.line.detail = printable(detail);
    }
}

impl Drop for OperatorRecord {
    fn drop(&mut self) {
        let line = &self.line;
        let operator = line.facts.operator.as_deref().unwrap_or("unknown");
        let action = line.action.as_deref().unwrap_or("connect");
        let status = line.status.unwrap_or_default();
        // The `tracing` macros need a constant level, so each level has its own call.
        if line.decision == ALLOWED && status < FAILED {
            tracing::info!(
                operator,
                decision = line.decision,
                action,
                status,
                detail = %line.detail,
                "an operator"
            );
        } else {
            tracing::warn!(
                operator,
                decision = line.decision,
                action,
                status,
                reason = line.reason.map_or("", ReasonCode::as_str),
                detail = %line.detail,
                "an operator"
            );
        }
        self.sink.write(line);
    }
}
