//! `ConnectionProof`: the identity that the TLS handshake of a connection has proven.

use std::sync::Arc;

use crate::clock;
use crate::identity::{PeerIdentity, Principal};
use crate::policy::Denial;
use crate::reason::ReasonCode;

/// The identity that the TLS handshake of a connection has proven.
#[derive(Debug, Clone)]
pub struct ConnectionProof {
    /// The verified identity.
    pub identity: Arc<PeerIdentity>,
    /// When the caller has proven possession of the private key, in seconds since the Unix epoch.
    /// For a resumed session, this is the time of the original handshake.
    pub proven_at: u64,
    /// Whether the TLS session was resumed.
    pub resumed: bool,
}

impl ConnectionProof {
    /// Returns a denial if the proof is no longer valid at `now` (seconds since the Unix epoch).
    /// Returns `None` while it is valid.
    #[must_use]
    pub fn is_over_at(&self, now: i64) -> Option<Denial> {
        let end = self.identity.path_not_after();
        clock::certificate_is_over(end, now).then(|| {
            Denial::new(
                ReasonCode::CertificateExpired,
                format!("the certificate path expired at {}", clock::rfc3339(end)),
            )
        })
    }

    /// Returns the caller that the certificate names.
    #[must_use]
    pub fn principal(&self) -> Principal {
        Principal::from_certificate(Arc::clone(&self.identity), self.proven_at, self.resumed)
    }
}
