//! `AuthorityFacts` and `RootSet`: the facts of issuer certificates, and the rules for issuers that
//! webpki does not check.
//!
//! This file does not verify signatures.

use std::fmt;

use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::extensions::{GeneralName, X509Extension};
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

use super::algorithm::{AlgorithmError, check_key, check_signature};
use super::constraints::IssuerConstraints;
use super::error::{PathError, in_words};
use super::purpose::PathPurpose;
use super::signed::SignedParts;
use crate::clock;
use crate::crypto;
use crate::identity::leaf::{key_usage, rfc4514, significant};
use crate::reason::ReasonCode;

/// The facts that the certificate of an authority contains.
#[derive(Debug, Clone)]
pub(crate) struct AuthorityFacts {
    pub(crate) subject: String,
    pub(crate) subject_der: Vec<u8>,
    /// SubjectPublicKeyInfo in DER.
    pub(crate) key: Vec<u8>,
    /// subjectKeyIdentifier. Used to explain refusals and to try likely issuers first. It is never
    /// a reason to accept a certificate.
    pub(crate) key_id: Option<Vec<u8>>,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) is_ca: bool,
    pub(crate) path_length: Option<u32>,
    pub(crate) self_issued: bool,
    pub(crate) constraints: IssuerConstraints,
    key_usage: Option<u16>,
    extended: Option<AnchorUsages>,
    empty_subject: bool,
    unknown_critical: Option<String>,
    demands_policies: bool,
    names_other_issuer: bool,
    key_error: Option<AlgorithmError>,
}

#[derive(Debug, Clone, Copy)]
struct AnchorUsages {
    client: bool,
    server: bool,
}

/// OIDs of extensions that may be critical in a root, because webpki or this module processes them:
/// keyUsage, subjectAltName, basicConstraints, nameConstraints, cRLDistributionPoints,
/// certificatePolicies, extendedKeyUsage. certificatePolicies is in the list because the policies
/// of a trust anchor have no effect (RFC 5280 section 6.1.1). webpki ignores all other extensions
/// of a root, so this module must refuse a root in which one of them is critical.
const PROCESSED: [&str; 7] = [
    "2.5.29.15",
    "2.5.29.17",
    "2.5.29.19",
    "2.5.29.30",
    "2.5.29.31",
    "2.5.29.32",
    "2.5.29.37",
];

