//! `CertificateProfile`: usages, lifetimes and constraints of one kind of certificate. `Profiles`:
//! all profiles of one authority.
//!
//! The profile decides everything in a certificate except names and key. [`super::authority`]
//! signs, and [`super::names`] checks the names. A requester cannot change a profile. The module
//! `config` reads the profiles of `profiles.toml`.

use std::borrow::Cow;
use std::fmt;

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};

use super::lifetime::Lifetime;
use super::names::{RequestError, SubjectName, SubjectNames};
use crate::identity::IdentityPattern;
use crate::reason::ReasonCode;
use crate::store::key::KeyAlgorithm;

/// A certificate is valid from this number of seconds before it is signed. So peers whose clock is
/// a little slow accept it immediately.
pub const BACKDATING: i64 = 300;

/// The usages of a leaf in TLS (extendedKeyUsage).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usages {
    /// Whether the leaf is for TLS clients.
    pub client: bool,
    /// Whether the leaf is for TLS servers.
    pub server: bool,
}

impl Usages {
    /// A leaf for TLS clients and for TLS servers.
    pub const BOTH: Self = Self {
        client: true,
        server: true,
    };

    /// Returns the usages as words for documents and JSON, for example `["client", "server"]`.
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

/// The part of a profile that only an operator can set. By default, all fields are empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProfileRules {
    /// Patterns of the names that a leaf may contain. If empty, every name of the trust domain is
    /// allowed.
    pub identities: Vec<IdentityPattern>,
    /// The kinds of keys that a certificate may have. New keys have the first kind. If empty, every
    /// strong key is allowed, and new keys are P-256 keys.
    pub key_types: Vec<KeyAlgorithm>,
    /// URLs of the issuer's revocation list, for cRLDistributionPoints (RFC 5280 section 4.2.1.13).
    pub crl_urls: Vec<String>,
    /// URLs of the issuer's certificate, for authorityInfoAccess (RFC 5280 section 4.2.2.1).
    pub issuer_urls: Vec<String>,
    /// The organization (`O`) in the subject. If it is `None`, a leaf has no organization, and an
    /// intermediate has the name of the trust domain as organization.
    pub organization: Option<String>,
    /// The organizational unit (`OU`) in the subject.
    pub organizational_unit: Option<String>,
    /// Whether the subject has no common name. If `O` and `OU` are missing too, the subject is
    /// empty.
    pub without_common_name: bool,
}

impl ProfileRules {
    /// The rules of a built-in profile, which are all empty.
    pub const NONE: Self = Self {
        identities: Vec::new(),
        key_types: Vec::new(),
        crl_urls: Vec::new(),
        issuer_urls: Vec::new(),
        organization: None,
        organizational_unit: None,
        without_common_name: false,
    };
}

/// What all certificates of one kind have in common: usages, lifetimes and constraints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateProfile {
    name: Cow<'static, str>,
    kind: Kind,
    lifetime: Lifetime,
    max_lifetime: Lifetime,
    rules: ProfileRules,
}

/// The maximum lifetime of a leaf. Common TLS stacks refuse a server certificate with more than 825
/// days, even from a private authority.
pub const MAX_LEAF_LIFETIME: Lifetime = Lifetime::days(825);

/// The maximum lifetime of a root or intermediate, ten years. Its cryptographic algorithm may not
/// stay secure for longer.
pub const MAX_AUTHORITY_LIFETIME: Lifetime = Lifetime::days(3652);

const fn end_entity(name: &'static str, client: bool, server: bool) -> CertificateProfile {
    CertificateProfile {
        name: Cow::Borrowed(name),
        kind: Kind::EndEntity(Usages { client, server }),
        lifetime: Lifetime::hours(24),
        max_lifetime: MAX_LEAF_LIFETIME,
        rules: ProfileRules::NONE,
    }
}

