//! The findings of one TLS handshake about its caller.
//!
//! rustls passes on only an alert when it refuses a certificate. Therefore the verifier and the
//! tickets write their findings into the [`HandshakeNotes`] of the task that drives the handshake.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, Error};
use rustls_pki_types::CertificateDer;

use super::session::{Session, Version};
use crate::clock;
use crate::identity::{LeafFacts, PeerIdentity};
use crate::reason::{ReasonCode, TlsAlert};
use crate::trust::{Admission, ChainError, ChainKey, PendingPath};

/// The findings of one handshake so far.
#[derive(Debug, Default)]
pub struct HandshakeNotes {
    /// The identity of the chain. It is proven once the handshake succeeds.
    pub identity: Option<Arc<PeerIdentity>>,
    /// When the identity must be checked again at the latest, in seconds since the Unix epoch.
    pub holds_until: Option<i64>,
    /// The verified chain, kept for next time once the handshake is complete.
    pub pending: Option<PendingPath>,
    /// Why the chain was not accepted.
    pub chain_error: Option<ChainError>,
    /// Whether CertificateVerify proved possession of the leaf's key.
    pub possession_proven: bool,
    /// The session for a ticket of this handshake. In a resumed handshake, the session of its
    /// ticket.
    pub session: Option<Session>,
    /// The chain that was refused.
    pub presented: Vec<CertificateDer<'static>>,
    /// The chain the verifier admitted.
    pub(super) chain: Option<ChainKey>,
}

impl HandshakeNotes {
    /// Notes the caller whose chain was admitted when its session was resumed. The
    /// session's secret has just proven possession of the key again.
    pub(super) fn admitted_again(&mut self, admission: Admission) {
        if let Some(pending) = admission.pending {
            pending.commit();
        }
        self.identity = Some(admission.identity);
        self.holds_until = Some(admission.holds_until);
    }

    /// Returns why a handshake failed: the reason, the details, and the name of the
    /// alert that was sent, if one was.
    #[must_use]
    pub fn explain(&self, error: &io::Error) -> (ReasonCode, String, Option<&'static str>) {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>());
        match (&self.chain_error, tls) {
            (Some(error), _) => (
                error.reason,
                error.recorded(),
                error.reason.alert().map(TlsAlert::name),
            ),
            (None, Some(Error::NoCertificatesPresented)) => (
                ReasonCode::NoCertificate,
                "the caller presented no certificate".to_owned(),
                Some(TlsAlert::CertificateRequired.name()),
            ),
            (None, Some(Error::AlertReceived(alert))) => (
                ReasonCode::MalformedRequest,
                format!(
                    "the caller ended the handshake with alert {alert:?}{}",
                    hint_for(*alert)
                ),
                None,
            ),
            (None, Some(_)) if self.identity.is_some() && !self.possession_proven => (
                ReasonCode::BadSignature,
                "the caller did not prove that it holds the certificate's private key".to_owned(),
                None,
            ),
            (None, Some(error)) => (
                ReasonCode::MalformedRequest,
                format!("the TLS handshake failed: {error}"),
                None,
            ),
            (None, None) => (
                ReasonCode::MalformedRequest,
                format!("the connection broke during the TLS handshake: {error}"),
                None,
            ),
        }
    }

    /// Returns the facts of the leaf, proven or not, if it could be read.
    #[must_use]
    pub fn leaf(&self) -> Option<&LeafFacts> {
        match &self.chain_error {
            Some(ChainError { leaf, .. }) => leaf.as_deref(),
            None => self.identity.as_deref().map(PeerIdentity::leaf),
        }
    }
}

const fn hint_for(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateExpired => "; does it trust the gateway's certificate?",
        _ => "",
    }
}

tokio::task_local! {
    static NOTES: RefCell<HandshakeNotes>;
}

/// Drives a handshake and returns its output with its notes. If the handshake
/// completed, the chain enters the cache of verified ones.
pub async fn with_notes<T, E>(
    handshake: impl Future<Output = Result<T, E>>,
) -> (Result<T, E>, HandshakeNotes) {
    NOTES
        .scope(RefCell::new(HandshakeNotes::default()), async {
            let output = handshake.await;
            let mut notes = NOTES.with(RefCell::take);
            // Possession is proven in every completed handshake with a new chain. This check does
            // not depend on rustls.
            if let Some(pending) = notes.pending.take()
                && output.is_ok()
                && notes.possession_proven
            {
                pending.commit();
            }
            (output, notes)
        })
        .await
}

/// Returns the session for a ticket of the current handshake.
pub(super) fn session() -> Option<Session> {
    NOTES
        .try_with(|notes| notes.borrow().session)
        .ok()
        .flatten()
}

/// Whether the verifier has admitted a chain in the current handshake.
pub(super) fn is_full_handshake() -> bool {
    NOTES
        .try_with(|notes| notes.borrow().chain.is_some())
        .unwrap_or(false)
}

/// Notes that a ticket was opened in the current handshake. rustls may still not resume it, and may
/// open another one or continue with a full handshake.
pub(super) fn resuming(session: Session) {
    note(|notes| notes.session = Some(session));
}

/// Notes that possession was proven: from here on tickets belong to the verified chain.
pub(super) fn proven(version: Version) {
    note(|notes| {
        notes.possession_proven = true;
        notes.session = match (&notes.identity, notes.chain) {
            (Some(identity), Some(chain)) => Some(Session {
                version,
                chain,
                proven_at: clock::unix_now(),
                path_not_after: identity.path_not_after(),
            }),
            _ => None,
        };
    });
}

/// Updates the notes of the current handshake. Outside a handshake of the gateway (in tests of
/// rustls alone) the update is dropped.
pub(super) fn note(update: impl FnOnce(&mut HandshakeNotes)) {
    let _ = NOTES.try_with(|notes| update(&mut notes.borrow_mut()));
}
