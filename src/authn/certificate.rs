//! The client certificate as a method of authentication.

use std::sync::Arc;

use super::{Authenticator, Credentials, Outcome};
use crate::clock;
use crate::identity::{PeerIdentity, Principal};
use crate::policy::Denial;
use crate::reason::ReasonCode;

/// What a connection proved in its handshake.
#[derive(Debug, Clone)]
pub struct ConnectionProof {
    /// The verified identity.
    pub identity: Arc<PeerIdentity>,
    /// When the caller proved that it holds the key, in seconds since the Unix
    /// epoch: in this handshake, or in the one that a resumed session goes back to.
    pub proven_at: u64,
    /// Whether the session was resumed.
    pub resumed: bool,
}

/// Authenticates by the connection's client certificate.
#[derive(Debug, Clone, Copy, Default)]
pub struct CertificateAuthenticator;

impl Authenticator for CertificateAuthenticator {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Outcome {
        let Some(proof) = credentials.proof else {
            return Outcome::NotApplicable;
        };
        // A connection may outlive the certificate it was opened with.
        let now = i64::try_from(clock::unix_now()).unwrap_or(i64::MAX);
        let end = proof.identity.path_not_after();
        if now > end {
            return Outcome::Rejected(Denial::new(
                ReasonCode::CertificateExpired,
                format!("the certificate path expired at {}", clock::rfc3339(end)),
            ));
        }
        Outcome::Authenticated(Principal::from_certificate(
            Arc::clone(&proof.identity),
            proof.proven_at,
            proof.resumed,
        ))
    }
}
