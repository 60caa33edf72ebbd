//! `Block`: one block of a PEM file. `Wanted`: the kind of block that a file must contain.

use zeroize::Zeroizing;

pub(super) const CERTIFICATE: &str = "CERTIFICATE";
pub(super) const REVOCATION_LIST: &str = "X509 CRL";
pub(super) const REQUEST: &str = "CERTIFICATE REQUEST";

/// A decoded block of a PEM file: the lines from `-----BEGIN` to `-----END`.
pub struct Block {
    pub(super) label: String,
    /// Line number of the `-----BEGIN` line in the file. The first line is 1.
    pub(super) line: usize,
    /// The decoded base64. The bytes are wiped on drop because they may be a private key.
    pub(super) der: Zeroizing<Vec<u8>>,
}

impl Block {
    /// Returns the label, which stands after `-----BEGIN`: printable ASCII without dashes.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Returns the decoded content of the block.
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

/// The kind of block that a file must contain.
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