impl CertificateProfile {
    /// The profile of roots: valid for ten years, with at most one intermediate in a path below it.
    pub const ROOT: Self = Self {
        name: Cow::Borrowed("root"),
        kind: Kind::Authority { path_length: 1 },
        lifetime: MAX_AUTHORITY_LIFETIME,
        max_lifetime: MAX_AUTHORITY_LIFETIME,
        rules: ProfileRules::NONE,
    };

    /// The profile of intermediates: valid for five years, with only leaves below it.
    pub const INTERMEDIATE: Self = Self {
        name: Cow::Borrowed("intermediate"),
        kind: Kind::Authority { path_length: 0 },
        lifetime: Lifetime::days(1826),
        max_lifetime: MAX_AUTHORITY_LIFETIME,
        rules: ProfileRules::NONE,
    };

    /// The profile of TLS clients, valid for 24 hours.
    pub const CLIENT: Self = end_entity("client", true, false);

    /// The profile of TLS servers, valid for 24 hours.
    pub const SERVER: Self = end_entity("server", false, true);

    /// The profile of holders that are TLS client and TLS server, valid for 24 hours.
    pub const PEER: Self = end_entity("peer", true, true);

    /// The built-in profiles of leaves. They exist even if there is no `profiles.toml`.
    pub const LEAVES: [Self; 3] = [Self::CLIENT, Self::SERVER, Self::PEER];

    /// Creates a profile for leaves from an operator's settings.
    #[must_use]
    pub fn custom(
        name: String,
        usages: Usages,
        lifetime: Lifetime,
        max_lifetime: Lifetime,
        rules: ProfileRules,
    ) -> Self {
        Self {
            name: Cow::Owned(name),
            kind: Kind::EndEntity(usages),
            lifetime: lifetime.min(max_lifetime),
            max_lifetime: max_lifetime.min(MAX_LEAF_LIFETIME),
            rules,
        }
    }

    /// Creates the profile for intermediates from an operator's settings.
    #[must_use]
    pub fn custom_intermediate(
        lifetime: Lifetime,
        max_lifetime: Lifetime,
        rules: ProfileRules,
    ) -> Self {
        Self {
            lifetime: lifetime.min(max_lifetime),
            max_lifetime: max_lifetime.min(MAX_AUTHORITY_LIFETIME),
            rules,
            ..Self::INTERMEDIATE
        }
    }

    /// Returns the profile's name, for example `client`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the rules that an operator has set in `profiles.toml`.
    #[must_use]
    pub const fn rules(&self) -> &ProfileRules {
        &self.rules
    }

    /// Returns the algorithm of new keys under this profile.
    #[must_use]
    pub fn new_key_type(&self) -> KeyAlgorithm {
        self.rules.key_types.first().copied().unwrap_or_default()
    }

    /// Returns this profile with both usages. A leaf with a SPIFFE ID needs it, because its
    /// extendedKeyUsage must contain both (X509-SVID section 4.4).
    pub(crate) fn for_both_ends(&self) -> Self {
        match self.kind {
            Kind::EndEntity(_) if *self == Self::CLIENT || *self == Self::SERVER => Self::PEER,
            Kind::EndEntity(_) => Self {
                kind: Kind::EndEntity(Usages::BOTH),
                ..self.clone()
            },
            Kind::Authority { .. } => self.clone(),
        }
    }

