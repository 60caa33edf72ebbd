//! `TrustBundle`: roots, revocation lists and posture of one trust domain, and
//! the names they may vouch for.

use std::fmt;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList};

use super::path::{AuthorityFacts, Check};
use crate::crypto;
use crate::identity::{IdentityPattern, NameType, TrustDomain};

/// What an unknown or stale revocation status means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationPosture {
    /// Refuse.
    Hard,
    /// Allow, and say so.
    Soft,
    /// Revocation is not checked.
    Off,
}

/// Which certificates of a path are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationDepth {
    /// The leaf and every intermediate.
    Chain,
    /// The leaf alone.
    Leaf,
}

/// Everything a [`TrustBundle`] is built from.
#[derive(Debug, Clone)]
pub struct TrustBundleConfig {
    /// The trust domain's name.
    pub name: TrustDomain,
    /// Root certificates, DER.
    pub roots: Vec<CertificateDer<'static>>,
    /// Intermediates that callers need not send, DER.
    pub intermediates: Vec<CertificateDer<'static>>,
    /// Revocation lists, DER.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// What unknown or stale revocation status means.
    pub posture: RevocationPosture,
    /// Which certificates are looked up.
    pub depth: RevocationDepth,
    /// The names its authorities may vouch for.
    pub vouches_for: Vec<IdentityPattern>,
    /// Name types that may name a caller, most preferred first.
    pub identity_from: Vec<NameType>,
}

/// Why a bundle cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// A root certificate cannot be read or is no certificate authority.
    #[error("root certificate {index} of trust domain {domain}: {why}")]
    Root {
        /// The trust domain.
        domain: String,
        /// Position among the roots, from 1.
        index: usize,
        /// What is wrong.
        why: String,
    },
    /// No root is valid now.
    #[error("trust domain {domain} has no root certificate that is valid now: {why}")]
    NoValidRoot {
        /// The trust domain.
        domain: String,
        /// What is wrong with the ones there are.
        why: String,
    },
    /// A revocation list cannot be read.
    #[error("revocation list {index} of trust domain {domain}: {why}")]
    RevocationList {
        /// The trust domain.
        domain: String,
        /// Position among the lists, from 1.
        index: usize,
        /// What is wrong.
        why: String,
    },
    /// The posture needs lists and there are none.
    #[error(
        "trust domain {domain} checks revocation but has no revocation list; add crls or say revocation = \"off\""
    )]
    NoRevocationList {
        /// The trust domain.
        domain: String,
    },
}

/// One trusted root with the facts that a bare trust anchor lacks.
pub(super) struct Root {
    pub(super) facts: AuthorityFacts,
    /// SHA-256 of the certificate's DER encoding.
    pub(super) hash: [u8; 32],
}

/// Roots, revocation lists, posture and permitted names of one trust domain.
pub struct TrustBundle {
    pub(super) name: TrustDomain,
    /// Parallel to `roots`.
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    pub(super) roots: Vec<Root>,
    pub(super) intermediates: Vec<CertificateDer<'static>>,
    pub(super) crls: Vec<CertRevocationList<'static>>,
    pub(super) posture: RevocationPosture,
    pub(super) depth: RevocationDepth,
    pub(super) vouches_for: Vec<IdentityPattern>,
    pub(super) identity_from: Vec<NameType>,
    alarms: Vec<String>,
}

impl TrustBundle {
    /// Reads roots and lists and drops roots that are not valid at `now`
    /// (seconds since the Unix epoch), with an alarm each.
    ///
    /// # Errors
    /// When a root or list is malformed, no valid root remains, or revocation
    /// is to be checked without any list.
    pub fn build(config: TrustBundleConfig, now: i64) -> Result<Self, BundleError> {
        let domain = config.name.to_string();
        let mut bundle = Self {
            name: config.name,
            anchors: Vec::new(),
            roots: Vec::new(),
            intermediates: config.intermediates,
            crls: Vec::new(),
            posture: config.posture,
            depth: config.depth,
            vouches_for: config.vouches_for,
            identity_from: config.identity_from,
            alarms: Vec::new(),
        };
        for (position, der) in config.roots.iter().enumerate() {
            let index = position + 1;
            if let Err(why) = bundle.add_root(der, now) {
                return Err(BundleError::Root { domain, index, why });
            }
        }
        if bundle.anchors.is_empty() {
            let why = if bundle.alarms.is_empty() {
                "there is none".to_owned()
            } else {
                bundle.alarms.join("; ")
            };
            return Err(BundleError::NoValidRoot { domain, why });
        }
        if bundle.posture != RevocationPosture::Off {
            if config.crls.is_empty() {
                return Err(BundleError::NoRevocationList { domain });
            }
            for (position, der) in config.crls.iter().enumerate() {
                let list = OwnedCertRevocationList::from_der(der).map_err(|error| {
                    BundleError::RevocationList {
                        domain: domain.clone(),
                        index: position + 1,
                        why: error.to_string(),
                    }
                })?;
                bundle.crls.push(list.into());
            }
        }
        Ok(bundle)
    }

    fn add_root(&mut self, der: &CertificateDer<'static>, now: i64) -> Result<(), String> {
        let facts = AuthorityFacts::read(der)?;
        if !facts.is_ca {
            return Err(format!(
                "{} is not a certificate authority (no CA:TRUE)",
                facts.subject
            ));
        }
        if let Check::Refused(_, why) = facts.check_validity(now) {
            self.alarms
                .push(format!("root {} was left out: {why}", facts.subject));
            return Ok(());
        }
        let anchor = webpki::anchor_from_trusted_cert(der).map_err(|error| error.to_string())?;
        let hash = crypto::sha256(der);
        if self.roots.iter().any(|root| root.hash == hash) {
            return Ok(());
        }
        self.anchors.push(anchor.to_owned());
        self.roots.push(Root { facts, hash });
        Ok(())
    }

    /// The trust domain's name.
    #[must_use]
    pub const fn name(&self) -> &TrustDomain {
        &self.name
    }

    /// Conditions an operator should know of, for example an expired root.
    #[must_use]
    pub fn alarms(&self) -> &[String] {
        &self.alarms
    }

    /// The posture towards unknown revocation status.
    #[must_use]
    pub const fn posture(&self) -> RevocationPosture {
        self.posture
    }

    /// Subject and key of every anchor, to find one shared between bundles.
    pub fn anchor_keys(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.anchors.iter().map(|anchor| {
            (
                anchor.subject.as_ref(),
                anchor.subject_public_key_info.as_ref(),
            )
        })
    }

    /// Names of the anchors in DER, for the CertificateRequest message.
    pub fn anchor_subjects(&self) -> impl Iterator<Item = &[u8]> {
        self.roots
            .iter()
            .map(|root| root.facts.subject_der.as_slice())
    }

    /// The names its authorities may vouch for.
    #[must_use]
    pub fn vouches_for(&self) -> &[IdentityPattern] {
        &self.vouches_for
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TrustBundle")
            .field("name", &self.name)
            .field("roots", &self.roots.len())
            .field("crls", &self.crls.len())
            .field("posture", &self.posture)
            .finish_non_exhaustive()
    }
}
