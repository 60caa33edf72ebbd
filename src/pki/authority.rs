//! `CertificateAuthority`: signs intermediates, leaves and revocation lists.
//!
//! Works on certificates and keys in memory; files are [`super::directory`]'s
//! affair. Usages and dates come from a [`CertificateProfile`], names from
//! [`super::names`], already checked. What the encoder leaves to chance
//! (serial numbers, key identifiers, issuer names) is set or checked here.

use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::key;
use super::lifetime::Lifetime;
use super::lint;
use super::names::SubjectNames;
use super::profile::{BACKDATING, CertificateProfile};
use super::revocation::{RevocationList, UnencodableList};
use crate::clock;
use crate::crypto::{self, NoRandomness};
use crate::identity::text::hex;
use crate::identity::{LeafFacts, SpiffeId, TrustDomain};

/// Longest commonName (RFC 5280 appendix A.1, ub-common-name) and, alike,
/// organizationName.
const LONGEST_ATTRIBUTE: usize = 64;

/// Why an authority cannot be used, or does not sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The bytes are not a certificate.
    #[error("it is not a readable certificate: {0}")]
    Unreadable(String),
    /// The certificate is not one of an authority of this program.
    #[error("it is not the certificate of an authority: {0}")]
    NotAnAuthority(&'static str),
    /// The private key belongs to another certificate.
    #[error("its private key belongs to another certificate")]
    KeyMismatch,
    /// The authority's time is over.
    #[error("it expired at {}", clock::rfc3339(*.0))]
    Expired(i64),
    /// The authority's time has not come.
    #[error("it is not valid before {}; is the clock right?", clock::rfc3339(*.0))]
    NotYetValid(i64),
    /// The path length forbids an authority below this one.
    #[error("its path length allows no authority below it")]
    PathLength,
    /// A longer lifetime than the profile allows.
    #[error("a lifetime of {asked} is longer than profile {profile} allows: at most {limit}")]
    LifetimeTooLong {
        /// What was asked for.
        asked: Lifetime,
        /// The profile's name.
        profile: &'static str,
        /// Its limit.
        limit: Lifetime,
    },
    /// The issuer name in what was signed is not the authority's subject.
    #[error(
        "its subject cannot be repeated exactly as an issuer name, so nothing would chain to it"
    )]
    IssuerName,
    /// A standard forbids the certificate, or gateways would refuse it.
    #[error("such a certificate is not issued: {0}")]
    Lint(lint::Finding),
    /// The encoder or the key refused.
    #[error("signing failed: {0}")]
    Sign(#[from] rcgen::Error),
    /// A private key could not be made.
    #[error(transparent)]
    Key(#[from] Box<key::KeyError>),
    /// No serial number could be drawn.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// A revocation list could not be encoded.
    #[error(transparent)]
    List(#[from] UnencodableList),
    /// A date beyond what certificates can express.
    #[error("a date lies outside the years that certificates can express")]
    Date,
}

/// The public half of an authority: its certificate and what it says.
#[derive(Debug, Clone)]
pub struct AuthorityCertificate {
    der: CertificateDer<'static>,
    facts: LeafFacts,
    subject_der: Vec<u8>,
    public_key_der: Vec<u8>,
    key_identifier: Vec<u8>,
    path_length: Option<u32>,
    trust_domain: TrustDomain,
}

impl AuthorityCertificate {
    /// Reads a certificate and checks that it is one of an authority.
    ///
    /// # Errors
    /// When it is unreadable, no authority, or names no trust domain.
    pub fn read(der: CertificateDer<'static>) -> Result<Self, AuthorityError> {
        use AuthorityError::NotAnAuthority;
        let facts =
            LeafFacts::read(&der).map_err(|error| AuthorityError::Unreadable(error.to_string()))?;
        let (_, certificate) = X509Certificate::from_der(&der)
            .map_err(|error| AuthorityError::Unreadable(error.to_string()))?;
        let mut path_length = None;
        let mut key_identifier = None;
        let mut uris = Vec::new();
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(constraints) => {
                    path_length = constraints.path_len_constraint;
                }
                ParsedExtension::SubjectKeyIdentifier(identifier) => {
                    key_identifier = Some(identifier.0.to_vec());
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    uris.extend(names.general_names.iter().filter_map(|name| match name {
                        GeneralName::URI(uri) => Some(*uri),
                        _ => None,
                    }));
                }
                _ => {}
            }
        }
        if !facts.is_ca {
            return Err(NotAnAuthority("basicConstraints does not say CA"));
        }
        // RFC 5280 section 4.2.1.3: both bits, or lists would not verify.
        let needed = crate::identity::leaf::key_usage::KEY_CERT_SIGN
            | crate::identity::leaf::key_usage::CRL_SIGN;
        if facts.key_usage.is_none_or(|bits| bits & needed != needed) {
            return Err(NotAnAuthority("keyUsage lacks keyCertSign or cRLSign"));
        }
        let key_identifier =
            key_identifier.ok_or(NotAnAuthority("it has no subject key identifier"))?;
        // X509-SVID section 4.1: a signing certificate's ID has no path.
        let trust_domain = match uris.as_slice() {
            [uri] => SpiffeId::parse(uri)
                .ok()
                .filter(|id| id.path().is_empty())
                .map(|id| id.trust_domain().clone()),
            _ => None,
        }
        .ok_or(NotAnAuthority("it does not name one trust domain"))?;
        let subject_der = certificate.subject().as_raw().to_vec();
        let public_key_der = certificate.public_key().raw.to_vec();
        Ok(Self {
            facts,
            subject_der,
            public_key_der,
            key_identifier,
            path_length,
            trust_domain,
            der,
        })
    }

    /// The certificate itself.
    #[must_use]
    pub const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// What it says about itself.
    #[must_use]
    pub const fn facts(&self) -> &LeafFacts {
        &self.facts
    }

    /// The trust domain it vouches for.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Its subject key identifier in hexadecimal.
    #[must_use]
    pub fn key_identifier_hex(&self) -> String {
        hex(&self.key_identifier)
    }

    /// Whether this authority signed a certificate: name and signature agree.
    #[must_use]
    pub fn has_signed(&self, der: &[u8]) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return false;
        };
        let Ok((_, own)) = X509Certificate::from_der(&self.der) else {
            return false;
        };
        certificate.issuer().as_raw() == self.subject_der
            && certificate.verify_signature(Some(own.public_key())).is_ok()
    }

    fn check_time(&self, now: i64) -> Result<(), AuthorityError> {
        if now >= self.facts.not_after {
            return Err(AuthorityError::Expired(self.facts.not_after));
        }
        if now < self.facts.not_before {
            return Err(AuthorityError::NotYetValid(self.facts.not_before));
        }
        Ok(())
    }
}