    /// Returns an error if the operator's rules do not allow one of the names.
    pub(crate) fn check_names(&self, names: &SubjectNames) -> Result<(), RequestError> {
        let allowed = &self.rules.identities;
        if allowed.is_empty() {
            return Ok(());
        }
        match names.iter().find(|name| !permits(allowed, name)) {
            None => Ok(()),
            Some(name) => Err(RequestError::new(
                ReasonCode::IdentityDenied,
                format!(
                    "profile {} does not certify {name}; profiles.toml allows it: {}",
                    self.name,
                    allowed
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            )),
        }
    }

    /// Returns an error if the operator's rules do not allow this kind of key. `public_key_info` is
    /// SubjectPublicKeyInfo in DER.
    pub(crate) fn check_key(&self, public_key_info: &[u8]) -> Result<(), RequestError> {
        let allowed = &self.rules.key_types;
        if allowed.is_empty() || allowed.iter().any(|kind| kind.covers(public_key_info)) {
            return Ok(());
        }
        Err(RequestError::new(
            ReasonCode::WeakKey,
            format!(
                "profile {} does not certify keys of this kind; profiles.toml allows it: {}",
                self.name,
                allowed
                    .iter()
                    .map(|kind| kind.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        ))
    }

    /// Returns the lifetime of a certificate if its request has no lifetime.
    #[must_use]
    pub const fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    /// Returns the maximum lifetime that a request may have.
    #[must_use]
    pub const fn max_lifetime(&self) -> Lifetime {
        self.max_lifetime
    }

    /// Returns this profile with another path length constraint. Returns a profile for leaves
    /// unchanged.
    #[must_use]
    pub(crate) fn with_path_length(mut self, path_length: u8) -> Self {
        if let Kind::Authority { .. } = self.kind {
            self.kind = Kind::Authority { path_length };
        }
        self
    }

    /// Returns the usages of leaves. Returns `None` if the profile is for authorities.
    #[must_use]
    pub const fn usages(&self) -> Option<Usages> {
        match self.kind {
            Kind::Authority { .. } => None,
            Kind::EndEntity(usages) => Some(usages),
        }
    }

    /// Returns basicConstraints. Every certificate has this extension, so that all programs agree
    /// whether the certificate belongs to an authority.
    pub(crate) const fn basic_constraints(&self) -> IsCa {
        match self.kind {
            Kind::Authority { path_length } => IsCa::Ca(BasicConstraints::Constrained(path_length)),
            Kind::EndEntity(_) => IsCa::ExplicitNoCa,
        }
    }

    pub(crate) fn key_usages(&self) -> Vec<KeyUsagePurpose> {
        match self.kind {
            Kind::Authority { .. } => {
                vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign]
            }
            Kind::EndEntity(_) => vec![KeyUsagePurpose::DigitalSignature],
        }
    }

    pub(crate) fn extended_key_usages(&self) -> Vec<ExtendedKeyUsagePurpose> {
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
        formatter.write_str(&self.name)
    }
}

/// Whether an operator's rules allow a name. A wildcard is allowed only by a pattern with the same
/// text, or by the pattern `*`.
fn permits(allowed: &[IdentityPattern], name: &SubjectName) -> bool {
    allowed.iter().any(|pattern| match name {
        SubjectName::Caller(caller) => pattern.matches(caller),
        SubjectName::WildcardDns(_) => {
            *pattern == IdentityPattern::AnyCaller || pattern.to_string() == name.to_string()
        }
    })
}

/// All profiles of one authority: the built-in profiles, and those of `profiles.toml`. A profile of
/// `profiles.toml` replaces a built-in profile with the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profiles {
    leaves: Vec<CertificateProfile>,
    intermediate: CertificateProfile,
}

impl Default for Profiles {
    fn default() -> Self {
        Self {
            leaves: CertificateProfile::LEAVES.to_vec(),
            intermediate: CertificateProfile::INTERMEDIATE,
        }
    }
}

impl Profiles {
    /// Adds a profile. If there is a profile with the same name, replaces it.
    pub fn set(&mut self, profile: CertificateProfile) {
        if profile.usages().is_none() {
            self.intermediate = profile;
        } else if let Some(place) = self
            .leaves
            .iter_mut()
            .find(|known| known.name == profile.name)
        {
            *place = profile;
        } else {
            self.leaves.push(profile);
        }
    }

    /// Returns the profile for leaves with this name, if it exists.
    #[must_use]
    pub fn leaf(&self, name: &str) -> Option<&CertificateProfile> {
        self.leaves.iter().find(|profile| profile.name == name)
    }

    /// Returns the profiles for leaves.
    #[must_use]
    pub fn leaves(&self) -> &[CertificateProfile] {
        &self.leaves
    }

