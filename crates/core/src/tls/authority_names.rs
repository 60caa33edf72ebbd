//! `AuthorityNames`: the certificate authorities that the gateway names when it asks for a
//! certificate.
//!
//! Many clients send a certificate only if the name of its issuer is among them (RFC 8446 section
//! 4.2.4). If there are no names, they send whatever certificate they have.

use std::collections::HashSet;

use crate::trust::ClientTrust;

/// The largest size of all names together, in bytes. Java refuses a message of more than 32 KiB.
pub const MAX_AUTHORITY_NAMES: usize = 30 * 1024;

/// The names for one CertificateRequest message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthorityNames {
    /// The name of each root and each configured intermediate, once, DER.
    All(Vec<Vec<u8>>),
    /// The names have this size, and none is sent. A part of them would keep the other callers from
    /// sending their certificates.
    TooLong(usize),
}

impl AuthorityNames {
    /// Collects the names of all bundles that are accepted.
    #[must_use]
    pub fn of(trust: &ClientTrust) -> Self {
        let mut names = Vec::new();
        let mut seen = HashSet::new();
        for name in trust.bundles().iter().flat_map(|one| one.authority_names()) {
            if seen.insert(name.clone()) {
                names.push(name);
            }
        }
        // Each name has a length of two bytes before it.
        let size: usize = names.iter().map(|name| name.len() + 2).sum();
        if size > MAX_AUTHORITY_NAMES {
            return Self::TooLong(size);
        }
        Self::All(names)
    }
}
