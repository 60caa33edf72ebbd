//! Signature algorithms with their JOSE names (RFC 7518 section 3, RFC 8037, RFC 9864).

use std::fmt;

/// A signature algorithm. Symmetric algorithms and `none` are not in this list. Therefore no
/// configuration can accept them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// `ES256`: ECDSA on P-256 with SHA-256.
    Es256,
    /// `EdDSA` (RFC 8037) or its newer name `Ed25519` (RFC 9864). The key is an Ed25519 key.
    EdDsa,
    /// `ES384`: ECDSA on P-384 with SHA-384. Needs the feature `all-algorithms`.
    Es384,
    /// `RS256`: RSASSA-PKCS1-v1_5 with SHA-256. Needs the feature `all-algorithms`.
    Rs256,
    /// `RS384`: RSASSA-PKCS1-v1_5 with SHA-384. Needs the feature `all-algorithms`.
    Rs384,
    /// `RS512`: RSASSA-PKCS1-v1_5 with SHA-512. Needs the feature `all-algorithms`.
    Rs512,
    /// `PS256`: RSASSA-PSS with SHA-256. Needs the feature `all-algorithms`.
    Ps256,
    /// `PS384`: RSASSA-PSS with SHA-384. Needs the feature `all-algorithms`.
    Ps384,
    /// `PS512`: RSASSA-PSS with SHA-512. Needs the feature `all-algorithms`.
    Ps512,
}

impl Algorithm {
    /// Returns the algorithm with this JOSE name (case-sensitive). Returns `None` if this build
    /// cannot verify the algorithm.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let algorithm = match name {
            "ES256" => Self::Es256,
            "EdDSA" | "Ed25519" => Self::EdDsa,
            "ES384" => Self::Es384,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            _ => return None,
        };
        algorithm.is_compiled_in().then_some(algorithm)
    }

    /// Returns the JOSE name. For Ed25519, the name is `EdDSA`, because every library knows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Es384 => "ES384",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
        }
    }

    const fn is_compiled_in(self) -> bool {
        matches!(self, Self::Es256 | Self::EdDsa) || cfg!(feature = "all-algorithms")
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