    /// Returns the profile for intermediates.
    #[must_use]
    pub const fn intermediate(&self) -> &CertificateProfile {
        &self.intermediate
    }

    /// If an operator has replaced this built-in profile for leaves, returns the replacement.
    /// Otherwise returns `profile`.
    pub(crate) fn in_place_of(&self, profile: CertificateProfile) -> CertificateProfile {
        if CertificateProfile::LEAVES.contains(&profile) {
            self.leaf(&profile.name).cloned().unwrap_or(profile)
        } else {
            profile
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_never_sign_certificates() {
        let profiles = Profiles::default();
        for profile in CertificateProfile::LEAVES {
            assert_eq!(profiles.leaf(profile.name()), Some(&profile));
            assert_eq!(profile.basic_constraints(), IsCa::ExplicitNoCa);
            assert_eq!(
                profile.key_usages(),
                [KeyUsagePurpose::DigitalSignature],
                "{profile}"
            );
            assert!(profile.lifetime() <= profile.max_lifetime());
        }
        assert_eq!(profiles.leaf("root"), None);
        assert_eq!(profiles.leaf("intermediate"), None);
    }

    fn batch(identities: &[&str], key_types: &[KeyAlgorithm]) -> CertificateProfile {
        let rules = ProfileRules {
            identities: identities
                .iter()
                .map(|text| IdentityPattern::parse(text).unwrap())
                .collect(),
            key_types: key_types.to_vec(),
            ..ProfileRules::NONE
        };
        let usages = Usages {
            client: true,
            server: false,
        };
        let hour = Lifetime::hours(1);
        CertificateProfile::custom("batch".to_owned(), usages, hour, hour, rules)
    }

    #[test]
    fn names_outside_a_profile_are_refused() {
        let profile = batch(&["spiffe://example.org/ns/batch/**", "dns:*.b.test"], &[]);
        let check =
            |names: Result<SubjectNames, RequestError>| profile.check_names(&names.unwrap());
        let names = SubjectNames::new;
        assert!(check(names().uri("spiffe://example.org/ns/batch/sa/a")).is_ok());
        assert!(check(names().dns("a.b.test")).is_ok());
        assert!(check(names().dns("*.b.test")).is_ok());
        for refused in [
            names().uri("spiffe://example.org/ns/shop/sa/a"),
            names().dns("a.c.test"),
            names().dns("*.c.test"),
            names().dns("*.a.b.test"),
            names()
                .dns("a.b.test")
                .and_then(|names| names.dns("evil.test")),
            names().email("a@b.test"),
        ] {
            assert_eq!(
                check(refused).unwrap_err().reason,
                ReasonCode::IdentityDenied
            );
        }
        // A pattern for one host does not allow a wildcard that matches this host.
        let one = batch(&["dns:a.b.test"], &[]);
        assert!(one.check_names(&names().dns("*.b.test").unwrap()).is_err());
    }

    #[test]
    fn a_profile_of_the_operators_keeps_its_name_when_it_is_widened() {
        let profile = batch(&[], &[KeyAlgorithm::P384]);
        let wide = profile.for_both_ends();
        assert_eq!((wide.name(), wide.usages()), ("batch", Some(Usages::BOTH)));
        assert_eq!(wide.new_key_type(), KeyAlgorithm::P384);
        assert_eq!(
            CertificateProfile::CLIENT.for_both_ends(),
            CertificateProfile::PEER
        );
        let mut profiles = Profiles::default();
        profiles.set(profile.clone());
        assert_eq!(profiles.leaf("batch"), Some(&profile));
        assert_eq!(profiles.leaves().len(), 4);
    }

    #[test]
    fn peer_is_client_and_server() {
        let words = |profile: CertificateProfile| profile.usages().unwrap().words();
        assert_eq!(words(CertificateProfile::CLIENT), ["client"]);
        assert_eq!(words(CertificateProfile::SERVER), ["server"]);
        assert_eq!(words(CertificateProfile::PEER), ["client", "server"]);
    }
}
