//! `CertificateAuthority`: signs intermediates, leaves and revocation lists.
//!
//! This file works on certificates and keys in memory. [`directory`](super::super::directory) reads
//! and writes files. Usages and dates come from a [`CertificateProfile`]. Names come from
//! [`super::names`], which has checked them. The encoder (rcgen) could choose serial numbers, key
//! identifiers and issuer names itself, so this file sets or checks them.

use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, CrlDistributionPoint, CustomExtension, DistinguishedName, DnType, KeyPair,
    PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;

use super::authority_certificate::AuthorityCertificate;
use super::authority_info_access::authority_info_access;
use super::date::date;
use super::error::AuthorityError;
use super::lifetime::Lifetime;
use super::names::SubjectNames;
use super::profile::{BACKDATING, CertificateProfile};
use super::revocation_list::RevocationList;
use crate::crypto::{self, NoRandomness};
use crate::der;
use crate::identity::text::hex;
use crate::identity::{LeafFacts, TrustDomain};
use crate::lint;
use crate::store::key::{self, KeyAlgorithm};

/// Maximum length in characters of a commonName or an organizationName (RFC 5280 appendix A.1:
/// ub-common-name, ub-organization-name).
pub const MAX_ATTRIBUTE: usize = 64;

/// OID of id-pe-authorityInfoAccess (RFC 5280 section 4.2.2.1).
const AUTHORITY_INFO_ACCESS: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 1, 1];

/// OID of id-ce-subjectKeyIdentifier (RFC 5280 section 4.2.1.2).
const SUBJECT_KEY_IDENTIFIER: [u64; 4] = [2, 5, 29, 14];

/// The tag of an OCTET STRING.
const OCTET_STRING: u8 = 0x04;

/// An authority that can sign: its certificate and its private key.
#[derive(Debug)]
pub struct CertificateAuthority {
    certificate: AuthorityCertificate,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

/// A certificate that was just signed.
#[derive(Debug)]
pub struct SignedCertificate {
    /// The signed certificate in DER.
    pub der: CertificateDer<'static>,
    /// The facts in the certificate, read from `der` again.
    pub facts: LeafFacts,
    /// Whether the certificate has a shorter lifetime than requested, because its issuer expires
    /// earlier.
    pub cut: bool,
}

/// Options of a new root or intermediate.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AuthorityKind {
    pub(crate) algorithm: KeyAlgorithm,
    pub(crate) lifetime: Option<Lifetime>,
    /// Path length constraint: how many intermediates may follow below this authority in a path.
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

    /// Combines the certificate of an authority with its private key.
    ///
    /// # Errors
    /// If the certificate does not belong to an authority, or if the key belongs to another
    /// certificate.
    pub fn load(der: CertificateDer<'static>, key: KeyPair) -> Result<Self, AuthorityError> {
        Self::join(AuthorityCertificate::read(der)?, key)
    }

    /// Same as [`CertificateAuthority::load`], for a certificate that was already parsed.
    ///
    /// # Errors
    /// If the key belongs to another certificate.
    pub fn join(certificate: AuthorityCertificate, key: KeyPair) -> Result<Self, AuthorityError> {
        // rcgen accepts any key. With the key of another certificate, all signatures would be
        // invalid.
        if key.subject_public_key_info() != certificate.public_key_der {
            return Err(AuthorityError::KeyMismatch);
        }
        let issuer = rcgen::Issuer::from_ca_cert_der(&certificate.der, key)?;
        Ok(Self {
            certificate,
            issuer,
        })
    }

    /// Returns the certificate of the authority.
    #[must_use]
    pub const fn certificate(&self) -> &AuthorityCertificate {
        &self.certificate
    }

    /// Returns the private key. It is needed to write the key to a file.
    pub(crate) fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    /// Returns rcgen's issuer, which signs anything without checks. Only test certificates with
    /// faults are signed with it.
    pub(crate) const fn issuer(&self) -> &rcgen::Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Makes a new intermediate for the same trust domain, and signs it with this authority.
    ///
    /// # Errors
    /// If this authority is not valid at `now`, or if its path length constraint allows no
    /// intermediate.
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

