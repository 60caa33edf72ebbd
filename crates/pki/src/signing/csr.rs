//! `SigningRequest`: the key and the names of a PKCS#10 request (RFC 2986).
//!
//! Only the key and the names are taken from the request. The profile decides usages, lifetime,
//! constraints and subject. The parser of rcgen is not used, because it copies `CA:TRUE` from the
//! request into the certificate.

use std::net::IpAddr;

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use super::names::{RequestError, SubjectNames};
use crate::identity::leaf::{key_usage, rfc4514};
use crate::identity::text::printable;
use crate::pem;
use crate::reason::ReasonCode;
use crate::trust::{SignedParts, check_key, check_signature};

/// The reason why a PKCS#10 request cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SigningRequestError {
    /// The content is not a PKCS#10 request, or it is damaged. The text says what is wrong.
    #[error("it is not a PKCS#10 request in PEM or DER form: {0}")]
    Unreadable(String),
    /// The request has an invalid signature, or the gateway would refuse the certificate.
    #[error(transparent)]
    Refused(#[from] RequestError),
}

/// A PKCS#10 request whose signature was verified.
#[derive(Debug)]
pub struct SigningRequest {
    pub(crate) key: SubjectPublicKeyInfo,
    names: SubjectNames,
    subject: String,
    ignored: Vec<String>,
}

impl SigningRequest {
    /// Reads a PKCS#10 request in PEM or DER form and verifies its signature.
    ///
    /// # Errors
    /// If the request cannot be parsed, if its signature is invalid, if its key is too weak, or if
    /// it requests the rights of an authority.
    pub fn read(content: &[u8]) -> Result<Self, SigningRequestError> {
        let der = pem::request(content).map_err(|error| {
            SigningRequestError::Unreadable(format!("{error}; {}", error.remedy()))
        })?;
        let unreadable = |why: &str| SigningRequestError::Unreadable(why.to_owned());
        let (rest, request) = X509CertificationRequest::from_der(&der)
            .map_err(|_| unreadable("its encoding is damaged"))?;
        if !rest.is_empty() {
            return Err(unreadable("bytes follow it"));
        }
        let info = &request.certification_request_info;
        let key = usable_key(&info.subject_pki)?;
        check_possession(&der, &request)?;
        let mut read = Self {
            key,
            names: SubjectNames::new(),
            subject: rfc4514(&info.subject),
            ignored: Vec::new(),
        };
        let mut has_names = false;
        for attribute in info.iter_attributes() {
            match attribute.parsed_attribute() {
                ParsedCriAttribute::ExtensionRequest(requested) => {
                    for extension in &requested.extensions {
                        read.take(extension, &mut has_names)?;
                    }
                }
                ParsedCriAttribute::ChallengePassword(_) => {}
                _ => read
                    .ignored
                    .push(format!("attribute {}", attribute.oid.to_id_string())),
            }
        }
        Ok(read)
    }

    /// Returns the names in the request.
    #[must_use]
    pub const fn names(&self) -> &SubjectNames {
        &self.names
    }

