//! `ConnectionProof`: the identity that a connection proved in its handshake.

use std::sync::Arc;

use crate::clock;
use crate::identity::{PeerIdentity, Principal};
use crate::policy::Denial;
use crate::reason::ReasonCode;

/// The identity that a connection proved in its handshake.
#[derive(Debug, Clone)]
pub struct ConnectionProof {
    /// The verified identity.
    pub identity: Arc<PeerIdentity>,
    /// When the caller proved that it holds the key, in seconds since the Unix
    /// epoch: in this handshake, or in the one that a resumed session goes back to.
    pub proven_at: u64,
    /// Whether the TLS session was resumed.
    pub resumed: bool,
}

impl ConnectionProof {
    /// Returns why it is over at `now`, in seconds since the Unix epoch; none while it
    /// is not.
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

    /// Returns the caller that the proof names.
    #[must_use]
    pub fn principal(&self) -> Principal {
        Principal::from_certificate(Arc::clone(&self.identity), self.proven_at, self.resumed)
    }
}
