//! `Beside`: how a route treats a certificate that accompanies another credential.

use super::connection_proof::ConnectionProof;

/// How a route treats a certificate that accompanies another credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Ignores it: the route does not authenticate by certificates.
    Ignored,
    /// Requires both credentials. The certificate names the caller.
    Demanded,
    /// Accepts either credential. If both are presented, they must name the same caller.
    Alternative,
}

impl Beside {
    /// Returns the certificate that names the caller, if the route uses it.
    #[must_use]
    pub fn certificate(self, proof: Option<&ConnectionProof>) -> Option<&ConnectionProof> {
        match self {
            Self::Ignored => None,
            Self::Demanded | Self::Alternative => proof,
        }
    }
}
