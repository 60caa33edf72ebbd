//! `AuthorityCertificate`: the parsed and checked certificate of an authority.
//!
//! [`super::authority`] adds the private key and signs. `crate::trust` decides which authorities
//! the gateway trusts.

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::error::AuthorityError;
use crate::clock;
use crate::identity::text::hex;
use crate::identity::{LeafFacts, SpiffeId, TrustDomain};

const NO_CA: &str = "basicConstraints does not say CA; make it again, a root by openssl req -x509 \
    with -addext basicConstraints=critical,CA:TRUE, an intermediate by openssl x509 -req with \
    -copy_extensions copy";
const NO_KEY_USAGE: &str = "keyUsage lacks keyCertSign or cRLSign; make it again, a root by openssl \
    req -x509 with -addext keyUsage=critical,keyCertSign,cRLSign, an intermediate by openssl x509 \
    -req with -copy_extensions copy";
const NO_KEY_IDENTIFIER: &str = "it has no subject key identifier; make it again, a root by openssl \
    req -x509 with -addext subjectKeyIdentifier=hash, an intermediate by openssl x509 -req with \
    -copy_extensions copy";

/// The certificate of an authority, and the facts in it.
#[derive(Debug, Clone)]
pub struct AuthorityCertificate {
    pub(super) der: CertificateDer<'static>,
    pub(super) facts: LeafFacts,
    pub(super) subject_der: Vec<u8>,
    pub(super) public_key_der: Vec<u8>,
    pub(super) key_identifier: Vec<u8>,
    pub(super) path_length: Option<u32>,
    pub(super) trust_domain: TrustDomain,
    has_name_constraints: bool,
}

impl AuthorityCertificate {
    /// Parses a certificate. Checks that the certificate belongs to an authority, and that its
    /// SPIFFE ID names a trust domain.
    ///
    /// # Errors
    /// If the certificate cannot be parsed, does not belong to an authority, or contains no trust
    /// domain.
    pub fn read(der: CertificateDer<'static>) -> Result<Self, AuthorityError> {
        Self::read_for(der, None)
    }

    /// Same as [`AuthorityCertificate::read`], but the certificate may contain no SPIFFE ID. Its
    /// trust domain is then `domain`.
    ///
    /// # Errors
    /// Same as [`AuthorityCertificate::read`].
    pub fn read_for(
        der: CertificateDer<'static>,
        domain: Option<&TrustDomain>,
    ) -> Result<Self, AuthorityError> {
        use AuthorityError::NotAnAuthority;
        let facts =
            LeafFacts::read(&der).map_err(|error| AuthorityError::Unreadable(error.to_string()))?;
        let (_, certificate) = X509Certificate::from_der(&der)
            .map_err(|error| AuthorityError::Unreadable(error.to_string()))?;
        let mut path_length = None;
        let mut key_identifier = None;
        let mut uris = Vec::new();
        let mut has_name_constraints = false;
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
                ParsedExtension::NameConstraints(_) => has_name_constraints = true,
                _ => {}
            }
        }
        if !facts.is_ca {
            return Err(NotAnAuthority(NO_CA));
        }
        // RFC 5280 section 4.2.1.3: an authority needs keyCertSign to sign certificates, and
        // cRLSign to sign revocation lists.
        let needed = crate::identity::leaf::key_usage::KEY_CERT_SIGN
            | crate::identity::leaf::key_usage::CRL_SIGN;
        if facts.key_usage.is_none_or(|bits| bits & needed != needed) {
            return Err(NotAnAuthority(NO_KEY_USAGE));
        }
        let key_identifier = key_identifier.ok_or(NotAnAuthority(NO_KEY_IDENTIFIER))?;
        // X509-SVID section 4.1: the SPIFFE ID of an authority is the SPIFFE ID of its trust
        // domain, without a path.
        let trust_domain = match uris.as_slice() {
            [uri] => SpiffeId::parse(uri)
                .ok()
                .filter(|id| id.path().is_empty())
                .map(|id| id.trust_domain().clone()),
            [] => domain.cloned(),
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
            has_name_constraints,
            der,
        })
    }

    /// Returns the certificate in DER.
    #[must_use]
    pub const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Returns the facts in the certificate.
    #[must_use]
    pub const fn facts(&self) -> &LeafFacts {
        &self.facts
    }

    /// Returns the subject in DER.
    #[must_use]
    pub fn subject_der(&self) -> &[u8] {
        &self.subject_der
    }

    /// Returns the public key: SubjectPublicKeyInfo in DER.
    pub(crate) fn public_key_der(&self) -> &[u8] {
        &self.public_key_der
    }

    /// Returns the trust domain for which the authority issues certificates.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Returns the subject key identifier in hexadecimal.
    #[must_use]
    pub fn key_identifier_hex(&self) -> String {
        hex(&self.key_identifier)
    }

    /// Whether the certificate is a root: its own key has signed it.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.has_signed(&self.der)
    }

    /// Whether this authority has signed the certificate `der`. Compares the issuer name, and
    /// verifies the signature.
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

    /// Whether the certificate limits how many authorities may follow below it.
    #[must_use]
    pub const fn has_path_length(&self) -> bool {
        self.path_length.is_some()
    }

    /// Whether the certificate limits the names in the certificates below it.
    pub(crate) const fn has_name_constraints(&self) -> bool {
        self.has_name_constraints
    }

    /// Whether both certificates belong to one authority: they have the same subject and key. One
    /// of them can be a renewal of the other.
    pub(crate) fn is_same_authority(&self, other: &Self) -> bool {
        self.subject_der == other.subject_der && self.public_key_der == other.public_key_der
    }

    /// Whether gateways could mistake one of the authorities for the other. Gateways find issuers and
    /// their revocation lists by name, key and key identifier, so two authorities may share none of
    /// them.
    pub(crate) fn is_confusable_with(&self, other: &Self) -> bool {
        self.subject_der == other.subject_der
            || self.public_key_der == other.public_key_der
            || self.key_identifier == other.key_identifier
    }

    /// Checks that the certificate is valid at `now`.
    pub(crate) fn check_time(&self, now: i64) -> Result<(), AuthorityError> {
        if clock::certificate_is_over(self.facts.not_after, now) {
            return Err(AuthorityError::Expired(self.facts.not_after));
        }
        if now < self.facts.not_before {
            return Err(AuthorityError::NotYetValid(self.facts.not_before));
        }
        Ok(())
    }
}
