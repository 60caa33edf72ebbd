//! `CertificateProfile`: usages, lifetimes and constraints of one kind of
//! certificate.
//!
//! Everything in a certificate that is not a name or a key comes from here.
//! Signing is in [`super::authority`], names are in [`super::names`]; nothing
//! a requester says may change a profile.

use std::fmt;

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};

use super::lifetime::Lifetime;

/// How long before its making a certificate becomes valid, in seconds, so that
/// peers with a slow clock accept it at once.
pub const BACKDATING: i64 = 300;

/// What an end-entity certificate may be used for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usages {
    /// TLS client authentication.
    pub client: bool,
    /// TLS server authentication.
    pub server: bool,
}

impl Usages {
    /// The words for documents and JSON, for example `["client", "server"]`.
    #[must_use]
    pub fn words(self) -> Vec<&'static str> {
        [(self.client, "client"), (self.server, "server")]
            .into_iter()
            .filter_map(|(on, word)| on.then_some(word))
            .collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Authority { path_length: u8 },
    EndEntity(Usages),
}

/// Usages, lifetimes and constraints of one kind of certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertificateProfile {
    name: &'static str,
    kind: Kind,
    lifetime: Lifetime,
    longest: Lifetime,
}

/// 825 days is the longest that widespread TLS stacks accept for a server
/// certificate, whoever issued it.
const LONGEST_LEAF: Lifetime = Lifetime::days(825);

const fn end_entity(name: &'static str, client: bool, server: bool) -> CertificateProfile {
    CertificateProfile {
        name,
        kind: Kind::EndEntity(Usages { client, server }),
        lifetime: Lifetime::hours(24),
        longest: LONGEST_LEAF,
    }
}

impl CertificateProfile {
    /// A trust anchor: ten years, one intermediate below it.
    pub const ROOT: Self = Self {
        name: "root",
        kind: Kind::Authority { path_length: 1 },
        lifetime: Lifetime::days(3652),
        longest: Lifetime::days(3652),
    };

    /// Issues leaves and nothing else: five years, no authority below it.
    pub const INTERMEDIATE: Self = Self {
        name: "intermediate",
        kind: Kind::Authority { path_length: 0 },
        lifetime: Lifetime::days(1826),
        longest: Lifetime::days(3652),
    };

    /// TLS client authentication, 24 hours.
    pub const CLIENT: Self = end_entity("client", true, false);

    /// TLS server authentication, 24 hours.
    pub const SERVER: Self = end_entity("server", false, true);

    /// Both ends of a TLS connection, 24 hours.
    pub const PEER: Self = end_entity("peer", true, true);

    /// The profiles a leaf can be issued under.
    pub const LEAVES: [Self; 3] = [Self::CLIENT, Self::SERVER, Self::PEER];

    /// Finds a leaf profile by its name.
    #[must_use]
    pub fn leaf(name: &str) -> Option<Self> {
        Self::LEAVES
            .into_iter()
            .find(|profile| profile.name == name)
    }

    /// The profile's name, for example `client`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The lifetime when none is asked for.
    #[must_use]
    pub const fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    /// The longest lifetime that may be asked for.
    #[must_use]
    pub const fn longest(&self) -> Lifetime {
        self.longest
    }

    /// An authority's profile with another path length.
    #[must_use]
    pub(super) const fn with_path_length(mut self, path_length: u8) -> Self {
        if let Kind::Authority { .. } = self.kind {
            self.kind = Kind::Authority { path_length };
        }
        self
    }

    /// What a leaf of this profile is for; none for an authority.
    #[must_use]
    pub const fn usages(&self) -> Option<Usages> {
        match self.kind {
            Kind::Authority { .. } => None,
            Kind::EndEntity(usages) => Some(usages),
        }
    }

    /// basicConstraints, always written and always critical: a missing one
    /// would leave it to each reader whether the certificate is an authority.
    pub(super) const fn basic_constraints(&self) -> IsCa {
        match self.kind {
            Kind::Authority { path_length } => IsCa::Ca(BasicConstraints::Constrained(path_length)),
            Kind::EndEntity(_) => IsCa::ExplicitNoCa,
        }
    }

    pub(super) fn key_usages(&self) -> Vec<KeyUsagePurpose> {
        match self.kind {
            Kind::Authority { .. } => {
                vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign]
            }
            Kind::EndEntity(_) => vec![KeyUsagePurpose::DigitalSignature],
        }
    }

    pub(super) fn extended_key_usages(&self) -> Vec<ExtendedKeyUsagePurpose> {
        let Some(usages) = self.usages() else {
            return Vec::new();
        };
        let mut purposes = Vec::with_capacity(2);
        if usages.client {
            purposes.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        if usages.server {
            purposes.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        purposes
    }
}

impl fmt::Display for CertificateProfile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_never_sign_certificates() {
        for profile in CertificateProfile::LEAVES {
            assert_eq!(CertificateProfile::leaf(profile.name()), Some(profile));
            assert_eq!(profile.basic_constraints(), IsCa::ExplicitNoCa);
            assert_eq!(
                profile.key_usages(),
                [KeyUsagePurpose::DigitalSignature],
                "{profile}"
            );
            assert!(profile.lifetime() <= profile.longest());
        }
        assert_eq!(CertificateProfile::leaf("root"), None);
    }

    #[test]
    fn peer_is_client_and_server() {
        let words = |profile: CertificateProfile| profile.usages().unwrap().words();
        assert_eq!(words(CertificateProfile::CLIENT), ["client"]);
        assert_eq!(words(CertificateProfile::SERVER), ["server"]);
        assert_eq!(words(CertificateProfile::PEER), ["client", "server"]);
    }
}
