//! `CertificateAuthority`: signs intermediates, leaves and revocation lists.
//!
//! Works on certificates and keys in memory; files are in [`directory`](super::super::directory).
//! Usages and dates come from a [`CertificateProfile`], names from [`super::names`], already
//! checked. Values that the encoder would choose by itself (serial numbers, key identifiers, issuer
//! names) are set or checked here.

use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, CrlDistributionPoint, CustomExtension, DistinguishedName, DnType, KeyPair,
    PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;

use super::authority_certificate::AuthorityCertificate;
use super::date::date;
use super::der;
use super::error::AuthorityError;
use super::lifetime::Lifetime;
use super::names::SubjectNames;
use super::profile::{BACKDATING, CertificateProfile};
use super::revocation_list::RevocationList;
use crate::crypto::{self, NoRandomness};
use crate::identity::text::hex;
use crate::identity::{LeafFacts, TrustDomain};
use crate::lint;
use crate::store::key::{self, KeyAlgorithm};

/// Longest commonName (RFC 5280 appendix A.1, ub-common-name) and, alike,
/// organizationName.
pub const MAX_ATTRIBUTE: usize = 64;

/// id-pe-authorityInfoAccess (RFC 5280 section 4.2.2.1).
const AUTHORITY_INFO_ACCESS: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 1, 1];

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
    /// The facts that the certificate states.
    pub facts: LeafFacts,
    /// Whether notAfter was shortened to that of the issuer.
    pub cut: bool,
}

