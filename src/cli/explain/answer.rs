//! `Explanation`: the steps of an explanation, and the result for the caller.

use http::{Method, Uri};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::authn::Presented;
use crate::identity::text::printable;
use crate::reason::{ReasonCode, TlsAlert};

/// The request and the caller that `explain` is asked about.
pub(super) struct Question<'a> {
    pub(super) chain: &'a [CertificateDer<'static>],
    /// The URL of the request, with scheme and authority.
    pub(super) url: Option<&'a Uri>,
    pub(super) method: &'a Method,
    /// The credentials of the request: the `Authorization` field, if there is a token.
    pub(super) presented: &'a Presented,
    /// Whether only the handshake is explained. The URL then contains only the server name.
    pub(super) handshake_only: bool,
}

/// The outcome of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// The caller passes the step.
    Ok,
    /// The step is only information and cannot refuse the caller.
    Note,
    /// The step refuses the caller.
    Refused,
}

impl Verdict {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Refused => "REFUSED",
        }
    }
}

/// One step of the explanation.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    #[serde(rename = "step")]
    pub(super) name: &'static str,
    pub(super) verdict: Verdict,
    pub(super) detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) more: Vec<String>,
    /// The content of `detail` as structured data, for the JSON output.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub(super) facts: Value,
}

/// What the caller receives.
#[derive(Debug, Serialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub(super) enum Answer {
    /// The handshake succeeds, and no request was given.
    Connected,
    /// The gateway forwards the request, and the service responds.
    Forwarded { upstream: String },
    /// The gateway itself responds to the request.
    Here { status: u16 },
    /// The gateway refuses the caller, with a TLS alert or with a response status.
    Refused {
        status: Option<u16>,
        alert: Option<Alert>,
        reason: &'static str,
        detail: String,
        hint: &'static str,
        mender: &'static str,
    },
}

impl Answer {
    pub(super) const fn is_allowed(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }

    pub(super) fn in_handshake(reason: ReasonCode, detail: &str, alert: Option<TlsAlert>) -> Self {
        Self::refused(reason, detail, None, alert)
    }

    pub(super) fn refused(
        reason: ReasonCode,
        detail: &str,
        status: Option<u16>,
        alert: Option<TlsAlert>,
    ) -> Self {
        Self::Refused {
            status,
            alert: alert.map(|alert| Alert {
                number: alert.number(),
                name: alert.name(),
            }),
            reason: reason.as_str(),
            detail: printable(detail),
            hint: reason.hint(),
            mender: reason.fixed_by().as_str(),
        }
    }
}

/// A TLS alert.
#[derive(Debug, Serialize)]
pub(super) struct Alert {
    pub(super) number: u8,
    pub(super) name: &'static str,
}

/// All steps up to the first refusal, and what the caller receives.
#[derive(Debug)]
pub(super) struct Explanation {
    pub(super) steps: Vec<Step>,
    pub(super) claims: Option<Map<String, Value>>,
    pub(super) answer: Answer,
}
