//! The client certificate as a method of authentication.

use std::sync::Arc;

use super::{Authenticator, Credentials, Outcome, Resource, Step};
use crate::clock;
use crate::identity::{Method, PeerIdentity, Principal};
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

impl ConnectionProof {
    /// Why it is over at `now`, in seconds since the Unix epoch; none while it is
    /// not.
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

    /// The caller that it names.
    #[must_use]
    pub fn principal(&self) -> Principal {
        Principal::from_certificate(Arc::clone(&self.identity), self.proven_at, self.resumed)
    }
}

/// Authenticates by the connection's client certificate.
#[derive(Debug, Clone, Copy, Default)]
pub struct CertificateAuthenticator;

impl CertificateAuthenticator {
    /// What the connection's certificate says now. Routes that demand nothing
    /// else need no more than this.
    #[must_use]
    pub fn judge(proof: Option<&ConnectionProof>) -> Outcome {
        let Some(proof) = proof else {
            return Outcome::NotApplicable;
        };
        // A connection may outlive the certificate it was opened with.
        let now = i64::try_from(clock::unix_now()).unwrap_or(i64::MAX);
        match proof.is_over_at(now) {
            Some(denial) => Outcome::Rejected(denial),
            None => Outcome::Authenticated(proof.principal()),
        }
    }
}

impl Authenticator for CertificateAuthenticator {
    fn method(&self) -> Method {
        Method::Certificate
    }

    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> Step<'a> {
        Step::Now(Self::judge(credentials.proof))
    }

    /// That the path still verifies is the connection's affair.
    fn recheck(&self, credentials: &Credentials<'_>, _: &Principal, _: bool) -> Outcome {
        Self::judge(credentials.proof)
    }

    fn rules(&self) -> [u8; 32] {
        [0; 32]
    }

    /// HTTP cannot ask for a certificate: the handshake is over.
    fn challenge(&self, _: ReasonCode, _: &Resource<'_>) -> Option<String> {
        None
    }
}
