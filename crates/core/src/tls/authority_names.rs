//! `AuthorityNames`: the names of certificate authorities that the gateway sends when it requests a
//! certificate.
//!
//! Many clients send a certificate only if the name of its issuer is in the request (RFC 8446
//! section 4.2.4). If the request contains no names, these clients send any certificate that they
//! have.

use std::collections::HashSet;

use crate::trust::ClientTrust;

/// Maximum total size of the names, in bytes. Java clients refuse a message of more than 32 KiB.
pub const MAX_AUTHORITY_NAMES: usize = 30 * 1024;

/// The names for one CertificateRequest message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthorityNames {
    /// The names of all roots and configured intermediates in DER, without duplicates.
    All(Vec<Vec<u8>>),
    /// The names together have this size in bytes, which is too large, so no name is sent. If only
    /// some names were sent, callers of the other authorities would send no certificate.
    TooLong(usize),
}

impl AuthorityNames {
    /// Collects the names of the authorities of all bundles in `trust`.
    #[must_use]
    pub fn of(trust: &ClientTrust) -> Self {
        let mut names = Vec::new();
        let mut seen = HashSet::new();
        for name in trust.bundles().iter().flat_map(|one| one.authority_names()) {
            if seen.insert(name.clone()) {
                names.push(name);
            }
        }
        // In the message, each name follows its length, which has two bytes.
        let size: usize = names.iter().map(|name| name.len() + 2).sum();
        if size > MAX_AUTHORITY_NAMES {
            return Self::TooLong(size);
        }
        Self::All(names)
    }
}
