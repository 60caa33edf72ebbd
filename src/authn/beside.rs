//! `Beside`: what a route makes of a certificate beside another credential.

use super::connection_proof::ConnectionProof;

/// What a route makes of a certificate that comes with another credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Nothing: it does not authenticate by certificates.
    Ignored,
    /// It demands both, and the certificate names the caller.
    Demanded,
    /// It takes either: two of them must stand for one caller.
    Alternative,
}

impl Beside {
    /// The certificate that names the caller, if the route uses it.
    #[must_use]
    pub fn certificate(self, proof: Option<&ConnectionProof>) -> Option<&ConnectionProof> {
        match self {
            Self::Ignored => None,
            Self::Demanded | Self::Alternative => proof,
        }
    }
}