/// Options of a new authority.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AuthorityKind {
    pub(crate) algorithm: KeyAlgorithm,
    pub(crate) lifetime: Option<Lifetime>,
    /// Path length constraint: how many authorities may follow below this one.
    pub(crate) path_length: Option<u8>,
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
    /// If no key or serial number can be generated, or signing fails.
    pub fn new_root(domain: &TrustDomain, now: i64) -> Result<Self, AuthorityError> {
        Self::new_root_as(domain, &AuthorityKind::default(), now)
    }

    pub(crate) fn new_root_as(
        domain: &TrustDomain,
        kind: &AuthorityKind,
        now: i64,
    ) -> Result<Self, AuthorityError> {
        let mut profile = CertificateProfile::ROOT;
        if let Some(path_length) = kind.path_length {
            profile = profile.with_path_length(path_length);
        }
        let lifetime = allowed(kind.lifetime, &profile)?;
        let key = key::generate_for(kind.algorithm).map_err(Box::new)?;
        let validity = Validity {
            not_before: now.saturating_sub(BACKDATING),
            not_after: now.saturating_add(lifetime.as_seconds()),
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
        Self::join(AuthorityCertificate::read(der)?, key)
    }

    /// Like [`CertificateAuthority::load`], for a certificate already read.
    ///
    /// # Errors
    /// When the key is not its own.
    pub fn join(certificate: AuthorityCertificate, key: KeyPair) -> Result<Self, AuthorityError> {
        // The encoder accepts any key. With the wrong one, its signatures would never verify.
        if key.subject_public_key_info() != certificate.public_key_der {
            return Err(AuthorityError::KeyMismatch);
        }
        let issuer = rcgen::Issuer::from_ca_cert_der(&certificate.der, key)?;
        Ok(Self {
            certificate,
            issuer,
        })
    }

    /// Returns the public half.
    #[must_use]
    pub const fn certificate(&self) -> &AuthorityCertificate {
        &self.certificate
    }

    /// Returns the private key, for writing it to its file.
    pub(crate) fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    /// Returns the signing half without any checks, for certificates that are broken on purpose.
    pub(crate) const fn issuer(&self) -> &rcgen::Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Makes a new authority below this one, for the same trust domain.
    ///
    /// # Errors
    /// When this authority is out of its time or its path length forbids it.
    pub fn new_intermediate(&self, now: i64) -> Result<Self, AuthorityError> {
        self.new_intermediate_as(
            &CertificateProfile::INTERMEDIATE,
            &AuthorityKind::default(),
            now,
        )
    }

    pub(crate) fn new_intermediate_as(
        &self,
        profile: &CertificateProfile,
        kind: &AuthorityKind,
        now: i64,
    ) -> Result<Self, AuthorityError> {
        if self.certificate.path_length == Some(0) {
            return Err(AuthorityError::PathLength);
        }
        let lifetime = allowed(kind.lifetime, profile)?;
        let key = key::generate_for(kind.algorithm).map_err(Box::new)?;
        let validity = self.validity(lifetime, now)?;
        let params = authority_params(profile, &self.certificate.trust_domain, &validity)?;
        let signed = self.sign(&params, &key, validity.cut)?;
        Self::load(signed.der, key)
    }

    /// Signs a leaf. The names are those of a checked request.
    ///
    /// # Errors
    /// When this authority is out of its time, the lifetime is beyond the
    /// profile's limit, or signing fails.
    pub(crate) fn sign_leaf(
        &self,
        key: &impl PublicKeyData,
        names: &SubjectNames,
        common_name: &str,
        profile: &CertificateProfile,
        lifetime: Option<Lifetime>,
        now: i64,
    ) -> Result<SignedCertificate, AuthorityError> {
        let lifetime = allowed(lifetime, profile)?;
        let validity = self.validity(lifetime, now)?;
        let mut params = base_params(profile, &validity)?;
        let rules = profile.rules();
        for (kind, value) in [
            (DnType::OrganizationName, &rules.organization),
            (DnType::OrganizationalUnitName, &rules.organizational_unit),
        ] {
            if let Some(value) = value {
                params.distinguished_name.push(kind, value.as_str());
            }
        }
        // The common name is for people who read listings; nothing here uses it as an identity. A
        // subject without any attribute is empty, and the encoder then marks the SAN as critical.
        if common_name.len() <= MAX_ATTRIBUTE && !rules.without_common_name {
            params
                .distinguished_name
                .push(DnType::CommonName, common_name);
        }
        params.subject_alt_names = names.to_san_types()?;
        self.sign(&params, key, validity.cut)
    }

    /// Signs a revocation list and gives it in PEM form.
    pub(crate) fn sign_list(
        &self,
        list: &RevocationList<'_>,
        now: i64,
    ) -> Result<String, AuthorityError> {
        self.certificate.check_time(now)?;
        let params = list.to_params(&self.certificate.key_identifier)?;
        Ok(params.signed_by(&self.issuer)?.pem()?)
    }

    /// Checks that certificates it signs will chain to it, which those of an
    /// authority made elsewhere may not.
    pub(crate) fn check_name(&self, now: i64) -> Result<(), AuthorityError> {
        let key = key::generate().map_err(Box::new)?;
        let validity = self.validity(Lifetime::hours(1), now)?;
        let mut params = base_params(&CertificateProfile::PEER, &validity)?;
        params.subject_alt_names = vec![SanType::DnsName("name.invalid".try_into()?)];
        self.sign(&params, &key, false).map(|_| ())
    }

    /// Returns the validity of a certificate, which never exceeds that of this authority.
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
        // The program must not issue a certificate that its own lints would refuse.
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

/// Returns the requested lifetime, or the default of the profile.
fn allowed(
    asked: Option<Lifetime>,
    profile: &CertificateProfile,
) -> Result<Lifetime, AuthorityError> {
    let lifetime = asked.unwrap_or(profile.lifetime());
    if lifetime > profile.max_lifetime() {
        return Err(AuthorityError::LifetimeTooLong {
            asked: lifetime,
            profile: profile.name().to_owned(),
            limit: profile.max_lifetime(),
        });
    }
    Ok(lifetime)
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
    let rules = profile.rules();
    if !rules.crl_urls.is_empty() {
        // Several URLs of one point are places of the same list.
        params.crl_distribution_points = vec![CrlDistributionPoint {
            uris: rules.crl_urls.clone(),
        }];
    }
    if !rules.issuer_urls.is_empty() {
        params.custom_extensions = vec![CustomExtension::from_oid_content(
            &AUTHORITY_INFO_ACCESS,
            der::authority_info_access(&rules.issuer_urls),
        )];
    }
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
    // Each authority needs a unique name: lists and issuers are looked up by name, and two
    // generations must not be confused.
    let mark = hex(&crypto::random::<4>()?);
    let rules = profile.rules();
    let organization = rules.organization.as_deref().unwrap_or(domain.as_str());
    let organization: String = organization.chars().take(MAX_ATTRIBUTE).collect();
    params
        .distinguished_name
        .push(DnType::OrganizationName, organization);
    if let Some(unit) = &rules.organizational_unit {
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, unit.as_str());
    }
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{kind} {mark}"));
    let id = Ia5String::try_from(format!("spiffe://{domain}"))?;
    params.subject_alt_names = vec![SanType::URI(id)];
    Ok(params)
}

/// Draws 16 random bytes with the top bit cleared and the first byte not zero: positive (RFC 5280
/// section 4.1.2.2), unpredictable, and of one length always.
pub(crate) fn random_serial() -> Result<SerialNumber, NoRandomness> {
    loop {
        let mut bytes = crypto::random::<16>()?;
        let [first, ..] = &mut bytes;
        *first &= 0x7f;
        if *first != 0 {
            return Ok(SerialNumber::from_slice(&bytes));
        }
    }
}

#[cfg(test)]
#[path = "authority/tests.rs"]
mod tests;