/// An authority that can sign: certificate and private key.
#[derive(Debug)]
pub struct CertificateAuthority {
    certificate: AuthorityCertificate,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

/// A certificate just signed.
#[derive(Debug)]
pub struct SignedCertificate {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// What it says about itself.
    pub facts: LeafFacts,
    /// Its notAfter was cut to the issuer's.
    pub cut: bool,
}

struct Validity {
    not_before: i64,
    not_after: i64,
    cut: bool,
}

impl CertificateAuthority {
    /// Makes a new root for a trust domain.
    ///
    /// # Errors
    /// When no key or serial number can be had, or signing fails.
    pub fn new_root(domain: &TrustDomain, now: i64) -> Result<Self, AuthorityError> {
        let profile = CertificateProfile::ROOT;
        let key = key::generate().map_err(Box::new)?;
        let validity = Validity {
            not_before: now.saturating_sub(BACKDATING),
            not_after: now.saturating_add(profile.lifetime().as_seconds()),
            cut: false,
        };
        let params = authority_params(&profile, domain, &validity)?;
        let certificate = params.self_signed(&key)?;
        Self::load(certificate.der().clone(), key)
    }

    /// Takes a certificate and its key into use.
    ///
    /// # Errors
    /// When the certificate is not one of an authority or the key is not its own.
    pub fn load(der: CertificateDer<'static>, key: KeyPair) -> Result<Self, AuthorityError> {
        let certificate = AuthorityCertificate::read(der)?;
        // The encoder would take any key and sign what never verifies.
        if key.subject_public_key_info() != certificate.public_key_der {
            return Err(AuthorityError::KeyMismatch);
        }
        let issuer = rcgen::Issuer::from_ca_cert_der(&certificate.der, key)?;
        Ok(Self {
            certificate,
            issuer,
        })
    }

    /// The public half.
    #[must_use]
    pub const fn certificate(&self) -> &AuthorityCertificate {
        &self.certificate
    }

    /// The private key, for writing it to its file.
    pub(super) fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    /// The signing half without any checks, for certificates that shall be broken.
    pub(super) const fn issuer(&self) -> &rcgen::Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Makes a new authority below this one, for the same trust domain.
    ///
    /// # Errors
    /// When this authority is out of its time or its path length forbids it.
    pub fn new_intermediate(&self, now: i64) -> Result<Self, AuthorityError> {
        if self.certificate.path_length == Some(0) {
            return Err(AuthorityError::PathLength);
        }
        let profile = CertificateProfile::INTERMEDIATE;
        let key = key::generate().map_err(Box::new)?;
        let validity = self.validity(profile.lifetime(), now)?;
        let params = authority_params(&profile, &self.certificate.trust_domain, &validity)?;
        let signed = self.sign(&params, &key, validity.cut)?;
        Self::load(signed.der, key)
    }

