//! What a TLS client sees of a server without judging it: its chain, and what it
//! asks of clients. For commands that show that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::crypto;
use crate::identity::text::printable;

/// What passes by during the handshake.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<Sights>);

#[derive(Debug, Default)]
pub(super) struct Sights {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) verdict: Option<Result<(), String>>,
    /// Names of the issuers that the server accepts, once it has asked.
    pub(super) issuers: Option<Vec<Vec<u8>>>,
}

impl Seen {
    fn note(&self, update: impl FnOnce(&mut Sights)) {
        update(&mut self.sights());
    }

    pub(super) fn sights(&self) -> MutexGuard<'_, Sights> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A configuration whose connections come about whatever the server presents,
/// with or without a certificate of our own.
pub(super) fn config(
    seen: &Arc<Seen>,
    credentials: Option<CertifiedKey>,
    judge: Option<Arc<WebPkiServerVerifier>>,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(crypto::provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Onlooker {
            judge,
            seen: Arc::clone(seen),
        }))
        .with_client_cert_resolver(Arc::new(Presenter {
            credentials: credentials.map(Arc::new),
            seen: Arc::clone(seen),
        }));
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Judges the server's certificate without deciding by it.
#[derive(Debug)]
struct Onlooker {
    judge: Option<Arc<WebPkiServerVerifier>>,
    seen: Arc<Seen>,
}

impl ServerCertVerifier for Onlooker {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self.judge.as_ref().map(|judge| {
            judge
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .map(|_| ())
                .map_err(|error| printable(&error.to_string()))
        });
        let presented = std::iter::once(end_entity).chain(intermediates);
        let chain = presented.map(|der| der.clone().into_owned()).collect();
        self.seen.note(|sights| {
            sights.chain = chain;
            sights.verdict = verdict;
        });
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = crypto::provider().signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = crypto::provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto::provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Presents the caller's chain whatever the server asks for, and notes that.
#[derive(Debug)]
struct Presenter {
    credentials: Option<Arc<CertifiedKey>>,
    seen: Arc<Seen>,
}

impl ResolvesClientCert for Presenter {
    fn resolve(
        &self,
        root_hint_subjects: &[&[u8]],
        _sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let issuers = root_hint_subjects.iter().map(|der| der.to_vec()).collect();
        self.seen.note(|sights| sights.issuers = Some(issuers));
        self.credentials.clone()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
