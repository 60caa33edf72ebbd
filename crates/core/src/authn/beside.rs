//! `Beside`: how a route treats a certificate that accompanies another credential.

use super::connection_proof::ConnectionProof;

/// How a route treats a certificate that accompanies another credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// The certificate is ignored, because the route does not authenticate by certificates.
    Ignored,
    /// The route requires both credentials. The certificate names the caller.
    Demanded,
    /// The route accepts either credential. If both are presented, they must name the same caller.
    Alternative,
}

impl Beside {
    /// Returns the proof of the caller's certificate, unless the route ignores certificates.
    #[must_use]
    pub fn certificate(self, proof: Option<&ConnectionProof>) -> Option<&ConnectionProof> {
        match self {
            Self::Ignored => None,
            Self::Demanded | Self::Alternative => proof,
        }
    }
}
