//! The rustls client-certificate verifier around [`ClientTrust`].
//!
//! rustls keeps a refused certificate to itself, so the verifier leaves what it
//! learned in the [`HandshakeNotes`] of the task that drives the handshake.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, Error,
    OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::server::ServerEntry;
use super::tickets::{Session, Version};
use crate::clock;
use crate::crypto;
use crate::identity::{LeafFacts, PeerIdentity};
use crate::reason::{ReasonCode, TlsAlert};
use crate::trust::{ChainKey, ClientTrust, PendingPath, Refusal};

/// What the verifier learned during one handshake.
#[derive(Debug, Default)]
pub struct HandshakeNotes {
    /// The identity the chain stands for; proven once the handshake succeeds.
    pub identity: Option<Arc<PeerIdentity>>,
    /// When the identity has to be looked at again, at the latest, in seconds
    /// since the Unix epoch.
    pub holds_until: Option<i64>,
    /// The verified chain, kept for next time once the handshake is complete.
    pub pending: Option<PendingPath>,
    /// Why the chain was refused.
    pub refusal: Option<Refusal>,
    /// Whether CertificateVerify proved possession of the leaf's key.
    pub possession_proven: bool,
    /// What a ticket of this handshake stands for; of a resumed one, what its
    /// ticket stood for.
    pub session: Option<Session>,
    /// The chain that was refused.
    pub presented: Vec<CertificateDer<'static>>,
    /// The chain the verifier admitted.
    chain: Option<ChainKey>,
}

