//! [`Inventory`]: what a configuration brought along, summed up for people and
//! scripts. Nothing at run time depends on it.

use serde::Serialize;

use crate::clock;

/// What a configuration brought along, beside what the snapshot shows.
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
    /// Its name.
    pub name: String,
    /// Its root certificates.
    pub roots: Vec<CertificateSummary>,
    /// Its revocation lists.
    pub revocation_lists: Vec<CrlSummary>,
    /// `hard`, `soft` or `off`.
    pub revocation: &'static str,
    /// `chain` or `leaf`.
    pub revocation_depth: &'static str,
    /// The names that its authorities may vouch for.
    pub vouches_for: Vec<String>,
    /// The types of names that may name a caller.
    pub identity_from: Vec<&'static str>,
}

/// One certificate.
#[derive(Debug, Clone, Serialize)]
pub struct CertificateSummary {
    /// The file it stands in.
    pub file: String,
    /// Its subject, RFC 4514.
    pub subject: String,
    /// Its subject alternative names.
    pub names: String,
    /// Its end, RFC 3339.
    pub not_after: String,
}

/// One revocation list.
#[derive(Debug, Clone, Serialize)]
pub struct CrlSummary {
    /// The file it stands in.
    pub file: String,
    /// Its issuer, RFC 4514.
    pub issuer: String,
    /// When the next list is due, RFC 3339; none if the list does not say.
    pub next_update: Option<String>,
    /// How many certificates it revokes.
    pub revoked: usize,
}

impl CertificateSummary {
    pub(in crate::config) fn new(
        file: &std::path::Path,
        facts: &crate::identity::LeafFacts,
    ) -> Self {
        Self {
            file: file.display().to_string(),
            subject: crate::identity::text::printable(&facts.subject),
            names: facts.sans.summary(),
            not_after: clock::rfc3339(facts.not_after),
        }
    }
}