    /// Signs a leaf. The caller of this function must have checked the names.
    ///
    /// # Errors
    /// If this authority is not valid at `now`, if the lifetime exceeds the maximum of the profile,
    /// or if signing fails.
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
        // The common name only helps people who read listings. The gateway never uses it as
        // identity. With an empty subject, rcgen marks subjectAltName as critical, as RFC 5280
        // requires.
        if common_name.len() <= MAX_ATTRIBUTE && !rules.without_common_name {
            params
                .distinguished_name
                .push(DnType::CommonName, common_name);
        }
        params.subject_alt_names = names.to_san_types()?;
        self.sign(&params, key, validity.cut)
    }

    /// Signs a leaf with which the verifier of gateways is asked about this authority. The leaf is
    /// never written to a file.
    pub(crate) fn sign_trial(&self, now: i64) -> Result<CertificateDer<'static>, AuthorityError> {
        let key = key::generate().map_err(Box::new)?;
        let names = SubjectNames::new().spiffe_text("/trial", &self.certificate.trust_domain)?;
        let profile = CertificateProfile::PEER;
        let hour = Some(Lifetime::hours(1));
        let signed = self.sign_leaf(&key, &names, "trial", &profile, hour, now)?;
        Ok(signed.der)
    }

    /// Returns a request for an intermediate of a trust domain, in PEM. The request contains the
    /// extensions that [`CertificateAuthority::new_intermediate`] would write.
    pub(crate) fn request_intermediate(
        profile: &CertificateProfile,
        domain: &TrustDomain,
        key: &KeyPair,
    ) -> Result<String, AuthorityError> {
        let validity = Validity {
            not_before: 0,
            not_after: 0,
            cut: false,
        };
        let mut params = authority_params(profile, domain, &validity)?;
        // The root that signs the request sets these values. rcgen refuses to encode a request that
        // contains them.
        params.serial_number = None;
        params.crl_distribution_points = Vec::new();
        params.use_authority_key_identifier_extension = false;
        params.custom_extensions = vec![CustomExtension::from_oid_content(
            &SUBJECT_KEY_IDENTIFIER,
            der::element(OCTET_STRING, &[&params.key_identifier(key)]),
        )];
        Ok(params.serialize_request(key)?.pem()?)
    }

    /// Signs a revocation list and returns it in PEM.
    pub(crate) fn sign_list(
        &self,
        list: &RevocationList<'_>,
        now: i64,
    ) -> Result<String, AuthorityError> {
        self.certificate.check_time(now)?;
        let params = list.to_params(&self.certificate.key_identifier)?;
        Ok(params.signed_by(&self.issuer)?.pem()?)
    }

    /// Checks that rcgen copies the name of this authority unchanged as issuer name. Otherwise no
    /// certificate would have a path to this authority. The name can change if another program has
    /// made the authority.
    pub(crate) fn check_name(&self, now: i64) -> Result<(), AuthorityError> {
        let key = key::generate().map_err(Box::new)?;
        let validity = self.validity(Lifetime::hours(1), now)?;
        let mut params = base_params(&CertificateProfile::PEER, &validity)?;
        params.subject_alt_names = vec![SanType::DnsName("name.invalid".try_into()?)];
        self.sign(&params, &key, false).map(|_| ())
    }

    /// Returns the validity of a new certificate. The validity is always within the validity of
    /// this authority.
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
        // rcgen parses the issuer name and encodes it again. If an attribute occurs twice in the
        // name, rcgen loses one of the two. A certificate with such a changed issuer name would
        // have no valid path.
        if facts.issuer_der != self.certificate.subject_der {
            return Err(AuthorityError::IssuerName);
        }
        // The authority must not issue a certificate in which the lints find an error.
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

/// Returns the requested lifetime, or the default of the profile. Returns an error if it exceeds
/// the maximum of the profile.
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
        // All URLs lead to the same list, so one distribution point contains all of them.
        params.crl_distribution_points = vec![CrlDistributionPoint {
            uris: rules.crl_urls.clone(),
        }];
    }
    if !rules.issuer_urls.is_empty() {
        params.custom_extensions = vec![CustomExtension::from_oid_content(
            &AUTHORITY_INFO_ACCESS,
            authority_info_access(&rules.issuer_urls),
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
    // Gateways find issuers and revocation lists by name. So each authority gets a unique name, and
    // two generations never have the same name.
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

/// Returns a serial number of 16 random bytes. The first bit is zero, so that the number is
/// positive (RFC 5280 section 4.1.2.2). The first byte is not zero, so that the number always has
/// 16 bytes.
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