impl HandshakeNotes {
    /// Decides about the chain that a resumed session brought back, and notes
    /// whom it names. The session's secret has just proven possession again.
    ///
    /// # Errors
    /// When the chain does not hold any longer.
    pub fn resumed(
        &mut self,
        entry: &ServerEntry,
        chain: &[CertificateDer<'_>],
    ) -> Result<(), Refusal> {
        self.possession_proven = true;
        let admission = entry
            .admit_resumed(chain, self.session.as_ref())
            .inspect_err(|_| self.presented = chain.iter().cloned().map(owned).collect())?;
        if let Some(pending) = admission.pending {
            pending.commit();
        }
        self.identity = Some(admission.identity);
        self.holds_until = Some(admission.holds_until);
        Ok(())
    }

    /// Why a handshake failed: the reason, what exactly, and the alert that was
    /// sent, by name, where one was.
    #[must_use]
    pub fn explain(&self, error: &io::Error) -> (ReasonCode, String, Option<&'static str>) {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>());
        match (&self.refusal, tls) {
            (Some(refusal), _) => (
                refusal.reason,
                refusal.recorded(),
                refusal.reason.alert().map(TlsAlert::name),
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

    /// What the leaf says, proven or not, where it could be read.
    #[must_use]
    pub fn leaf(&self) -> Option<&LeafFacts> {
        match &self.refusal {
            Some(Refusal { leaf, .. }) => leaf.as_deref(),
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

/// Drives a handshake and returns its output with the verifier's notes. Where
/// the handshake completed, the chain enters the cache of verified ones.
pub async fn with_notes<T, E>(
    handshake: impl Future<Output = Result<T, E>>,
) -> (Result<T, E>, HandshakeNotes) {
    NOTES
        .scope(RefCell::new(HandshakeNotes::default()), async {
            let output = handshake.await;
            let mut notes = NOTES.with(RefCell::take);
            // Possession is proven in every completed handshake with a fresh
            // chain; this holds whatever rustls does.
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

/// What a ticket of the handshake under way would stand for.
pub(super) fn session() -> Option<Session> {
    NOTES
        .try_with(|notes| notes.borrow().session)
        .ok()
        .flatten()
}

/// Whether the verifier has admitted a chain in the handshake under way.
pub(super) fn is_full_handshake() -> bool {
    NOTES
        .try_with(|notes| notes.borrow().chain.is_some())
        .unwrap_or(false)
}

/// A ticket was opened in the handshake under way. rustls may still not resume
/// it, and open another one, or go on with a full handshake.
pub(super) fn resuming(session: Session) {
    note(|notes| notes.session = Some(session));
}

/// Possession was proven: from here on tickets stand for the verified chain.
fn proven(version: Version) {
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
        // Whatever tickets came along, this is a full handshake.
        note(|notes| notes.session = None);
        match self.trust.admit(end_entity, intermediates, now) {
            Ok(admission) => {
                note(|notes| {
                    notes.chain = Some(admission.chain);
                    notes.identity = Some(admission.identity);
                    notes.pending = admission.pending;
                    notes.holds_until = Some(admission.holds_until);
                });
                Ok(ClientCertVerified::assertion())
            }
            Err(refusal) => {
                let error = alert_error(refusal.reason);
                note(|notes| {
                    // One that is too long is not worth keeping.
                    if refusal.reason != ReasonCode::ChainTooLong {
                        let chain = std::iter::once(end_entity).chain(intermediates);
                        notes.presented = chain.cloned().map(owned).collect();
                    }
                    notes.refusal = Some(refusal);
                });
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
        proven(Version::Tls12);
        Ok(valid)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let valid = verify_tls13_signature(message, cert, dss, &self.algorithms)?;
        proven(Version::Tls13);
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn owned(der: CertificateDer<'_>) -> CertificateDer<'static> {
    der.into_owned()
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

#[cfg(test)]
mod tests {

    use countersign_testkit::{Credentials as TestCredentials, TestCa};
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, RootCertStore};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::clock;
    use crate::tls::{
        ClientCertificate, Credentials, ServerEntryConfig, ServerNames, TicketSource,
    };
    use crate::trust::PathCache;
    use crate::trust::tests::{config, trust};

    fn entry(ca: &TestCa, cache: &Arc<PathCache>) -> Arc<ServerEntry> {
        let now = i64::try_from(clock::unix_now()).unwrap();
        let ours = ca.server(&["a.example.org"]);
        let credentials =
            Credentials::from_pem(ours.chain_pem().as_bytes(), ours.key_pem().as_bytes(), now);
        let trust = trust(config(ca, &[]));
        let names = ServerNames::new(
            vec![ServerEntryConfig {
                names: Vec::new(),
                credentials: credentials.unwrap(),
                trust: Arc::new(trust.with_cache(Arc::clone(cache))),
                client_certificate: ClientCertificate::Required,
            }],
            &TicketSource::default(),
        );
        Arc::clone(names.unwrap().default_entry().unwrap())
    }

    /// Shakes hands; the chain and the key may belong to different leaves.
    async fn shake(
        ca: &TestCa,
        entry: &ServerEntry,
        chain: &TestCredentials,
        key: &TestCredentials,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> (bool, HandshakeNotes) {
        let mut roots = RootCertStore::empty();
        roots.add(ca.root().der().clone()).unwrap();
        let provider = crypto::provider();
        let signing = provider.key_provider.load_private_key(key.key()).unwrap();
        let presented = rustls::sign::CertifiedKey::new(chain.chain.clone(), signing);
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(presented)));
        let (here, there) = tokio::io::duplex(1 << 16);
        let name = ServerName::try_from("a.example.org").unwrap();
        let connecting = TlsConnector::from(Arc::new(client)).connect(name, here);
        let accepting = TlsAcceptor::from(Arc::clone(entry.tls())).accept(there);
        let (_client, (accepted, notes)) = tokio::join!(connecting, with_notes(accepting));
        (accepted.is_ok(), notes)
    }

    #[tokio::test]
    async fn a_chain_is_known_once_its_holder_completed_a_handshake() {
        let ca = TestCa::new("example.org");
        let (caller, thief) = (ca.client("/a"), ca.client("/b"));
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let cache = Arc::new(PathCache::new(16));
            let entry = entry(&ca, &cache);
            let (accepted, notes) = shake(&ca, &entry, &caller, &thief, version).await;
            assert!(!accepted && notes.identity.is_some() && !notes.possession_proven);
            assert_eq!(cache.len(), 0, "somebody else's chain proves nothing");
            let (accepted, first) = shake(&ca, &entry, &caller, &caller, version).await;
            assert!(accepted && cache.len() == 1);
            // Known now, and still nothing without the key.
            let (accepted, _) = shake(&ca, &entry, &caller, &thief, version).await;
            assert!(!accepted);
            let (accepted, again) = shake(&ca, &entry, &caller, &caller, version).await;
            assert!(accepted && cache.len() == 1);
            let identities = first.identity.zip(again.identity).unwrap();
            assert!(Arc::ptr_eq(&identities.0, &identities.1));
        }
    }
}