    /// Signs a leaf. The names are those of a checked request.
    ///
    /// # Errors
    /// When this authority is out of its time, the lifetime is beyond the
    /// profile's limit, or signing fails.
    pub(super) fn sign_leaf(
        &self,
        key: &impl PublicKeyData,
        names: &SubjectNames,
        common_name: &str,
        profile: &CertificateProfile,
        lifetime: Option<Lifetime>,
        now: i64,
    ) -> Result<SignedCertificate, AuthorityError> {
        let lifetime = lifetime.unwrap_or(profile.lifetime());
        if lifetime > profile.longest() {
            return Err(AuthorityError::LifetimeTooLong {
                asked: lifetime,
                profile: profile.name(),
                limit: profile.longest(),
            });
        }
        let validity = self.validity(lifetime, now)?;
        let mut params = base_params(profile, &validity)?;
        // For people reading listings; nothing here takes it for an identity.
        // Without it the subject is empty and the SAN becomes critical.
        if common_name.len() <= LONGEST_ATTRIBUTE {
            params
                .distinguished_name
                .push(DnType::CommonName, common_name);
        }
        params.subject_alt_names = names.to_san_types()?;
        self.sign(&params, key, validity.cut)
    }

    /// Signs a revocation list and gives it in PEM form.
    pub(super) fn sign_list(
        &self,
        list: &RevocationList<'_>,
        now: i64,
    ) -> Result<String, AuthorityError> {
        self.certificate.check_time(now)?;
        let params = list.to_params(&self.certificate.key_identifier)?;
        Ok(params.signed_by(&self.issuer)?.pem()?)
    }

    /// Never beyond this authority's own time.
    fn validity(&self, lifetime: Lifetime, now: i64) -> Result<Validity, AuthorityError> {
        self.certificate.check_time(now)?;
        let own = &self.certificate.facts;
        let wanted = now.saturating_add(lifetime.as_seconds());
        Ok(Validity {
            not_before: now.saturating_sub(BACKDATING).max(own.not_before),
            not_after: wanted.min(own.not_after),
            cut: wanted > own.not_after,
        })
    }

    fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
        cut: bool,
    ) -> Result<SignedCertificate, AuthorityError> {
        let der = params.signed_by(key, &self.issuer)?.der().clone();
        let facts =
            LeafFacts::read(&der).map_err(|error| AuthorityError::Unreadable(error.to_string()))?;
        // The encoder rebuilds the issuer name from parsed attributes and loses
        // repeated ones; such a certificate would chain to nothing.
        if facts.issuer_der != self.certificate.subject_der {
            return Err(AuthorityError::IssuerName);
        }
        // What this program issues, it does not complain about afterwards.
        let findings = lint::certificate(&der, Some(&self.certificate.der));
        match findings
            .into_iter()
            .find(|finding| finding.severity == lint::Severity::Error)
        {
            Some(finding) => Err(AuthorityError::Lint(finding)),
            None => Ok(SignedCertificate { der, facts, cut }),
        }
    }
}

/// A date from seconds since the Unix epoch, in the years X.509 can express.
pub(super) fn date(unix_seconds: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(unix_seconds)
        .ok()
        .filter(|date| (1950..=9999).contains(&date.year()))
}

fn base_params(
    profile: &CertificateProfile,
    validity: &Validity,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.not_before = date(validity.not_before).ok_or(AuthorityError::Date)?;
    params.not_after = date(validity.not_after).ok_or(AuthorityError::Date)?;
    params.serial_number = Some(random_serial()?);
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = profile.basic_constraints();
    params.key_usages = profile.key_usages();
    params.extended_key_usages = profile.extended_key_usages();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn authority_params(
    profile: &CertificateProfile,
    domain: &TrustDomain,
    validity: &Validity,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = base_params(profile, validity)?;
    let kind = match profile.name() {
        "root" => "Root CA",
        _ => "Intermediate CA",
    };
    // A name of its own for every authority: lists and issuers are looked up
    // by name, and two generations must not be mistaken for one another.
    let mark = hex(&crypto::random::<4>()?);
    let organization: String = domain.as_str().chars().take(LONGEST_ATTRIBUTE).collect();
    params
        .distinguished_name
        .push(DnType::OrganizationName, organization);
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{kind} {mark}"));
    let id = Ia5String::try_from(format!("spiffe://{domain}"))?;
    params.subject_alt_names = vec![SanType::URI(id)];
    Ok(params)
}

/// 16 random octets, the top bit cleared and the first not zero: positive
/// (RFC 5280 section 4.1.2.2), unpredictable, and of one length always.
pub(super) fn random_serial() -> Result<SerialNumber, NoRandomness> {
    loop {
        let mut octets = crypto::random::<16>()?;
        let [first, ..] = &mut octets;
        *first &= 0x7f;
        if *first != 0 {
            return Ok(SerialNumber::from_slice(&octets));
        }
    }
}

#[cfg(test)]
#[path = "authority/tests.rs"]
mod tests;
