//! `LeafPathFacts`: the facts about a leaf that path verification needs, and the rules for leaves
//! that webpki does not check.
//!
//! The caller's name is not determined here, but in the module `caller_name` of [`crate::trust`].

use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

use super::algorithm::{AlgorithmError, check_key};
use super::constraints::CarriedNames;
use super::error::PathError;
use super::purpose::PathPurpose;
use crate::identity::leaf::key_usage;
use crate::reason::ReasonCode;

/// The keyUsage bits keyEncipherment (2) and keyAgreement (4). The certificate of a TLS 1.2 server
/// may have one of these bits instead of digitalSignature.
const KEY_ENCIPHERMENT: u16 = 1 << 2;
const KEY_AGREEMENT: u16 = 1 << 4;

/// The facts about a leaf certificate that path verification needs.
pub(crate) struct LeafPathFacts {
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) names: CarriedNames,
    key_usage: Option<u16>,
    is_ca: bool,
    constrains_names: bool,
    demands_policies: bool,
    key_error: Option<AlgorithmError>,
}

impl LeafPathFacts {
    pub(crate) fn read(der: &[u8]) -> Result<Self, PathError> {
        let malformed = |why: &str| (ReasonCode::MalformedIdentity, why.to_owned());
        let (_, leaf) = X509Certificate::from_der(der)
            .map_err(|_| malformed("the leaf cannot be read: it is not a certificate"))?;
        let mut facts = Self {
            not_before: leaf.validity().not_before.timestamp(),
            not_after: leaf.validity().not_after.timestamp(),
            names: CarriedNames::default(),
            key_usage: None,
            is_ca: false,
            constrains_names: false,
            demands_policies: false,
            key_error: check_key(leaf.public_key().raw).err(),
        };
        facts.names.note_subject(leaf.subject());
        for extension in leaf.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(constraints) => facts.is_ca = constraints.ca,
                ParsedExtension::KeyUsage(bits) => facts.key_usage = Some(bits.flags),
                ParsedExtension::SubjectAlternativeName(names) => {
                    for name in &names.general_names {
                        facts.names.note(name);
                    }
                }
                ParsedExtension::NameConstraints(_) => facts.constrains_names = true,
                ParsedExtension::PolicyConstraints(_) => facts.demands_policies = true,
                ParsedExtension::ParseError { .. } => {
                    return Err(malformed("one of the leaf's extensions is malformed"));
                }
                _ => {}
            }
        }
        Ok(facts)
    }

    pub(crate) fn check(&self, purpose: PathPurpose) -> Result<(), PathError> {
        let refuse = |reason, why: &str| Err((reason, why.to_owned()));
        if let Some(error) = &self.key_error {
            return Err(error.describe("the leaf's key"));
        }
        // RFC 5280 section 4.2.1.10: only CA certificates may contain name constraints.
        if self.constrains_names {
            return refuse(
                ReasonCode::NameConstraint,
                "the leaf carries name constraints, which only an authority may",
            );
        }
        // RFC 5280 section 6.1.5 (b): policyConstraints has an effect even in a leaf. The gateway
        // does not support it, so it refuses the leaf.
        if self.demands_policies {
            return refuse(
                ReasonCode::WrongUsage,
                "the leaf demands policy processing (policyConstraints), which is not supported",
            );
        }
        // webpki also refuses a leaf with CA:TRUE. The check is repeated here, so the gateway does
        // not rely on webpki alone.
        if self.is_ca {
            return refuse(
                ReasonCode::WrongUsage,
                "the leaf is an authority's certificate (CA:TRUE)",
            );
        }
        let Some(usage) = self.key_usage else {
            return Ok(());
        };
        if usage & key_usage::OF_AUTHORITIES != 0 {
            return refuse(
                ReasonCode::WrongUsage,
                "the leaf may sign certificates or revocation lists (keyCertSign or cRLSign)",
            );
        }
        let needed = match purpose {
            PathPurpose::Client => key_usage::DIGITAL_SIGNATURE,
            PathPurpose::Server => key_usage::DIGITAL_SIGNATURE | KEY_ENCIPHERMENT | KEY_AGREEMENT,
        };
        if usage & needed == 0 {
            return refuse(
                ReasonCode::WrongUsage,
                "the leaf's key usage lacks digitalSignature",
            );
        }
        Ok(())
    }
}
