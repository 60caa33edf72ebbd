//! Authentication by client certificate.

use super::authenticator::{Authenticator, Credentials, Outcome, Resource};
use super::connection_proof::ConnectionProof;
use crate::clock;
use crate::identity::{Method, Principal};
use crate::now_or_later::NowOrLater;
use crate::reason::ReasonCode;

/// Authenticates by the connection's client certificate.
#[derive(Debug, Clone, Copy, Default)]
pub struct CertificateAuthenticator;

impl CertificateAuthenticator {
    /// Checks the certificate of the connection. If a route requires only a certificate, this check
    /// is sufficient.
    #[must_use]
    pub fn judge(proof: Option<&ConnectionProof>) -> Outcome {
        let Some(proof) = proof else {
            return Outcome::NotApplicable;
        };
        // The certificate may have expired after the connection was opened.
        let now = clock::certificate_now();
        match proof.is_over_at(now) {
            Some(denial) => Outcome::Denied(denial),
            None => Outcome::Authenticated(proof.principal()),
        }
    }
}

impl Authenticator for CertificateAuthenticator {
    fn method(&self) -> Method {
        Method::Certificate
    }

    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> NowOrLater<'a, Outcome> {
        NowOrLater::Now(Self::judge(credentials.proof))
    }

    /// Checks only the expiry, because the connection itself verifies the path again when trust
    /// changes.
    fn recheck(&self, credentials: &Credentials<'_>, _: &Principal, _: bool) -> Outcome {
        Self::judge(credentials.proof)
    }

    fn rules(&self) -> [u8; 32] {
        [0; 32]
    }

    /// Returns `None`, because HTTP cannot request a certificate after the handshake.
    fn challenge(&self, _: ReasonCode, _: &Resource<'_>) -> Option<String> {
        None
    }
}