impl AuthorityFacts {
    pub(crate) fn read(der: &[u8]) -> Result<Self, String> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| "it is not a certificate".to_owned())?;
        if !rest.is_empty() {
            return Err("bytes follow the certificate".to_owned());
        }
        let subject = certificate.subject();
        let mut facts = Self {
            subject: rfc4514(subject),
            subject_der: subject.as_raw().to_vec(),
            key: certificate.public_key().raw.to_vec(),
            key_id: None,
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            is_ca: false,
            path_length: None,
            self_issued: subject.as_raw() == certificate.issuer().as_raw(),
            constraints: IssuerConstraints::default(),
            key_usage: None,
            extended: None,
            empty_subject: subject.iter_rdn().next().is_none(),
            unknown_critical: None,
            demands_policies: false,
            names_other_issuer: false,
            key_error: check_key(certificate.public_key().raw).err(),
        };
        for (index, extension) in certificate.extensions().iter().enumerate() {
            // RFC 5280 section 4.2: a certificate must not contain an extension twice.
            if certificate
                .extensions()
                .iter()
                .take(index)
                .any(|earlier| earlier.oid == extension.oid)
            {
                return Err("one of its extensions stands twice".to_owned());
            }
            facts.note(extension)?;
        }
        facts.names_other_issuer = facts.self_issued && names_other_issuer(&certificate);
        Ok(facts)
    }

    fn note(&mut self, extension: &X509Extension<'_>) -> Result<(), String> {
        let oid = extension.oid.to_id_string();
        if extension.critical && !PROCESSED.contains(&oid.as_str()) {
            self.unknown_critical.get_or_insert(oid);
        }
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) => {
                self.is_ca = constraints.ca;
                self.path_length = constraints.path_len_constraint;
            }
            ParsedExtension::SubjectKeyIdentifier(id) => self.key_id = Some(id.0.to_vec()),
            ParsedExtension::KeyUsage(usage) => self.key_usage = Some(usage.flags),
            ParsedExtension::ExtendedKeyUsage(usages) => {
                self.extended = Some(AnchorUsages {
                    client: usages.client_auth || usages.any,
                    server: usages.server_auth || usages.any,
                });
            }
            ParsedExtension::NameConstraints(constraints) => {
                self.constraints = IssuerConstraints::read(constraints, extension.value)
                    .ok_or_else(|| "its name constraints are malformed".to_owned())?;
            }
            ParsedExtension::PolicyConstraints(_) => self.demands_policies = true,
            ParsedExtension::ParseError { .. } => {
                return Err("one of its extensions is malformed".to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn check_validity(&self, now: i64) -> Result<(), PathError> {
        if clock::certificate_is_over(self.not_after, now) {
            return Err((
                ReasonCode::CertificateExpired,
                format!(
                    "{} expired at {}",
                    self.subject,
                    clock::rfc3339(self.not_after)
                ),
            ));
        }
        if now < self.not_before {
            return Err((
                ReasonCode::CertificateNotYetValid,
                format!(
                    "{} is valid from {}",
                    self.subject,
                    clock::rfc3339(self.not_before)
                ),
            ));
        }
        Ok(())
    }

    /// Whether the authority may issue certificates at `now`. Checks the rules for one certificate,
    /// not the rules for a path, such as the path length.
    pub(crate) fn may_issue(&self, now: i64, purpose: PathPurpose) -> bool {
        self.is_ca
            && self.check_validity(now).is_ok()
            && self.allows(purpose)
            && self.check_as_issuer().is_ok()
    }

    fn allows(&self, purpose: PathPurpose) -> bool {
        self.extended.is_none_or(|usages| match purpose {
            PathPurpose::Client => usages.client,
            PathPurpose::Server => usages.server,
        })
    }

    /// Checks rules that every issuer in a path must follow and that webpki does not check.
    pub(crate) fn check_as_issuer(&self) -> Result<(), PathError> {
        // RFC 5280 section 4.2.1.3: an issuer needs keyCertSign.
        if !self.usage_allows(key_usage::KEY_CERT_SIGN) {
            return Err((
                ReasonCode::WrongUsage,
                format!(
                    "{} may not sign certificates: its key usage lacks keyCertSign (with openssl: \
                     -addext keyUsage=critical,keyCertSign,cRLSign)",
                    self.subject
                ),
            ));
        }
        self.check_key()?;
        // RFC 5280 section 4.1.2.6: the subject of an issuer must not be empty.
        if self.empty_subject {
            return Err((
                ReasonCode::MalformedIdentity,
                "an issuer in the path has an empty subject".to_owned(),
            ));
        }
        // RFC 5280 section 4.2.1.11: policyConstraints requires policy processing, which is not
        // supported. So the certificate is refused. webpki refuses it only if the extension is
        // critical.
        if self.demands_policies {
            return Err((
                ReasonCode::WrongUsage,
                format!(
                    "{} demands policy processing (policyConstraints), which is not supported",
                    self.subject
                ),
            ));
        }
        Ok(())
    }

    /// Checks that signatures can be verified under the authority's key.
    pub(crate) fn check_key(&self) -> Result<(), PathError> {
        match &self.key_error {
            None => Ok(()),
            Some(error) => Err(error.describe(&format!("the key of {}", self.subject))),
        }
    }

    /// Checks that the authority's key can be used, and that the provider supports the algorithm of
    /// the signature on the authority's certificate `der`.
    pub(crate) fn check_algorithms(&self, der: &[u8]) -> Result<(), PathError> {
        self.check_key()?;
        match SignedParts::read(der).map(|signed| check_signature(signed.algorithm)) {
            Some(Err(error)) => Err(error.describe(&format!("the signature of {}", self.subject))),
            _ => Ok(()),
        }
    }

    /// Checks a root: its validity dates, its usage, and the rules for issuers. webpki uses only
    /// the name, the key and the name constraints of a root.
    pub(crate) fn check_as_anchor(&self, now: i64, purpose: PathPurpose) -> Result<(), PathError> {
        self.check_validity(now)?;
        if self.names_other_issuer {
            return Err((
                ReasonCode::UnknownIssuer,
                format!(
                    "{} is self-issued but its authority key identifier names another certificate",
                    self.subject
                ),
            ));
        }
        self.check_usage(purpose)?;
        self.check_as_issuer()
    }

    /// Checks the rules for an authority's usage that webpki checks in intermediates, but not in an
    /// anchor.
    pub(crate) fn check_usage(&self, purpose: PathPurpose) -> Result<(), PathError> {
        if !self.is_ca {
            return Err((
                ReasonCode::WrongUsage,
                format!(
                    "{} is not a certificate authority (no CA:TRUE)",
                    self.subject
                ),
            ));
        }
        if let Some(oid) = &self.unknown_critical {
            return Err((
                ReasonCode::WrongUsage,
                format!(
                    "{} has a critical extension that is not supported ({oid})",
                    self.subject
                ),
            ));
        }
        if !self.allows(purpose) {
            return Err((
                ReasonCode::WrongUsage,
                format!(
                    "an extended key usage of {} does not allow this use",
                    self.subject
                ),
            ));
        }
        Ok(())
    }

    /// Whether keyUsage allows the authority to sign revocation lists (RFC 5280 section 4.2.1.3).
    pub(crate) fn signs_crls(&self) -> bool {
        self.usage_allows(key_usage::CRL_SIGN)
    }

    fn usage_allows(&self, bit: u16) -> bool {
        self.key_usage.is_none_or(|usage| usage & bit != 0)
    }
}

/// Whether the authorityKeyIdentifier of a self-issued certificate names another certificate as the
/// issuer (RFC 5280 section 4.2.1.1). This is so if the key identifier, name or serial number in
/// the extension differs from that of the certificate.
fn names_other_issuer(certificate: &X509Certificate<'_>) -> bool {
    let mut authority = None;
    let mut own = None;
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(identifier) => authority = Some(identifier),
            ParsedExtension::SubjectKeyIdentifier(identifier) => own = Some(identifier),
            _ => {}
        }
    }
    let Some(authority) = authority else {
        return false;
    };
    let other_key = authority
        .key_identifier
        .as_ref()
        .zip(own)
        .is_some_and(|(named, own)| named.0 != own.0);
    let other_serial = authority
        .authority_cert_serial
        .is_some_and(|serial| significant(serial) != significant(certificate.raw_serial()));
    let other_name = authority.authority_cert_issuer.iter().flatten().any(|name| {
        matches!(name, GeneralName::DirectoryName(name) if name.as_raw() != certificate.issuer().as_raw())
    });
    other_key || other_serial || other_name
}

