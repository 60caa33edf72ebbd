//! [`Inventory`]: a summary of a configuration's material, for people and scripts. Nothing at run
//! time depends on it.

use serde::Serialize;

use crate::clock;

/// The material of a configuration, in addition to the content of the snapshot.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Inventory {
    /// The server-name entries; the default entry has no names.
    pub server_names: Vec<ServerNameSummary>,
    /// The trust domains.
    pub trust_domains: Vec<TrustDomainSummary>,
}

/// One server-name entry.
#[derive(Debug, Clone, Serialize)]
pub struct ServerNameSummary {
    /// The names that select it; empty for the default entry.
    pub names: Vec<String>,
    /// Our certificate.
    pub certificate: CertificateSummary,
    /// `required` or `optional`.
    pub client_certificate: &'static str,
    /// The trust domains it accepts.
    pub trust_domains: Vec<String>,
}

/// One trust domain.
#[derive(Debug, Clone, Serialize)]
pub struct TrustDomainSummary {
    /// The name of the domain.
    pub name: String,
    /// The root certificates of the domain.
    pub roots: Vec<CertificateSummary>,
    /// The revocation lists of the domain.
    pub revocation_lists: Vec<CrlSummary>,
    /// `hard`, `soft` or `off`.
    pub revocation: &'static str,
    /// `chain` or `leaf`.
    pub revocation_depth: &'static str,
    /// The names that its authorities may certify.
    pub vouches_for: Vec<String>,
    /// The types of names that may name a caller.
    pub identity_from: Vec<&'static str>,
}

/// One certificate.
#[derive(Debug, Clone, Serialize)]
pub struct CertificateSummary {
    /// The file that contains the certificate.
    pub file: String,
    /// The subject, RFC 4514.
    pub subject: String,
    /// The subject alternative names.
    pub names: String,
    /// The end of the validity, RFC 3339.
    pub not_after: String,
}

/// One revocation list.
#[derive(Debug, Clone, Serialize)]
pub struct CrlSummary {
    /// The file that contains the list.
    pub file: String,
    /// The issuer, RFC 4514.
    pub issuer: String,
    /// When the next list is due, RFC 3339; none if the list does not say.
    pub next_update: Option<String>,
    /// Number of certificates that the list revokes.
    pub revoked: usize,
}

impl CertificateSummary {
    pub(crate) fn new(file: &std::path::Path, facts: &crate::identity::LeafFacts) -> Self {
        Self {
            file: file.display().to_string(),
            subject: crate::identity::text::printable(&facts.subject),
            names: facts.sans.summary(),
            not_after: clock::rfc3339(facts.not_after),
        }
    }
}
