//! `HandshakeNotes`: the facts that one TLS handshake records about its caller.
//!
//! If rustls refuses a certificate, it returns only an alert. Therefore the verifier and the
//! tickets write details into a task-local [`HandshakeNotes`] of the task that runs the handshake.

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

/// The facts that one handshake has recorded about its caller so far.
#[derive(Debug, Default)]
pub struct HandshakeNotes {
    /// The identity in the caller's certificate. The identity is proven only when the handshake
    /// succeeds.
    pub identity: Option<Arc<PeerIdentity>>,
    /// The time at which the identity must be checked again, in seconds since the Unix epoch.
    pub holds_until: Option<i64>,
    /// The verified path. It enters the path cache when the handshake is complete.
    pub pending: Option<PendingPath>,
    /// The reason why the chain was refused.
    pub chain_error: Option<ChainError>,
    /// Whether the CertificateVerify message proved that the caller holds the leaf's private key.
    pub possession_proven: bool,
    /// The session to write into a new ticket. In a resumed handshake, the session that was read
    /// from the caller's ticket.
    pub session: Option<Session>,
    /// The refused chain, leaf first.
    pub presented: Vec<CertificateDer<'static>>,
    /// The key of the accepted chain in the path cache.
    pub(super) chain: Option<ChainKey>,
}

impl HandshakeNotes {
    /// Records the caller of a resumed session whose chain was accepted again. The session secret
    /// proves that the caller is the same. The path therefore enters the cache without another
    /// proof of possession.
    pub(super) fn admitted_again(&mut self, admission: Admission) {
        if let Some(pending) = admission.pending {
            pending.commit();
        }
        self.identity = Some(admission.identity);
        self.holds_until = Some(admission.holds_until);
    }

    /// Returns why a handshake failed: the reason code, the details, and the name of the alert that
    /// was sent, if any.
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

    /// Returns the facts in the caller's leaf certificate, whether or not the certificate was
    /// accepted. Returns `None` if there is no leaf, or if it could not be read.
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

/// Runs a handshake. Returns its result and its notes. If the handshake completed, stores the
/// verified path in the path cache.
pub async fn with_notes<T, E>(
    handshake: impl Future<Output = Result<T, E>>,
) -> (Result<T, E>, HandshakeNotes) {
    NOTES
        .scope(RefCell::new(HandshakeNotes::default()), async {
            let output = handshake.await;
            let mut notes = NOTES.with(RefCell::take);
            // rustls completes no handshake with a new chain unless possession of the key is
            // proven. This check is a second safeguard that does not depend on rustls.
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

/// Returns the session that a new ticket of the current handshake must contain.
pub(super) fn session() -> Option<Session> {
    NOTES
        .try_with(|notes| notes.borrow().session)
        .ok()
        .flatten()
}

/// Whether the verifier has accepted a chain in the current handshake. If so, the handshake is not
/// a resumption.
pub(super) fn is_full_handshake() -> bool {
    NOTES
        .try_with(|notes| notes.borrow().chain.is_some())
        .unwrap_or(false)
}

/// Records that a ticket was opened in the current handshake. rustls may still reject this ticket,
/// open another ticket, or make a full handshake.
pub(super) fn resuming(session: Session) {
    note(|notes| notes.session = Some(session));
}

/// Records that the caller holds the private key. New tickets then contain the hash of the verified
/// chain.
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

/// Updates the notes of the current handshake. Outside of a handshake of the gateway (in tests that
/// use only rustls) the update is dropped.
pub(super) fn note(update: impl FnOnce(&mut HandshakeNotes)) {
    let _ = NOTES.try_with(|notes| update(&mut notes.borrow_mut()));
}
