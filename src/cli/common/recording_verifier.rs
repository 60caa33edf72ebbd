//! Records the certificates that a TLS server presents, and the issuers of client certificates that
//! the server accepts. Used by commands that show them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::crypto;
use crate::identity::text::printable;

/// Records what the server sends during the handshake.
#[derive(Debug, Default)]
pub(in crate::cli) struct Recorder(Mutex<Recorded>);

#[derive(Debug, Default)]
pub(in crate::cli) struct Recorded {
    pub(in crate::cli) chain: Vec<CertificateDer<'static>>,
    pub(in crate::cli) verdict: Option<Result<(), String>>,
    /// The names of the issuers that the server accepts. `None` until the server has requested a
    /// client certificate.
    pub(in crate::cli) issuers: Option<Vec<Vec<u8>>>,
}

impl Recorder {
    fn note(&self, update: impl FnOnce(&mut Recorded)) {
        update(&mut self.recorded());
    }

    pub(in crate::cli) fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Creates a TLS configuration that accepts every server certificate. The client certificate is
/// optional.
pub(in crate::cli) fn config(
    recorder: &Arc<Recorder>,
    credentials: Option<CertifiedKey>,
    verifier: Option<Arc<WebPkiServerVerifier>>,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(crypto::provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(RecordingVerifier {
            verifier,
            recorder: Arc::clone(recorder),
        }))
        .with_client_cert_resolver(Arc::new(RecordingPresenter {
            credentials: credentials.map(Arc::new),
            recorder: Arc::clone(recorder),
        }));
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Accepts every server certificate, and records whether `verifier` would accept it.
#[derive(Debug)]
struct RecordingVerifier {
    verifier: Option<Arc<WebPkiServerVerifier>>,
    recorder: Arc<Recorder>,
}

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self.verifier.as_ref().map(|verifier| {
            verifier
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .map(|_| ())
                .map_err(|error| printable(&error.to_string()))
        });
        let presented = std::iter::once(end_entity).chain(intermediates);
        let chain = presented.map(|der| der.clone().into_owned()).collect();
        self.recorder.note(|recorded| {
            recorded.chain = chain;
            recorded.verdict = verdict;
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

/// Presents the caller's chain even if the server does not list the issuer of the chain as
/// accepted. Records the listed issuers.
#[derive(Debug)]
struct RecordingPresenter {
    credentials: Option<Arc<CertifiedKey>>,
    recorder: Arc<Recorder>,
}

impl ResolvesClientCert for RecordingPresenter {
    fn resolve(
        &self,
        root_hint_subjects: &[&[u8]],
        _sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let issuers = root_hint_subjects.iter().map(|der| der.to_vec()).collect();
        self.recorder
            .note(|recorded| recorded.issuers = Some(issuers));
        self.credentials.clone()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
