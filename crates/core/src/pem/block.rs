//! `Block`: one block of a PEM file, and what a file is expected to hold.

use zeroize::Zeroizing;

pub(super) const CERTIFICATE: &str = "CERTIFICATE";
pub(super) const REVOCATION_LIST: &str = "X509 CRL";
pub(super) const REQUEST: &str = "CERTIFICATE REQUEST";

/// One block.
pub struct Block {
    pub(super) label: String,
    /// The number of its first line, from 1.
    pub(super) line: usize,
    /// Wiped when dropped: it may be a private key.
    pub(super) der: Zeroizing<Vec<u8>>,
}

impl Block {
    /// What stands after `-----BEGIN`: printable ASCII without dashes.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What it holds.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    pub(super) fn into_der(mut self) -> Vec<u8> {
        std::mem::take(&mut *self.der)
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Block")
            .field("label", &self.label)
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

/// What a file is expected to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Certificate,
    RevocationList,
    Request,
    PrivateKey,
}

impl Wanted {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Certificate => CERTIFICATE,
            Self::RevocationList => REVOCATION_LIST,
            Self::Request => REQUEST,
            Self::PrivateKey => "PRIVATE KEY",
        }
    }

    pub(super) const fn noun(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::RevocationList => "revocation list",
            Self::Request => "request",
            Self::PrivateKey => "private key",
        }
    }
}
