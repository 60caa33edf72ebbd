//! The rustls client-certificate verifier around [`ClientTrust`].
//!
//! rustls keeps a refused certificate to itself, so the verifier leaves what it
//! learned in the [`HandshakeNotes`] of the task that drives the handshake.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::crypto;
use crate::identity::PeerIdentity;
use crate::reason::{ReasonCode, TlsAlert};
use crate::trust::{ClientTrust, Refusal};

/// What the verifier learned during one handshake.
#[derive(Debug, Default)]
pub struct HandshakeNotes {
    /// The identity the chain stands for; proven once the handshake succeeds.
    pub identity: Option<Arc<PeerIdentity>>,
    /// Why the chain was refused.
    pub refusal: Option<Refusal>,
    /// Whether CertificateVerify proved possession of the leaf's key.
    pub possession_proven: bool,
}

tokio::task_local! {
    static NOTES: RefCell<HandshakeNotes>;
}

/// Drives a handshake and returns its output with the verifier's notes.
pub async fn with_notes<T>(handshake: impl Future<Output = T>) -> (T, HandshakeNotes) {
    NOTES
        .scope(RefCell::new(HandshakeNotes::default()), async {
            let output = handshake.await;
            let notes = NOTES.with(RefCell::take);
            (output, notes)
        })
        .await
}

/// Outside a handshake of ours (tests of rustls alone) the notes are dropped.
fn note(update: impl FnOnce(&mut HandshakeNotes)) {
    let _ = NOTES.try_with(|notes| update(&mut notes.borrow_mut()));
}

/// Verifies client certificates by the bundles of one server name.
pub(super) struct CallerVerifier {
    trust: Arc<ClientTrust>,
    mandatory: bool,
    subjects: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl CallerVerifier {
    pub(super) fn new(trust: Arc<ClientTrust>, mandatory: bool) -> Self {
        let subjects = trust
            .bundles()
            .iter()
            .flat_map(|bundle| bundle.anchor_subjects())
            .map(|subject| DistinguishedName::from(subject.to_vec()))
            .collect();
        Self {
            trust,
            mandatory,
            subjects,
            algorithms: crypto::provider().signature_verification_algorithms,
        }
    }
}

impl fmt::Debug for CallerVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CallerVerifier")
            .field("trust", &self.trust)
            .field("mandatory", &self.mandatory)
            .finish_non_exhaustive()
    }
}

impl ClientCertVerifier for CallerVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.trust.verify(end_entity, intermediates, now) {
            Ok(identity) => {
                note(|notes| notes.identity = Some(identity));
                Ok(ClientCertVerified::assertion())
            }
            Err(refusal) => {
                let error = alert_error(refusal.reason);
                note(|notes| notes.refusal = Some(refusal));
                Err(error)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let valid = verify_tls12_signature(message, cert, dss, &self.algorithms)?;
        note(|notes| notes.possession_proven = true);
        Ok(valid)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let valid = verify_tls13_signature(message, cert, dss, &self.algorithms)?;
        note(|notes| notes.possession_proven = true);
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The rustls error whose alert is the reason's.
fn alert_error(reason: ReasonCode) -> Error {
    #[derive(Debug)]
    struct Refused(ReasonCode);
    impl fmt::Display for Refused {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fmt(formatter)
        }
    }
    impl std::error::Error for Refused {}

    Error::InvalidCertificate(match reason.alert() {
        Some(TlsAlert::CertificateRevoked) => CertificateError::Revoked,
        Some(TlsAlert::CertificateExpired) => CertificateError::Expired,
        Some(TlsAlert::UnknownCa) => CertificateError::UnknownIssuer,
        _ => CertificateError::Other(OtherError(Arc::new(Refused(reason)))),
    })
}