/// A trusted root, with facts that webpki's trust anchor does not contain.
#[derive(Clone)]
pub(crate) struct Root {
    pub(crate) facts: AuthorityFacts,
    /// SHA-256 of the certificate's DER encoding.
    pub(crate) hash: [u8; 32],
}

/// The trusted roots of a bundle: the trust anchors for webpki, and the facts that the anchors do
/// not contain.
#[derive(Clone, Default)]
pub(crate) struct RootSet {
    /// The trust anchor of each root, in the order of `roots`.
    anchors: Vec<TrustAnchor<'static>>,
    roots: Vec<Root>,
}

impl RootSet {
    /// Adds a root. A certificate that is already in the set is not added again.
    pub(crate) fn add(
        &mut self,
        der: &CertificateDer<'_>,
        facts: AuthorityFacts,
    ) -> Result<(), String> {
        let anchor =
            webpki::anchor_from_trusted_cert(der).map_err(|error| in_words(&error).to_owned())?;
        let hash = crypto::sha256(der);
        if self.roots.iter().any(|root| root.hash == hash) {
            return Ok(());
        }
        self.anchors.push(anchor.to_owned());
        self.roots.push(Root { facts, hash });
        Ok(())
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    pub(crate) fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Returns the root of a trust anchor, which must be one of [`RootSet::anchors`].
    pub(crate) fn of_anchor(&self, anchor: &TrustAnchor<'_>) -> Option<&Root> {
        let index = self
            .anchors
            .iter()
            .position(|ours| std::ptr::eq(ours, anchor))?;
        self.roots.get(index)
    }
}

impl fmt::Debug for RootSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_list()
            .entries(self.roots.iter().map(|root| &root.facts.subject))
            .finish()
    }
}