    /// Returns the subject of the request in RFC 4514 form. The certificate gets another subject.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Returns descriptions of what the request contains but the certificate will not contain.
    #[must_use]
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    fn take(
        &mut self,
        extension: &X509Extension<'_>,
        has_names: &mut bool,
    ) -> Result<(), RequestError> {
        let wrong_usage = |what: &str| {
            Err(RequestError::new(
                ReasonCode::WrongUsage,
                format!("the request asks for {what}; authorities are made with pki init"),
            ))
        };
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                if std::mem::replace(has_names, true) {
                    return Err(RequestError::new(
                        ReasonCode::MalformedIdentity,
                        "the request has two lists of subject alternative names",
                    ));
                }
                for name in &names.general_names {
                    self.take_name(name)?;
                }
            }
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                return wrong_usage("the rights of an authority (CA:TRUE)");
            }
            ParsedExtension::BasicConstraints(_) => {}
            ParsedExtension::KeyUsage(usage) if usage.flags & key_usage::OF_AUTHORITIES != 0 => {
                return wrong_usage("the right to sign certificates or revocation lists");
            }
            ParsedExtension::KeyUsage(_) => self.ignored.push("key usage".to_owned()),
            ParsedExtension::ExtendedKeyUsage(_) => {
                self.ignored.push("extended key usage".to_owned());
            }
            ParsedExtension::SubjectKeyIdentifier(_) => {
                self.ignored.push("subject key identifier".to_owned());
            }
            ParsedExtension::ParseError { .. } => {
                return Err(RequestError::new(
                    ReasonCode::MalformedIdentity,
                    format!(
                        "extension {} of the request is malformed",
                        extension.oid.to_id_string()
                    ),
                ));
            }
            _ => self
                .ignored
                .push(format!("extension {}", extension.oid.to_id_string())),
        }
        Ok(())
    }

    fn take_name(&mut self, name: &GeneralName<'_>) -> Result<(), RequestError> {
        let names = std::mem::take(&mut self.names);
        self.names = match name {
            GeneralName::URI(uri) => names.uri(uri)?,
            GeneralName::DNSName(dns) => names.dns(dns)?,
            GeneralName::RFC822Name(address) => names.email(address)?,
            GeneralName::IPAddress(octets) => match ip_address(octets) {
                Some(address) => names.ip(address),
                None => {
                    return Err(RequestError::new(
                        ReasonCode::MalformedIdentity,
                        "an IP address in the request has neither 4 nor 16 octets",
                    ));
                }
            },
            GeneralName::Invalid(..) => {
                return Err(RequestError::new(
                    ReasonCode::MalformedIdentity,
                    "a name in the request is malformed",
                ));
            }
            other => {
                self.ignored
                    .push(format!("name {}", printable(&other.to_string())));
                names
            }
        };
        Ok(())
    }
}

fn ip_address(octets: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(octets)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .ok()
}

/// Checks the signature, which proves that the requester has the private key. Without this check, a
/// requester could get a certificate for the key of someone else.
fn check_possession(
    der: &[u8],
    request: &X509CertificationRequest<'_>,
) -> Result<(), RequestError> {
    let key = request.certification_request_info.subject_pki.raw;
    let signed = SignedParts::read(der);
    // One of two verifiers must accept the signature, because they support different algorithms.
    if request.verify_signature().is_ok() || signed.is_some_and(|signed| signed.is_signed_by(key)) {
        return Ok(());
    }
    if let Some(Err(error)) = signed.map(|signed| check_signature(signed.algorithm)) {
        let (reason, message) = error.describe("the request's signature");
        return Err(RequestError::new(
            reason,
            format!(
                "{message}; make the request again with SHA-256 and without RSA-PSS, for example \
                 openssl req -new -sha256 -key KEY"
            ),
        ));
    }
    Err(RequestError::new(
        ReasonCode::BadSignature,
        "the request's signature does not verify: it was altered, or signed with another key",
    ))
}

/// Returns the key if the gateway accepts it and this build can certify it.
fn usable_key(
    info: &x509_parser::x509::SubjectPublicKeyInfo<'_>,
) -> Result<SubjectPublicKeyInfo, RequestError> {
    const KEYS: &str = "use P-256, P-384, Ed25519 or RSA with 2048 to 8192 bits";
    check_key(info.raw).map_err(|error| {
        let (reason, message) = error.describe("the request's key");
        RequestError::new(reason, format!("{message}; {KEYS}"))
    })?;
    if let Ok(PublicKey::RSA(key)) = info.parsed()
        && !key.try_exponent().is_ok_and(is_sound)
    {
        return Err(RequestError::new(
            ReasonCode::WeakKey,
            "the request's key is too weak: its exponent is even or less than 65537",
        ));
    }
    SubjectPublicKeyInfo::from_der(info.raw).map_err(|_| {
        RequestError::new(
            ReasonCode::UnsupportedKey,
            format!("the request's key is of a kind that this build cannot certify; {KEYS}"),
        )
    })
}

/// Whether an RSA public exponent is odd and at least 65537 (FIPS 186-5 appendix A.1.1).
const fn is_sound(exponent: u64) -> bool {
    exponent >= 65_537 && exponent % 2 == 1
}

#[cfg(test)]
#[path = "csr/tests.rs"]
mod tests;
