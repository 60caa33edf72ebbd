//! `CallerVerifier`: the rustls verifier for client certificates. It calls [`ClientTrust`].
//!
//! The verifier writes its results into the [handshake notes](super::handshake_notes).

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::authority_names::AuthorityNames;
use super::handshake_notes::{note, proven};
use super::session::Version;
use crate::crypto;
use crate::reason::{ReasonCode, TlsAlert};
use crate::trust::ClientTrust;

/// Signature schemes of keys that are refused with `unsupported-key`: ecdsa_secp521r1_sha512,
/// ed448, rsa_pss_pss with SHA-256, SHA-384 and SHA-512, and the brainpool curves (RFC 8734). If
/// the gateway did not offer these schemes, a client with such a key would send no certificate. The
/// audit record could then not contain the reason of the refusal.
///
/// These schemes are offered only to clients that offer TLS 1.3. In TLS 1.2, a signature scheme
/// does not fix the curve. A client with a P-256 key could then select ecdsa_secp521r1_sha512,
/// which ring does not verify with such a key.
const REFUSED_SCHEMES: [u16; 8] = [
    0x0603, 0x0808, 0x0809, 0x080a, 0x080b, 0x081a, 0x081b, 0x081c,
];

/// Verifies client certificates with the bundles of one server name.
#[derive(Clone)]
pub(super) struct CallerVerifier {
    trust: Arc<ClientTrust>,
    mandatory: bool,
    subjects: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
    offers_refused_schemes: bool,
}

impl CallerVerifier {
    pub(super) fn new(trust: Arc<ClientTrust>, mandatory: bool) -> Self {
        let subjects = match AuthorityNames::of(&trust) {
            AuthorityNames::All(names) => names.into_iter().map(DistinguishedName::from).collect(),
            AuthorityNames::TooLong(_) => Vec::new(),
        };
        Self {
            trust,
            mandatory,
            subjects,
            algorithms: crypto::provider().signature_verification_algorithms,
            offers_refused_schemes: false,
        }
    }

    /// Returns the verifier for clients that offer TLS 1.3. If a certificate is required, this
    /// verifier also offers the schemes in `REFUSED_SCHEMES`. The client then sends its
    /// certificate, and the refusal has the correct reason. If no certificate is required, a client
    /// with such a key continues without certificate.
    pub(super) fn for_tls13(&self) -> Self {
        Self {
            offers_refused_schemes: self.mandatory,
            ..self.clone()
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
        // rustls verifies a certificate only in a full handshake. So a session that was read from a
        // ticket before is dropped.
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
                    // A chain that is too long is not stored, to save memory.
                    if refusal.reason != ReasonCode::ChainTooLong {
                        let chain = std::iter::once(end_entity).chain(intermediates);
                        notes.presented = chain.cloned().map(CertificateDer::into_owned).collect();
                    }
                    notes.chain_error = Some(refusal);
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
        let mut schemes = self.algorithms.supported_schemes();
        if self.offers_refused_schemes {
            // These schemes come last, because a client uses the first scheme that its key
            // supports.
            for scheme in REFUSED_SCHEMES.map(SignatureScheme::from) {
                if !schemes.contains(&scheme) {
                    schemes.push(scheme);
                }
            }
        }
        schemes
    }
}

/// Returns the rustls error that makes rustls send the alert for this reason code.
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
    use crate::tls::handshake_notes::{HandshakeNotes, with_notes};
    use crate::tls::{
        ClientCertificate, Credentials, ServerEntry, ServerEntryConfig, ServerNames, TicketSource,
    };
    use crate::trust::PathCache;
    use crate::trust::fixture::{config, trust};

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

    /// Makes a handshake. `chain` and `key` may belong to different certificates.
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
            // The chain is in the cache now. The handshake must still fail, because the key is
            // wrong.
            let (accepted, _) = shake(&ca, &entry, &caller, &thief, version).await;
            assert!(!accepted);
            let (accepted, again) = shake(&ca, &entry, &caller, &caller, version).await;
            assert!(accepted && cache.len() == 1);
            let identities = first.identity.zip(again.identity).unwrap();
            assert!(Arc::ptr_eq(&identities.0, &identities.1));
        }
    }
}
