//! [`Inventory`]: a summary of a configuration's certificates and CRLs, which `countersign check`
//! prints. The running gateway does not use it.

use serde::Serialize;

use crate::clock;

/// The summary of certificates and CRLs. Only `countersign check` uses it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Inventory {
    /// One entry for `[listener]`, which has no names, and one for each `[[server_name]]`.
    pub server_names: Vec<ServerNameSummary>,
    /// One entry for each `[[trust_domain]]`.
    pub trust_domains: Vec<TrustDomainSummary>,
}

/// The certificate and the trust domains that apply to some TLS server names.
#[derive(Debug, Clone, Serialize)]
pub struct ServerNameSummary {
    /// The TLS server names of a `[[server_name]]`. Empty for `[listener]`.
    pub names: Vec<String>,
    /// The certificate that the gateway presents.
    pub certificate: CertificateSummary,
    /// Whether callers need a certificate: `required` or `optional`.
    pub client_certificate: &'static str,
    /// The names of the trust domains whose certificates are accepted under these server names.
    pub trust_domains: Vec<String>,
}

/// What `countersign check` prints about one trust domain.
#[derive(Debug, Clone, Serialize)]
pub struct TrustDomainSummary {
    /// The name of the trust domain.
    pub name: String,
    /// The root certificates of the domain.
    pub roots: Vec<CertificateSummary>,
    /// The revocation lists of the domain.
    pub revocation_lists: Vec<CrlSummary>,
    /// The revocation posture: `hard`, `soft` or `off`.
    pub revocation: &'static str,
    /// Which certificates are checked for revocation: `chain` or `leaf`.
    pub revocation_depth: &'static str,
    /// The patterns of names that the authorities of the domain may certify.
    pub vouches_for: Vec<String>,
    /// The types of certificate names that can name a caller.
    pub identity_from: Vec<&'static str>,
}

/// What `countersign check` prints about one certificate.
#[derive(Debug, Clone, Serialize)]
pub struct CertificateSummary {
    /// The path of the file that contains the certificate.
    pub file: String,
    /// The subject in the form of RFC 4514.
    pub subject: String,
    /// The subject alternative names.
    pub names: String,
    /// When the certificate expires, in RFC 3339 format.
    pub not_after: String,
}

/// What `countersign check` prints about one revocation list.
#[derive(Debug, Clone, Serialize)]
pub struct CrlSummary {
    /// The path of the file that contains the list, or the URL of the list.
    pub file: String,
    /// The issuer in the form of RFC 4514.
    pub issuer: String,
    /// When a newer list must replace this list, in RFC 3339 format: nextUpdate, or else `max_age`
    /// after thisUpdate. `None` if the list has no nextUpdate and `max_age` is not configured.
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
